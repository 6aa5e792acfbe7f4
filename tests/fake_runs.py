"""Finished runs with scores that a test chooses, in the folders where real ones lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from PIL import Image

from bncap.config import BASE, BASELINES, MAIN, READINGS, REFERENCES, SENSITIVITY, VARIANTS
from bncap.experiments import comparisons, paper
from bncap.experiments.evaluate import SCORE_COLUMNS
from bncap.experiments.grounding import AGAINST, MEASURES
from bncap.experiments.runs import run_dir
from bncap.pipeline import artifacts, paths
from bncap.report import page, results
from bncap.settings import Config

ALL = (*VARIANTS, *BASELINES, *SENSITIVITY, *REFERENCES)
SPLITS = ("test", "ood")
SOURCES = ("generated", "reference")
MEASURED = (BASE, "pal", MAIN)
Score = Callable[[str, int, str, str], float]


def varied(variant: str, seed: int, split: str, metric: str) -> float:
    """A different number for each variant and seed; those of METEOR fall where those of BLEU-4 rise."""
    place = 5.0 + 3.25 * ALL.index(variant) + 0.125 * (seed % 7) + (1.5 if split == "test" else 0)
    return 90 - place if metric == "METEOR" else place + 0.01 * len(metric)


def make_runs(
    config: Config, score: Score = varied, share: float = 12.5, variants=ALL, nouns: Collection[str] = SPLITS
) -> None:
    """``nouns``: the splits whose pictures' objects are known."""
    for variant in variants:
        for seed in config.seeds(42):
            folder = run_dir(config, variant, seed)
            scores = {split: scores_of(variant, seed, split, score, share, split in nouns) for split in SPLITS}
            items = {f"items_{split}.csv": items_of(scores[split]) for split in SPLITS}
            finish(folder, {"scores.json": scores, "captions_ood.csv": captions_of(variant, seed), **items})


def scores_of(variant: str, seed: int, split: str, score: Score, share: float, nouns: bool) -> dict:
    names = (*paper.METRICS, *(("noun_precision", "noun_recall") if nouns else ()))
    variety = {"distinct": 40.0, "vocabulary": 31, "mean_length": 6.25, "most_frequent": "একটি লাল <বল>।"}
    return {
        **{metric: score(variant, seed, split, metric) for metric in names},
        "images": 16,
        "signature": "lang:bn|test",
        "diversity": {**variety, "most_frequent_share": share},
    }


def items_of(scores: dict) -> list[tuple]:
    """Rows of 16 images that together have ``scores``; half of them lie a tenth above, half as much below."""
    shares, product = [], 1.0
    for n in (1, 2, 3, 4):  # BLEU-n is the geometric mean of n shares
        shares.append((scores[f"B{n}"] / 100) ** n / product)
        product *= shares[-1]
    rows = [SCORE_COLUMNS]
    for image in range(16):
        factor = 0.9 if image % 2 else 1.1
        matched = [round(100_000 * share * factor) for share in shares]
        named = ["", "", ""]
        if not math.isnan(scores.get("noun_precision", math.nan)):
            right = 1000 * scores["noun_precision"] * factor
            named = [100_000, round(right), round(100 * right / scores["noun_recall"] / factor)]
        means = (f"{scores[metric] * factor:.8f}" for metric in ("METEOR", "BERT-F1"))
        rows.append((f"{image:02d}.jpg", 1000, 1000, *matched, *[100_000] * 4, *means, *named))
    return rows


def captions_of(variant: str, seed: int) -> list[tuple[str, str, float]]:
    """METEOR by image: the main model has 2 more than the others for every image, whatever its seed."""
    gain = 2.0 if variant == MAIN else 0.0
    rows = [(f"{image:02d}.jpg", "একটি বল।", 20.0 + image + seed % 5 + gain) for image in range(16)]
    return [("image", "caption", "meteor"), *rows]


