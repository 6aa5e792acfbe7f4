"""Stopping when the minutes are used up."""

import pytest

from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import deadline


def test_when_the_minutes_are_used_up_it_says_how_far_the_work_is(monkeypatch):
    monkeypatch.setenv(deadline.VARIABLE, "")
    monkeypatch.delenv(deadline.VARIABLE)
    assert not deadline.reached(), "without a limit"
    now = 1000.0
    monkeypatch.setattr(deadline.time, "time", lambda: now)
    deadline.set_minutes(2)
    deadline.check("step 1")
    now = 1119.9
    deadline.check("step 2")
    now = 1120.0
    with pytest.raises(OutOfTime, match="step 3.*same command again"):
        deadline.check("step 3")


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_minutes_must_be_positive(minutes):
    with pytest.raises(BncapError, match="--minutes"):
        deadline.set_minutes(minutes)
