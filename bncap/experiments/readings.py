"""The paper read otherwise, one place at a time: what each reading changes in scores, losses and gap.

Readings are of :data:`bncap.config.READINGS`.  Each is compared with what it departs from, same seeds: the main model,
or for the rows with captions on synthetic images the same row without, and cross-entropy alone with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bncap import stats
from bncap.config import MAIN, READINGS, VARIANTS
from bncap.experiments import comparisons, paper, reading_measures, runs
from bncap.experiments.records import Record, select
from bncap.pipeline import artifacts, hub, paths
from bncap.report.reading_sentences import sentences
from bncap.settings import Config, override

STEP = runs.READING_STEP
ON_SYNTHETIC = "ce_real_syn"
SETS = ("relevant", "all", "background")
DISTANCES = ("centroid_distance", "relative_centroid_distance", "mmd_rbf")
MEASURES = (
    *(f"{how}/{term}" for how in ("logged", "own", "default") for term in reading_measures.TERMS),
    *(f"{part}/{distance}" for part in SETS for distance in DISTANCES),
    "relevant/mmd_rbf_chance", "attended_patches", "kept_patches", "ot_floor_share",
)  # fmt: skip
COLUMNS = ("variant", "against", "measure", "first", "second", "difference", "low", "high", "seeds", "excludes_zero")
DIGITS = 4


def against(reading: str) -> tuple[str, ...]:
    """What a reading is compared with: first what it is an alternative to."""
    row = reading.removesuffix("_syn")
    return (row, ON_SYNTHETIC) if row in VARIANTS else (MAIN,)


def same(config: Config) -> dict[str, str]:
    """Readings that are the default with these components and data, and why, as a sentence."""
    found = {}
    layers = artifacts.read_json(Path(hub.path(config, config.components.decoder), "config.json"))["decoder_layers"]
    if config.model.last_k in (0, layers):
        found["all_layers"] = f"The decoder has {layers} layers, so that the last K = {layers} are all of them."
    triplets = runs.inputs_of(config, MAIN).triplets
    images = Counter(row["image"] for row in artifacts.read_csv(artifacts.require(triplets) / "triplets.csv"))
    count, size = sum(images.values()), config.train.batch
    # Batches keep captions of one picture apart where there are as many batches as captions, and in a last, smaller
    # batch where there are pictures enough for it.
    if max(images.values()) <= count // size and len(images) >= count % size:
        chance = sum(n * (n - 1) for n in images.values()) / (count * (count - 1)) if count > 1 else 0.0
        found["false_negatives"] = (
            "No batch holds two captions of one picture, so that no two are each other's negatives; in a batch of "
            f"{size} drawn at random there would be {chance * size * (size - 1) / 2:.2f} such pairs of "
            f"{size * (size - 1) // 2} on average."
        )
    return found


def run(config: Config, seeds: Sequence[int]) -> dict[tuple[str, int], Path]:
    """Notebook 11: train, score and measure the readings that differ from the default; folders by (variant, seed).

    Rows of Table 3 that they are compared with have to be there: BncapError names the one that is missing.
    """
    equal = same(config)
    trained = [name for name in READINGS if name not in equal]
    if any(override(config, READINGS[name].overrides).features.penultimate for name in trained):
        from bncap.encoders.features import build_features

        build_features(override(config, ["features.penultimate=True"]), step=STEP)
    references = dict.fromkeys(other for name in trained for other in against(name))
    for name in references:
        for seed in seeds:
            artifacts.require(runs.folder_of(config, name, seed))
    folders = runs.run_variants(config, STEP, {name: READINGS[name] for name in trained}, seeds)
    reading_measures.build_all(config, [*references, *trained], seeds)
    return folders


def measure(config: Config, first_seed: int) -> dict[str, Any]:
    """What :func:`run` left, as records for :func:`bncap.experiments.extended.write`; numbers rounded, unknown ones None.

    - ``readings``: variant, label, reason, and what it is compared with; ``same``: those that are the default here;
    - ``scores``: differences of scores, as :func:`bncap.experiments.comparisons.compare`;
    - ``measures``: differences of what :func:`bncap.experiments.reading_measures.build` measures, Student's t over seeds;
    - ``before``: the gap before training, mean over seeds;
    - ``flags``: readings of which some loss, as the run logs it, ends lower than the default's while the gap ends
      larger than the default's, both intervals leaving out 0: records of ``measures`` under ``terms`` and ``gap``;
      each term with that of the same loss as the ``default`` reads it, and whether it is lower so too (``in_both``),
      as what a reading logs is another quantity by construction; ``above_before``: whether the gap has grown;
    - ``sentences``: what these numbers say.
    """
    seeds, equal = config.seeds(first_seed), same(config)
    by_seed = {seed: reading_measures.read(config, seed) for seed in seeds}
    trained = [name for name in READINGS if name not in equal]
    pairs = [(name, other, split) for name in trained for other in against(name) for split in paper.SPLITS]
    measures = [record for name in trained for record in _differences(by_seed, name, against(name)[0])]
    before = _before(by_seed)
    content = {
        "readings": [_description(name, equal) for name in READINGS],
        "same": [{"variant": name, "label": READINGS[name].label, "why": why} for name, why in equal.items()],
        "scores": comparisons.of_pairs(config, first_seed, pairs),
        "measures": measures,
        "before": before,
        "flags": list(_flags(measures, before)),
    }
    return {**content, "sentences": sentences(content)}


def write_table(config: Config, content: Record) -> Path:
    """Write ``figures/<profile>/readings.csv``: every difference of ``content``; returns its path.

    ``measure`` is ``<split>/<metric>`` for scores, and else as in :mod:`bncap.experiments.reading_measures`.
    """
    scores = ({**record, "measure": f"{record['split']}/{record['metric']}"} for record in content["scores"])
    path = paths.figures_dir(config.profile) / "readings.csv"
    artifacts.write_csv(path, COLUMNS, ([r[name] for name in COLUMNS] for r in (*scores, *content["measures"])))
    return path


def _description(name: str, equal: Mapping[str, str]) -> dict[str, Any]:
    reading = READINGS[name]
    changed = {"variant": name, "label": reading.label, "reason": reading.reason, "settings": list(reading.overrides)}
    return {**changed, "against": list(against(name)), "trained": name not in equal}


def _differences(
    by_seed: Mapping[int, Mapping[tuple[str, str], float]], name: str, other: str
) -> Iterator[dict[str, Any]]:
    for measure in MEASURES:
        values = [{s: v[n, measure] for s, v in by_seed.items() if (n, measure) in v} for n in (name, other)]
        if all(values):
            record = {"variant": name, "against": other, "measure": measure}
            yield {**record, **stats.difference(*values).as_record(DIGITS)}


def _before(by_seed: Mapping[int, Mapping[tuple[str, str], float]]) -> dict[str, float]:
    found = {}
    for measure in MEASURES:
        values = [v[key] for v in by_seed.values() if (key := (reading_measures.INITIAL, measure)) in v]
        if values:
            found[measure] = round(sum(values) / len(values), DIGITS)
    return found


def _flags(measures: Sequence[Record], before: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    for gap in select(measures, measure=reading_measures.GAP, excludes_zero=True):
        where = {"variant": gap["variant"], "against": gap["against"]}
        terms = [
            {**logged, "default": default, "in_both": _ends_lower(default)}
            for term in reading_measures.TERMS
            for logged in select(measures, **where, measure=f"logged/{term}")
            for default in select(measures, **where, measure=f"default/{term}")
            if _ends_lower(logged)
        ]
        if gap["difference"] > 0 and terms:
            above = gap["first"] > before[reading_measures.GAP]
            yield {**where, "terms": terms, "gap": gap, "above_before": above}


def _ends_lower(record: Record) -> bool:
    return record["excludes_zero"] and record["difference"] < 0