def make_rest(config: Config) -> None:
    """What the report needs beside runs: synthesis, encoders, alignment summaries and a picture for each figure."""
    images = paths.step_dir(config.profile, "02_synthesis", "images", config.data.seed)
    finish(images, {"counts.json": {"paired": 40, "real_images": 37}})
    for part, kind in (("vit", 0.45), ("cnn", 0.675)):
        folder = paths.step_dir(config.profile, "00_mini_world", part, config.data.seed)
        finish(folder, {"figures.json": {"kind_real": kind, "kind_ood": kind / 3, "kind_synthetic": kind}})
    for seed in config.seeds(42):
        folder = paths.step_dir(config.profile, "08_umap_mmd", "analysis", seed)
        finish(folder, {"summary.json": alignment(seed)})
    for name in page.FIGURES:
        Image.new("RGB", (900, 300), "#0072B2").save(paths.figures_dir(config.profile) / f"{name}.png")


def make_estimate(name: str, value: float, half_width: float = 1.0) -> dict[str, Any]:
    """A value under ``name`` with its interval."""
    low, high = value - half_width, value + half_width
    return {name: value, "low": low, "high": high, "excludes_zero": low > 0 or high < 0}


def make_evidence(degenerate: tuple[str, ...] = ()) -> dict[str, Any]:
    """What grounding, convergence and diversity measure, in the form of ``results.json``; numbers without meaning."""
    places = [{"split": s, "source": t, "variant": v} for s in SPLITS for t in SOURCES for v in MEASURED]
    sizes = {"words": 20, "named": 25, "counted": 80.0, "images": 16, "seeds": 2}
    names = [f"{m}{other}" for m in MEASURES for other in ("", *(f"_{a}" for a in AGAINST))]
    rows = [
        {**place, "measure": name, **make_estimate("value", 30.0 + 5 * i + j), **sizes}
        for i, place in enumerate(places)
        for j, name in enumerate(names)
    ]
    differences = [
        {**place, "measure": measure, "against": BASE, **make_estimate("difference", 0.5 - 3 * i)}
        for i, place in enumerate(places)
        for measure in MEASURES
        if place["variant"] != BASE
    ]
    losses = [
        {"variant": variant, "measure": measure, "mean": 1.5 + i, "std": 0.25, "seeds": 2}
        for measure in comparisons.LOSSES
        for i, variant in enumerate(MEASURED)
    ]
    falls = [
        {"variant": variant, "against": BASE, "measure": measure, "seeds": 2, **make_estimate("difference", 1.125)}
        for measure in comparisons.LOSSES
        for variant in MEASURED[1:]
    ]
    variety = [
        {
            "variant": name, "split": split, "distinct": 42.0, "vocabulary": 12.0, "mean_length": 6.25,
            "most_frequent_share": 12.5, "most_frequent": "একটি লাল <বল>।", "degenerate": name in degenerate,
            "lengths": [0.0, 50.0, 50.0], "captions": 16, "seeds": 2,
        }
        for split in SPLITS
        for name in ("references", *VARIANTS, *BASELINES)
    ]  # fmt: skip
    return {
        "grounding": {"rows": rows, "differences": differences, "without_boxes": []},
        "convergence": {"rows": losses, "differences": falls},
        "diversity": variety,
    }


