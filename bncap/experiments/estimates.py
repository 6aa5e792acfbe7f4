"""Estimates with 95 % intervals as flat records: made, rounded once, selected, and saved as CSV.

Every experiment reports its numbers in this shape.  A record names what was measured (``variant``, ``split``,
``metric``, ...), then holds a ``value`` or a ``difference``, the bounds ``low`` and ``high`` of its interval,
``excludes_zero``, and counts such as ``images`` and ``seeds``.  Numbers have :data:`DIGITS` decimals; an unknown one is
None in a record and empty in a CSV.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bncap import stats
from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths

DIGITS = 4
"""Decimals of a number in CSV and JSON: finer differences are those of processors."""
READINGS, ERRORS = "readings", "error_analysis"
EXTENDED = (READINGS, ERRORS)
"""What the notebooks of ``--extended`` save, beside the other results."""

Record = Mapping[str, Any]


def rounded(value: float) -> float | None:
    """``value`` with :data:`DIGITS` decimals; None for NaN, which JSON does not have."""
    return None if math.isnan(value) else round(float(value), DIGITS)


def bootstrap_estimate(name: str, value: float, replicates: NDArray[np.float64]) -> dict[str, Any]:
    """``value`` under ``name``, with the interval of its ``replicates`` (R,) in bootstrap samples.

    Samples in which the statistic is not defined (NaN) are left out.  ``excludes_zero`` is decided on the rounded
    bounds, so that a mark and the bounds beside it cannot disagree.
    """
    known = replicates[np.isfinite(replicates)]
    if math.isnan(value) or not len(known):
        return _estimate(name, stats.Interval(value, math.nan, math.nan))
    return _estimate(name, stats.interval(value, known))


def seed_difference(a: Mapping[int, float], b: Mapping[int, float]) -> dict[str, Any]:
    """``a`` minus ``b``, paired by seed: means ``first`` and ``second``, the mean ``difference`` and its Student's t
    interval over the ``seeds``; no bounds with one seed.

    a, b: seed -> value.  Raises BncapError where no seed is in both.
    """
    seeds = sorted(set(a) & set(b))
    if not seeds:
        raise BncapError("no seed has both scores: run both variants with the same seeds")
    interval = stats.student_interval([a[seed] - b[seed] for seed in seeds])
    first, second = (rounded(float(np.mean([side[seed] for seed in seeds]))) for side in (a, b))
    return {"first": first, "second": second, **_estimate("difference", interval), "seeds": len(seeds)}


def _estimate(name: str, interval: stats.Interval) -> dict[str, Any]:
    low, high = rounded(interval.low), rounded(interval.high)
    return {name: rounded(interval.value), "low": low, "high": high, "excludes_zero": excludes_zero(low, high)}


def excludes_zero(low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and (low > 0 or high < 0)


def select(records: Iterable[Record], **values: Any) -> list[Record]:
    """Those of ``records`` that have all of ``values``."""
    return [record for record in records if values.items() <= record.items()]


def first(records: Iterable[Record], **values: Any) -> Any:
    """The first record that has all of ``values``; None if there is none."""
    return next(iter(select(records, **values)), None)


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of ``frame`` as records, its numbers rounded."""
    return [
        {name: rounded(value) if isinstance(value, float) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def write_csv(path: Path, records: Sequence[Record], columns: Sequence[str]) -> Path:
    """Write ``columns`` of ``records`` as a CSV; returns ``path``.  What a record lacks or is None is empty."""
    frame = pd.DataFrame(list(records), columns=list(columns), dtype=object)
    artifacts.write_text(path, frame.to_csv(index=False, lineterminator="\n"))
    return path


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The records of :func:`write_csv`, None for what is empty."""
    frame = pd.read_csv(path).astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def write_extended(profile: str, name: str, content: dict[str, Any]) -> Path:
    """Write ``content`` with today's date and the commit as ``figures/<profile>/<name>.json``, one of :data:`EXTENDED`;
    a file that holds this content already keeps its date and commit.
    """
    path = _extended_file(profile, name)
    if path.is_file() and artifacts.read_json(path)["found"] == content:
        return path
    made = {"date": datetime.date.today().isoformat(), "commit": artifacts.git_commit()}
    artifacts.write_json(path, {"made": made, "found": content})
    return path


def read_extended(profile: str, name: str) -> dict[str, Any] | None:
    """``{"made": {"date", "commit"}, "found": ...}`` of :func:`write_extended`; None if that notebook was never run."""
    path = _extended_file(profile, name)
    return artifacts.read_json(path) if path.is_file() else None


def extended_files(profile: str) -> list[Path]:
    """The files of :data:`EXTENDED` that exist."""
    return [path for path in (_extended_file(profile, name) for name in EXTENDED) if path.is_file()]


def _extended_file(profile: str, name: str) -> Path:
    return paths.figures_dir(profile) / f"{name}.json"
