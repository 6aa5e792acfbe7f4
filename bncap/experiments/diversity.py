from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bncap.experiments.diagnostics import DEGENERATE, REFERENCE
from bncap.experiments.diagnostics import summarise_diversity as summarise  # noqa: F401
from bncap.experiments.diagnostics import write_diversity as write_table  # noqa: F401
from bncap.experiments.paper import SPLITS, label


def sentences(records: Sequence[dict[str, Any]]) -> list[str]:
    """What the records say: a warning for each variant that is degenerate, then a line for each split."""
    said = [
        f"WARNING: {_name(record)}, {SPLITS[record['split']]}, says the same of most pictures in at least one run: the "
        f"commonest caption of a run stands under {record['most_frequent_share']:.1f} % of them on average, such as "
        f"“{record['most_frequent']}”."
        for record in records
        if record["degenerate"]
    ] or [f"No run of any variant says the same of more than {DEGENERATE} % of the pictures."]
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


def _name(record: dict[str, Any]) -> str:
    return record["variant"] if record["variant"] == REFERENCE else label(record["variant"])
