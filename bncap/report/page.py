"""The report: one HTML file with every table, figure and reading, from saved CSV, JSON and PNG files alone."""

from __future__ import annotations

import base64
from pathlib import Path

import pandas as pd

from bncap import stats
from bncap.config import COMPARED, MAIN
from bncap.errors import BncapError
from bncap.experiments import comparisons, encoder_accuracy, paper, scores
from bncap.experiments import runs as experiments
from bncap.experiments.paper_claims import NOT_TESTED
from bncap.pipeline import artifacts, paths
from bncap.report import attention_view, findings, layout, report_grids, report_sections, tables
from bncap.settings import Config
from bncap.text import iso, language_name

REPORT_NOTEBOOK = "09_report"
TEMPLATE = paths.PACKAGE / "report" / "template.html"

JUDGED = (
    "A claim says that one value is above another, or below it. It holds where the whole 95 % interval of their "
    "difference, in brackets, lies on the claimed side of 0, does not hold where all of it lies on the other, and "
    "cannot be told where 0 lies within. Intervals of scores and of grounding are over images and seeds (bootstrap), "
    "those of losses and distances over seeds (Student's t); with a single seed nothing can be told."
)


def write_report(config: Config, first_seed: int) -> Path:
    """Write ``figures/<profile>/report.html``, which needs no other file; returns its path.

    Reads the tables' CSVs, ``results.json`` and the PNGs of :data:`bncap.report.report_sections.FIGURES` in the same folder,
    the samples of notebook 04 and the manifests of the runs.  What notebooks 11 and 12 found is left out where they
    have never been run.  Raises BncapError, with the command that makes it, for whatever else is missing, and for a
    ``results.json`` of other seeds.
    """
    import jinja2

    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(TEMPLATE.read_text("utf-8"))
    results = read_results(config, first_seed)
    grids = [grid for name in scores.TABLES for grid in report_grids.of_layout(_table(config, name))]
    view = attention_view.from_samples(paths.step_dir(config.profile, "04_training", "samples", first_seed))
    encoders_apart = [encoder_accuracy.apart(results["encoders"])] if results["encoders"] else []
    page = template.render(
        profile=config.profile,
        language=iso(config.data.lang),
        language_name=language_name(config.data.lang),
        font=_font(),
        warnings=findings.warnings(results),
        overview=findings.overview(results),
        how_judged=JUDGED,
        claims=report_sections.claimed(results),
        sections=report_sections.build(results, grids, view, encoders_apart),
        figures=_figures(config, results),
        limits=limits(config, results) + findings.contradictions(),
        run=what_was_run(config, first_seed),
        signatures=sorted({record["signature"] for record in results["results"]}),
    )
    path = paths.figures_dir(config.profile) / "report.html"
    artifacts.write_text(path, page)
    return path


def read_results(config: Config, first_seed: int) -> findings.Results:
    """``results.json`` of the profile; BncapError if it is missing or of other seeds."""
    results = artifacts.read_json(_need(config, "results.json", REPORT_NOTEBOOK))
    if results["seeds"] != list(config.seeds(first_seed)):
        raise BncapError(
            f"results.json holds seeds {results['seeds']}, not {list(config.seeds(first_seed))}; "
            f"{_remedy(config, REPORT_NOTEBOOK)}"
        )
    return results


