"""Records of ``results.json``: finding them, and a difference with its interval as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Record = Mapping[str, Any]


def selected(record: Record, **wanted: Any) -> bool:
    """Whether ``record`` has all of ``wanted``."""
    return wanted.items() <= record.items()


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """Those of ``records`` that have all of ``wanted``."""
    return [record for record in records if selected(record, **wanted)]


def one(records: Iterable[Record], **wanted: Any) -> Record | None:
    """The first record that has all of ``wanted``; None if there is none."""
    return next((record for record in records if selected(record, **wanted)), None)


def interval(record: Record, digits: int = 2) -> str:
    """``-1.70 [-3.10, -0.40]``; the difference alone where there is no interval."""
    return with_interval(record, lambda value: f"{value:+.{digits}f}")


def with_interval(record: Record, shown: Callable[[float], str]) -> str:
    """:func:`interval` with each number as ``shown`` has it."""
    difference = shown(record["difference"])
    known = record["low"] is not None and record["high"] is not None
    return f"{difference} [{shown(record['low'])}, {shown(record['high'])}]" if known else difference
