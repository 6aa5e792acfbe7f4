"""Stopping before a machine's session ends: long steps check the time wherever they can continue later."""

from __future__ import annotations

import os
import time

from bncap.errors import BncapError, OutOfTime

EXIT_STATUS = 75
"""Exit status of ``python -m bncap`` when the time is up: the same command continues (EX_TEMPFAIL)."""
VARIABLE = "BNCAP_DEADLINE"
"""Environment variable with the moment to stop, seconds since the epoch; notebooks and worker processes inherit it."""


def set_minutes(minutes: float) -> None:
    """Stop ``minutes`` from now, in this process and in those that it starts; :class:`BncapError` unless positive."""
    if not minutes > 0:
        raise BncapError(f"--minutes {minutes:g}: must be above 0")
    os.environ[VARIABLE] = str(time.time() + 60 * minutes)


def reached() -> bool:
    """Whether the time is up; never, if no limit was set."""
    return time.time() >= float(os.environ.get(VARIABLE, "inf"))


def check(done: str) -> None:
    """Raise :class:`OutOfTime` if the time is up; ``done`` is what is on disk, "shard 3: 1,280 of 41,412 captions"."""
    if reached():
        raise OutOfTime(f"time is up at {done}; everything so far is kept, start the same command again to go on")
