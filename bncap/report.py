"""The report: one HTML file with every table, figure and reading, from saved CSV, JSON and PNG files alone."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pandas as pd

from bncap import artifacts, experiments, findings, hub, layout, paper, paths, stats, tables
from bncap.config import MAIN
from bncap.errors import BncapError
from bncap.settings import Config
from bncap.text import iso, language_name

REPORT_NOTEBOOK = "09_report"
TEMPLATE = paths.PACKAGE / "report_template.html"

STYLES = ("real", "ood", "synthetic")

MEASURES = {
    "centroid_distance": "centroid distance",
    "mmd_rbf": "MMD-RBF",
    "domain_mixing": "domain mixing",
    "umap_centroid_distance": "centroid distance, UMAP",
    "umap_mmd_rbf": "MMD-RBF, UMAP",
}
"""What of notebook 08 stands in the report's table."""

FIGURES: dict[str, tuple[str, str]] = {
    "acceptance": ("01_data_build", "Acceptance: the share of translated captions that pass the verifier (Eq. 4)."),
    "pairs": ("02_synthesis", "Pairs: real pictures beside the synthetic ones drawn from their captions (Eq. 5)."),
    "prompts": ("02_synthesis", "Prompts: their length as the model counts it, and how many words its window leaves."),
    "fig1_patches": (
        "04_training",
        "Fig. 1: a test picture on its way through the frozen encoder, its patches, and where each word looks.",
    ),
    "fig2_pipeline": (
        "04_training",
        "Fig. 2: the pipeline from an English caption to the losses, with a training triplet drawn by the seed.",
    ),
    "fig3_convergence": (
        "04_training",
        "Fig. 3, top: the losses over training, the full objective beside cross-entropy alone.",
    ),
    "captions": (
        "04_training",
        "Captions of the main model, at even ranks of their METEOR, each with the first of its references.",
    ),
    "table3_ablations": (
        "06_ablations",
        "The variants of Table 3, out of domain: a dot for each seed, a bar at the mean; note where the axes begin.",
    ),
    "table4_sensitivity": (
        "07_sensitivity",
        "The settings of Table 4, out of domain: a dot for each seed, a bar at the mean; note where the axes begin.",
    ),
    "fig3_umap": (
        "08_umap_mmd",
        "Fig. 3, bottom: patches of real and synthetic pictures in two dimensions, before and after training.",
    ),
}
"""Figure -> the notebook that draws it, and one sentence on what it shows."""


def write_report(config: Config, first_seed: int) -> Path:
    """Write ``figures/<profile>/report.html``, which needs no other file; returns its path.

    Reads the tables' CSVs, ``results.json`` and the PNGs of :data:`FIGURES` in the same folder, and the manifests of
    the runs.  Raises BncapError, with the command that makes it, for whatever is missing, and for a ``results.json`` of
    other seeds.
    """
    import jinja2

    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(TEMPLATE.read_text("utf-8"))
    results = read_results(config, first_seed)
    verdicts = findings.judge(results)
    page = template.render(
        profile=config.profile,
        language=iso(config.data.lang),
        language_name=language_name(config.data.lang),
        font=_font(),
        run=what_was_run(config, first_seed),
        warnings=findings.warnings(results),
        overview=findings.overview(results, verdicts),
        verdicts=verdicts,
        readings=[*readings(results), over_images(config, first_seed)],
        limits=limits(config, first_seed, sum(map(len, verdicts.values()))),
        contradictions=findings.contradictions(),
        tables=[_table(config, name) for name in tables.TABLES],
        moved=alignment_rows(results),
        moved_seeds=sorted(results["alignment"]),
        variety=variety_rows(config, first_seed),
        figures=[_figure(config, name) for name in FIGURES],
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


def readings(results: findings.Results) -> list[str]:
    """What else is to be read in the tables and in Fig. 3, a sentence each."""
    return [
        findings.transfer(results),
        *findings.grounding(results),
        findings.ranking(results),
        findings.spread_of_variants(results),
        findings.sensitivity(results),
        *findings.alignment(results),
    ]


def over_images(config: Config, first_seed: int) -> str:
    """How sure the test images make the METEOR of the main model against cross-entropy: a paired bootstrap over them.

    METEOR, because it alone is a mean over captions; an image counts with its mean over the seeds.
    """
    seeds = config.seeds(first_seed)
    means = []
    for variant in (MAIN, "ce_real"):
        by_image: dict[str, list[float]] = {}
        for seed in seeds:
            for row in artifacts.read_csv(_run(config, variant, seed) / "captions_ood.csv"):
                by_image.setdefault(row["image"], []).append(float(row["meteor"]))
        means.append([sum(by_image[image]) / len(seeds) for image in sorted(by_image)])
    d = stats.paired_bootstrap(*means, seed=first_seed, level=findings.LEVEL)
    return (
        f"{paper.label(MAIN)} against {paper.label('ce_real')}, METEOR out of domain, over the images instead of "
        f"the seeds: {d.difference:+.2f}, {d.level:.0%} interval {d.low:+.2f} to {d.high:+.2f} (paired bootstrap over "
        f"{d.n_items} images)."
    )


def limits(config: Config, first_seed: int, comparisons: int) -> list[str]:
    """What the numbers cannot say, from how they came about."""
    seeds = config.seeds(first_seed)
    said = [
        f"The paper reports a single seed and no spread, so whether its own differences exceed chance is not known. "
        f"Here there {'is 1 seed' if len(seeds) == 1 else f'are {len(seeds)} seeds'}; all share the same data and the "
        f"same test images, so the spread over seeds is that of training, not of the choice of images."
    ]
    if len(seeds) > 1:
        said.append(
            f"Each of the {comparisons} comparisons has its own {findings.LEVEL:.0%} interval; were there no "
            f"differences at all, about {comparisons * (1 - findings.LEVEL):.1f} would still seem to show one."
        )
    if config.data.source == "mini":
        said.append(
            "The pictures are drawn scenes of a miniature world and the models are small ones made for it: a score "
            "can be set against another score here, but not against the paper's in size."
        )
        said.append(encoders_apart(config))
    if config.world.model_steps < 1:
        said.append(
            f"Profile {config.profile} trains the pretrained parts for {config.world.model_steps:.0%} of their steps, "
            "to show that everything runs: its scores mean nothing."
        )
    return said


def what_was_run(config: Config, first_seed: int) -> list[tuple[str, str]]:
    """Terms and their values: profile, commit, seeds, minutes, images."""
    manifests = (paths.artifacts_root() / config.profile).glob(f"[0-9]*/*/{artifacts.MANIFEST}")
    steps = [artifacts.read_json(path) for path in sorted(manifests)]
    runs = [artifacts.read_json(_run(config, v, s) / artifacts.MANIFEST) for v, s in _all_runs(config, first_seed)]
    scores = tables.read_scores(config, MAIN, config.seeds(first_seed)[0])
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
        ("Test images", ", ".join(f"{scores[split]['images']} {words}" for split, words in paper.SPLITS.items())),
        ("torch, transformers", ", ".join(f"{runs[0]['packages'][name]}" for name in ("torch", "transformers"))),
    ]


