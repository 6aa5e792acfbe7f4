"""Does a captioner look at the picture, or say the same of every one?  Variety and lengths of its captions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bncap import metrics
from bncap.config import BASELINES, VARIANTS
from bncap.data.corpus import collect_references, read_corpus
from bncap.errors import BncapError
from bncap.experiments.paper import SPLITS, label
from bncap.experiments.runs import folder_of
from bncap.experiments.scores import known
from bncap.pipeline import artifacts, paths
from bncap.report import findings
from bncap.settings import Config
from bncap.text import iso, tokenise

REFERENCE = "references"
"""Stands in the place of a variant for the reference captions of the same pictures."""
MEASURES = ("distinct", "vocabulary", "mean_length", "most_frequent_share")
TABLE_HEADER = ("variant", "split", *MEASURES, "most_frequent", "degenerate", "captions", "seeds")


def summarise(config: Config, first_seed: int) -> list[dict[str, Any]]:
    """A record for each split and each variant of Tables 1 and 3, and first for the references.

    - ``distinct`` and ``most_frequent_share`` (per cent), ``vocabulary`` (words) and ``mean_length`` (tokens): means
      over the seeds of :func:`bncap.metrics.diversity`;
    - ``most_frequent``: the caption said most often in all seeds' runs together;
    - ``degenerate``: in some seed's run one caption stands under more than
      :data:`bncap.report.findings.DEGENERATE` per cent of the pictures;
    - ``lengths``: per cent of the captions that have 0, 1, 2, ... tokens, over all seeds.

    For the references one is drawn of each picture with each seed, so that there are as many as a run has captions.
    Raises BncapError, with the command that makes it, for a run that is not finished.
    """
    corpus = paths.step_dir(config.profile, "01_data_build", "corpus", config.data.seed)
    pairs, seeds, records = read_corpus(corpus), config.seeds(first_seed), []
    for split in SPLITS:
        images, written = collect_references(pairs, split)
        runs = {REFERENCE: [_one_each(written, seed) for seed in seeds]}
        for variant in (*VARIANTS, *BASELINES):
            runs[variant] = [_captions(config, variant, seed, split) for seed in seeds]
            if len(runs[variant][0]) != len(images):
                raise BncapError(
                    f"{variant} has {len(runs[variant][0])} captions of the {len(images)} pictures of split {split}; "
                    "score it anew"
                )
        records += [_record(config, variant, split, found) for variant, found in runs.items()]
    return records


def sentences(records: Sequence[dict[str, Any]]) -> list[str]:
    """What the records say: a warning for each variant that is degenerate, then a line for each split."""
    said = [
        f"WARNING: {_name(record)}, {SPLITS[record['split']]}, says the same of most pictures in at least one run: the "
        f"commonest caption of a run stands under {record['most_frequent_share']:.1f} % of them on average, such as "
        f"“{record['most_frequent']}”."
        for record in records
        if record["degenerate"]
    ] or [f"No run of any variant says the same of more than {findings.DEGENERATE} % of the pictures."]
    for split in dict.fromkeys(record["split"] for record in records):
        human, *others = [record for record in records if record["split"] == split]
        least, most = (pick(others, key=lambda record: record["distinct"]) for pick in (min, max))
        words, lengths = ([record[name] for record in others] for name in ("vocabulary", "mean_length"))
        said.append(
            f"Distinct captions {SPLITS[split]}: {least['distinct']:.1f} % ({_name(least)}) to {most['distinct']:.1f} "
            f"% ({_name(most)}), of the references {human['distinct']:.1f} %. "
            f"The captions use {min(words):.0f} to {max(words):.0f} different words and are {min(lengths):.1f} to "
            f"{max(lengths):.1f} tokens long; the references use {human['vocabulary']:.0f} and have "
            f"{human['mean_length']:.1f}."
        )
    return said


def write_table(config: Config, records: Sequence[dict[str, Any]]) -> Path:
    """``figures/<profile>/diversity.csv``, a row for each record."""
    path = paths.figures_dir(config.profile) / "diversity.csv"
    artifacts.write_csv(path, TABLE_HEADER, ([record[column] for column in TABLE_HEADER] for record in records))
    return path


def _name(record: dict[str, Any]) -> str:
    return record["variant"] if record["variant"] == REFERENCE else label(record["variant"])


def _record(config: Config, variant: str, split: str, runs: Sequence[Sequence[str]]) -> dict[str, Any]:
    lang = iso(config.data.lang)
    found = [metrics.diversity(captions, lang) for captions in runs]
    everything = [caption for captions in runs for caption in captions]
    lengths = Counter(len(tokenise(caption, lang)) for caption in everything)
    return {
        "variant": variant,
        "split": split,
        **{name: known(float(np.mean([each[name] for each in found]))) for name in MEASURES},
        "most_frequent": metrics.diversity(everything, lang)["most_frequent"],
        "degenerate": max(each["most_frequent_share"] for each in found) > findings.DEGENERATE,
        "lengths": [known(100 * lengths[n] / len(everything)) for n in range(max(lengths) + 1)],
        "captions": len(runs[0]),
        "seeds": len(runs),
    }


def _one_each(written: Sequence[Sequence[str]], seed: int) -> list[str]:
    rng = random.Random(seed)
    return [rng.choice(captions) for captions in written]


def _captions(config: Config, variant: str, seed: int, split: str) -> list[str]:
    folder = artifacts.require(folder_of(config, variant, seed))
    return [row["caption"] for row in artifacts.read_csv(folder / f"captions_{split}.csv")]