def make_readings() -> dict[str, Any]:
    """What notebook 11 measures of two readings, one of which is flagged."""
    compared = [("tau_on_probabilities", MAIN), ("pal_syn", "pal"), ("pal_syn", "ce_real_syn")]
    readings = [
        {"variant": name, "label": READINGS[name].label, "reason": "", "trained": True,
         "against": [against for variant, against in compared if variant == name]}
        for name in dict(compared)
    ]  # fmt: skip
    scores = [
        {"variant": v, "against": a, "split": split, "metric": metric, **make_estimate("difference", 1.75)}
        for v, a in compared
        for split in SPLITS
        for metric in ("B4", "METEOR", "noun_precision")
    ]
    terms = [f"{way}/{term}" for way in ("logged", "default", "own") for term in ("pal", "infonce", "ot")]
    others = ("relevant/mmd_rbf", "relevant/relative_centroid_distance", "attended_patches")
    measures = [
        {"variant": v, "against": a, "measure": m, "first": 1.0, "second": 2.0, **make_estimate("difference", -1.5)}
        for v, a in compared
        for m in (*terms, *others)
    ]
    flag = {"variant": "tau_on_probabilities", "against": MAIN, "terms": measures[:1], "gap": measures[9]}
    same = [{"variant": "all_layers", "label": READINGS["all_layers"].label, "why": "The decoder has 2 layers."}]
    return {
        "readings": readings, "same": same, "scores": scores, "measures": measures, "before": {},
        "flags": [{**flag, "above_before": True}],
    }  # fmt: skip


def make_errors() -> dict[str, Any]:
    """What notebook 12 measures of one group of pictures and of two thresholds."""
    place = {"split": "ood", "dimension": "number", "group": "1", "measure": "B4"}
    rows = [{**place, "variant": v, **make_estimate("value", 20.5), "pictures": 9, "asked": 9} for v in (BASE, MAIN)]
    difference = {**place, "variant": MAIN, "against": BASE, **make_estimate("difference", 0.75)}
    names = {"filter0.0": 0.0, "filter0.4": 0.4}
    pairs = [
        {"filter": name, "threshold": threshold, "accepted": 90, "candidates": 100, "pairs": 40, "faulty_accepted": 9.5,
         "faulty_pairs": 8.5}
        for name, threshold in names.items()
    ]  # fmt: skip
    metrics = ("B4", "METEOR")
    scores = [{"filter": f, "split": "ood", "metric": m, "mean": 10.25, "std": 0.5} for f in names for m in metrics]
    against = {"variant": "filter0.4", "against": "filter0.0", "split": "ood", "metric": "B4"}
    worth = {"pairs": pairs, "scores": scores, "differences": [{**against, **make_estimate("difference", 0.25)}]}
    return {"rows": rows, "differences": [difference], "guesses": [], "filter": worth}


def patch_evidence(monkeypatch, extended: bool = True, **options: Any) -> None:
    """Replace what needs models or a corpus by made-up measurements."""
    evidence, made = make_evidence(**options), {"date": "2026-01-02", "commit": "0123abc"}
    modules = {"grounding": results.grounding, "convergence": results.comparisons, "diversity": results.comparisons}
    for name, module in modules.items():
        monkeypatch.setattr(module, f"summarise_{name}", lambda config, first_seed, name=name: evidence[name])
    contents = {"readings": make_readings(), "error_analysis": make_errors()}
    saved = {name: {"made": made, "found": content} for name, content in contents.items()}
    monkeypatch.setattr(results.estimates, "read_extended", lambda profile, name: saved[name] if extended else None)
    monkeypatch.setattr(page.attention, "render_samples", lambda folder: "<div class='bncap-attention'></div>")


def alignment(seed: int) -> dict[str, float]:
    """The centroids of the main model move from 0.5 to 0.2, those of CE to 0.4, give or take 0.01 by the seed."""
    places = {"encoder/frozen": 3.0, "ce_real/before": 0.5, "pal_infonce_ot/before": 0.5}
    places |= {"ce_real/after": 0.4 + 0.01 * (seed % 3), "pal_infonce_ot/after": 0.2}
    return {f"{name}/all/centroid_distance": value for name, value in places.items()}


def finish(folder: Path, files: dict[str, Any]) -> None:
    def build(target: Path) -> None:
        for name, content in files.items():
            if name.endswith(".csv"):
                artifacts.write_csv(target / name, content[0], content[1:])
            else:
                artifacts.write_json(target / name, content)

    artifacts.run_step(folder, settings={"fake": repr(files)}, inputs=[], build=build, quiet=True)