def encoder_accuracy(config: Config) -> dict[str, dict[str, float]]:
    """How well the three frozen encoders of the mini world tell kinds: per cent of object cells, by style of picture.

    Keys are the captioners of Table 1, then ``real``, ``ood`` and ``synthetic``.  Raises BncapError where notebook 00
    has not been run.
    """
    parts = config.components
    named = {MAIN: parts.encoder, "vit_gpt2": parts.vit, "cnn_lstm": parts.cnn}
    accuracy = {}
    for variant, name in named.items():
        folder = Path(hub.path(config, name))
        if (folder / "card.json").is_file():  # the encoder that ships with the package
            kinds = {style: a["kind"] for style, a in artifacts.read_json(folder / "card.json")["accuracy"].items()}
        else:
            figures = artifacts.read_json(artifacts.require(folder) / "figures.json")
            kinds = {style: figures[f"kind_{style}"] for style in STYLES}
        accuracy[paper.label(variant)] = {style: 100 * kinds[style] for style in STYLES}
    return accuracy


def encoders_apart(config: Config) -> str:
    """What Table 1 of the mini world compares beside the decoders, with :func:`encoder_accuracy`."""
    measured = encoder_accuracy(config).items()
    told = "; ".join(f"{label} {a['real']:.1f} % in domain and {a['ood']:.1f} % out of it" for label, a in measured)
    return (
        f"Table 1 compares encoders as much as decoders, since those of the baselines were pretrained far less. The "
        f"frozen encoders tell the kind of an object, cell by cell: {told}."
    )


def alignment_rows(results: findings.Results) -> list[tuple[str, ...]]:
    """The distances of notebook 08 before and after training as text: model, patches, distance, before, after, change.

    Those that the paper reports, and the same for the other sets of patches and in the space of the decoder.
    """
    return [
        (
            paper.label(r["variant"]),
            "text-relevant" if r["set"] == "relevant" else r["set"],
            MEASURES[r["metric"]],
            f"{r['before']:.4f}",
            f"{r['after']:.4f}",
            f"{r['after'] / r['before'] - 1:+.0%}" if r["before"] else layout.UNKNOWN,
        )
        for r in results["alignment_summary"]
        if r["metric"] in MEASURES
    ]


def variety_rows(config: Config, first_seed: int) -> list[dict[str, Any]]:
    """How varied the main model's captions are, by split and seed, with the most frequent one."""
    return [
        {"seed": seed, "images": words, **tables.read_scores(config, MAIN, seed)[split]["diversity"]}
        for split, words in paper.SPLITS.items()
        for seed in config.seeds(first_seed)
    ]


def _table(config: Config, name: str) -> layout.Layout:
    notebook = {1: "05_baselines", 2: "04_training", 3: "06_ablations", 4: "07_sensitivity"}[tables.TABLES[name].number]
    return tables.arrange(pd.read_csv(_need(config, f"{name}.csv", notebook)), name, config)


def _figure(config: Config, name: str) -> dict[str, str]:
    notebook, sentence = FIGURES[name]
    return {"name": name, "sentence": sentence, "png": _base64(_need(config, f"{name}.png", notebook))}


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
    variants = dict.fromkeys(v for table in tables.TABLES.values() for v in table.variants)
    return [(variant, seed) for variant in variants for seed in config.seeds(first_seed)]


def _run(config: Config, variant: str, seed: int) -> Path:
    return artifacts.require(experiments.folder_of(config, variant, seed))