def limits(config: Config, results: findings.Results) -> list[str]:
    """What the numbers cannot say, from how they came about."""
    seeds, judged = len(results["seeds"]), results["derived"]["judged"]
    said = [
        f"The paper reports a single seed and no spread, so whether its own differences exceed chance is not known. "
        f"Here there {'is 1 seed' if seeds == 1 else f'are {seeds} seeds'}; all share the same training data, "
        f"so that no interval speaks of another choice of these, nor of another world."
    ]
    if seeds > 1:
        said.append(
            f"Each of the {judged['claims']} comparisons has its own {stats.LEVEL:.0%} interval; were there no "
            f"differences at all, about {judged['by_chance']:.1f} would still seem to show one."
        )
    if config.data.source == "mini":
        said.append(
            "The pictures are drawn scenes of a miniature world and the models are small ones made for it: a score "
            "can be set against another score here, but not against the paper's in size."
        )
    said.append(f"What the paper also says to help, and nothing here varies: {NOT_TESTED}.")
    if config.world.model_steps < 1:
        said.append(
            f"Profile {config.profile} trains the pretrained parts for {config.world.model_steps:.0%} of their steps, "
            "to show that everything runs: its scores mean nothing."
        )
    return said


def what_was_run(config: Config, first_seed: int) -> list[tuple[str, str]]:
    """Terms and their values: profile, commit, seeds, minutes, images."""
    manifests = (paths.artifacts_root() / config.profile).glob(f"0[0-8]_*/*/{artifacts.MANIFEST}")
    steps = [artifacts.read_json(path) for path in sorted(manifests)]
    runs = [artifacts.read_json(_run(config, v, s) / artifacts.MANIFEST) for v, s in _all_runs(config, first_seed)]
    tested = scores.read_scores(config, MAIN, config.seeds(first_seed)[0])
    counts = artifacts.read_json(
        artifacts.require(paths.step_dir(config.profile, "02_synthesis", "images", config.data.seed)) / "counts.json"
    )
    minutes = sum(step["seconds"] for step in steps) / 60
    return [
        ("Profile", config.profile),
        ("Commit", ", ".join(sorted({run["commit"].replace("+", " with changes") for run in runs}))),
        ("Seeds", ", ".join(map(str, config.seeds(first_seed)))),
        ("Runs", f"{len(runs)}, each trained and scored once"),
        ("Computing time", f"{minutes:.1f} minutes in {len(steps)} steps, added up even where they ran side by side"),
        ("Training", f"{counts['paired']} synthetic images beside {counts['real_images']} real ones"),
        ("Test images", ", ".join(f"{tested[split]['images']} {words}" for split, words in paper.SPLITS.items())),
        ("torch, transformers", ", ".join(f"{runs[0]['packages'][name]}" for name in ("torch", "transformers"))),
    ]


def _table(config: Config, name: str) -> layout.Layout:
    notebook = {1: "05_baselines", 2: "04_training", 3: "06_ablations", 4: "07_sensitivity"}[scores.TABLES[name].number]
    frame = pd.read_csv(_need(config, f"{name}.csv", notebook))
    _need(config, f"{name}_differences.csv", notebook)
    return tables.arrange(frame, name, config, comparisons.read(config, name))


def _figures(config: Config, results: findings.Results) -> dict[str, dict[str, str]]:
    """The figures that the report shows, each with its sentence."""
    found = {}
    for name in report_sections.figures_shown(results):
        notebook, sentence = report_sections.FIGURES[name]
        found[name] = {"sentence": sentence, "png": _base64(_need(config, f"{name}.png", notebook))}
    return found


def _font() -> str:
    from fontpkg_hind_siliguri import ROOT

    return _base64(ROOT / "files" / "HindSiliguri-Regular.ttf")


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _need(config: Config, file: str, notebook: str) -> Path:
    path = paths.figures_dir(config.profile) / file
    if not path.is_file():
        raise BncapError(
            f"figures/{config.profile}/{file} is missing: notebook {notebook} writes it; {_remedy(config, notebook)}"
        )
    return path


def _remedy(config: Config, notebook: str) -> str:
    return f"make it with: ./run_all.sh --profile {config.profile} --only {notebook[:2]}"


def _all_runs(config: Config, first_seed: int) -> list[tuple[str, int]]:
    return [(variant, seed) for variant in COMPARED for seed in config.seeds(first_seed)]


def _run(config: Config, variant: str, seed: int) -> Path:
    return artifacts.require(experiments.folder_of(config, variant, seed))
