"""The report: one HTML file with every table, figure and verdict, from saved CSV, JSON and PNG files alone."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fontpkg_hind_siliguri
import jinja2
import pandas as pd

from bncap import stats
from bncap.config import COMPARED, EXTENDED_NOTEBOOKS, MAIN
from bncap.errors import BncapError
from bncap.experiments import comparisons, paper, runs
from bncap.experiments.paper import NOT_TESTED
from bncap.pipeline import artifacts, paths
from bncap.report import attention, summaries, tables
from bncap.report.tables import FormattedTable
from bncap.settings import Config
from bncap.text import iso, language_name

REPORT_NOTEBOOK = "09_report"
TABLE_NOTEBOOKS = {1: "05_baselines", 2: "04_training", 3: "06_ablations", 4: "07_sensitivity"}
TEMPLATE = paths.PACKAGE / "report" / "template.html"

FIGURES = {
    name: notebook
    for notebook, names in {
        "01_data_build": ["acceptance"],
        "02_synthesis": ["pairs", "prompts"],
        "04_training": ["fig1_patches", "fig2_pipeline", "fig3_convergence", "captions", "attention"],
        "06_ablations": ["table3_ablations", "differences"],
        "07_sensitivity": ["table4_sensitivity"],
        "08_umap_mmd": ["fig3_umap", "umap_seeds", "grounding"],
        "09_report": ["lengths"],
        "11_readings": ["readings", "readings_gap"],
        "12_error_analysis": ["errors", "confusion", "filter"],
    }.items()
    for name in names
}
"""Figure -> the notebook that draws it; captions.toml has its caption."""


def write_report(config: Config, first_seed: int) -> Path:
    """Write ``figures/<profile>/report.html``, which needs no other file; returns its path.

    Reads the tables' CSVs, ``results.json`` and the PNGs of :data:`FIGURES` in the same folder, the samples of notebook
    04 and the manifests of the runs.  Sections of notebooks 11 and 12 are left out where these have never been run.
    Between the comments ``kind`` it says that it is a run's own; :func:`bncap.commands.publish.publish` replaces that.
    Raises BncapError, with the command that makes it, for whatever else is missing, and for a ``results.json`` of other
    seeds.
    """
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True)
    results = read_results(config, first_seed)
    run = describe_run(config, first_seed)
    verdicts = pd.Series([claim["verdict"] for claim in results["claims"]]).value_counts().to_dict()
    page = environment.from_string(TEMPLATE.read_text("utf-8")).render(
        config=config,
        language=iso(config.data.lang),
        language_name=language_name(config.data.lang),
        font=_encode(fontpkg_hind_siliguri.ROOT / "files" / "HindSiliguri-Regular.ttf"),
        seeds=results["seeds"],
        degenerate=[
            f"{paper.label(r['variant'])} ({paper.SPLITS[r['split']]})" for r in results["diversity"] if r["degenerate"]
        ],
        verdicts=verdicts,
        by_chance=f"{(1 - stats.LEVEL) * len(results['claims']):.1f}",
        not_tested=NOT_TESTED,
        tables=_build_tables(config, results),
        figures={
            name: _encode(_require_figure(config, f"{name}.png", FIGURES[name])) for name in list_figures(results)
        },
        captions=summaries.CAPTIONS["figures"],
        viewer=attention.render_samples(paths.step_dir(config.profile, "04_training", "samples", first_seed)),
        readings=results["readings"],
        errors=results["error_analysis"],
        run=run,
        signatures=sorted({record["signature"] for record in results["results"]}),
    )
    path = paths.figures_dir(config.profile) / "report.html"
    artifacts.write_text(path, page)
    return path


def read_results(config: Config, first_seed: int) -> dict[str, Any]:
    """``results.json`` of the profile; BncapError if it is missing or of other seeds."""
    results = artifacts.read_json(_require_figure(config, "results.json", REPORT_NOTEBOOK))
    if results["seeds"] != list(config.seeds(first_seed)):
        seeds = f"seeds {results['seeds']}, not {list(config.seeds(first_seed))}"
        raise BncapError(f"results.json holds {seeds}; {_name_command(config, REPORT_NOTEBOOK)}")
    return results


def _build_tables(config: Config, results: Mapping[str, Any]) -> dict[str, FormattedTable]:
    """Every table of the report by its name."""
    built = [table for name in runs.TABLES for table in _read_table(config, name)]
    built += [summaries.headline(results), summaries.claims(results["claims"])]
    built += [summaries.alignment(results["alignment"]), summaries.umap_seeds(results["alignment"])]
    built += [summaries.training(results["convergence"]), summaries.diversity(results["diversity"])]
    built += [summaries.encoder_accuracy(results["encoders"])] if results["encoders"] else []
    built += [summaries.grounding(results["grounding"])] if results["grounding"]["rows"] else []
    if results["readings"]:
        content = results["readings"]["found"]
        built += [summaries.readings(content), summaries.flagged_readings(content)]
    if results["error_analysis"]:
        content = results["error_analysis"]["found"]
        built += [summaries.filters(content["filter"])] + ([summaries.error_groups(content)] if content["rows"] else [])
    return {table.name: table for table in built}


def list_figures(results: Mapping[str, Any]) -> list[str]:
    """The names of :data:`FIGURES`, without those of the extended notebooks that have never been run."""
    was_run = dict(zip(EXTENDED_NOTEBOOKS, (results["readings"], results["error_analysis"]), strict=True))
    return [name for name, notebook in FIGURES.items() if was_run.get(notebook[:2], True)]


def describe_run(config: Config, first_seed: int) -> dict[str, str]:
    """Terms and their values: profile, commit, seeds, minutes, images."""
    manifests = (paths.artifacts_root() / config.profile).glob(f"0[0-8]_*/*/{artifacts.MANIFEST}")
    steps = [artifacts.read_json(path) for path in sorted(manifests)]
    seeds = config.seeds(first_seed)
    folders = [runs.run_dir(config, variant, seed) for variant in COMPARED for seed in seeds]
    trained = [artifacts.read_json(artifacts.require(folder) / artifacts.MANIFEST) for folder in folders]
    tested = comparisons.read_scores(config, MAIN, seeds[0])
    images = artifacts.require(paths.step_dir(config.profile, "02_synthesis", "images", config.data.seed))
    counts = artifacts.read_json(images / "counts.json")
    minutes = sum(step["seconds"] for step in steps) / 60
    return {
        "Profile": config.profile,
        "Commit": ", ".join(sorted({run["commit"].replace("+", " with changes") for run in trained})),
        "Seeds": ", ".join(map(str, seeds)),
        "Runs": f"{len(trained)}, each trained and scored once",
        "Computing time": f"{minutes:.1f} minutes in {len(steps)} steps, added up even where they ran side by side",
        "Training": f"{counts['paired']} synthetic images beside {counts['real_images']} real ones",
        "Test images": ", ".join(f"{tested[split]['images']} {words}" for split, words in paper.SPLITS.items()),
        "torch, transformers": ", ".join(trained[0]["packages"][name] for name in ("torch", "transformers")),
    }


def _read_table(config: Config, name: str) -> list[FormattedTable]:
    frame = pd.read_csv(_require_figure(config, f"{name}.csv", TABLE_NOTEBOOKS[runs.TABLES[name].number]))
    _require_figure(config, f"{name}_differences.csv", TABLE_NOTEBOOKS[runs.TABLES[name].number])
    return tables.format_table(frame, name, config, comparisons.read_differences(config, name))


def _encode(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _require_figure(config: Config, file: str, notebook: str) -> Path:
    path = paths.figures_dir(config.profile) / file
    if not path.is_file():
        raise BncapError(
            f"figures/{config.profile}/{file} is missing: notebook {notebook} writes it; "
            f"{_name_command(config, notebook)}"
        )
    return path


def _name_command(config: Config, notebook: str) -> str:
    return f"make it with: ./run_all.sh --profile {config.profile} --only {notebook[:2]}"
