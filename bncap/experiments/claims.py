"""The paper's claims set against what was measured: each holds here, does not hold, or cannot be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bncap.experiments.paper_claims import CLAIMS, Claim
from bncap.experiments.records import one

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
VERDICTS = (HOLDS, FAILS, OPEN)

SHOWN_DIGITS = {"pairs": 2, "grounding": 1, "alignment": 3, "convergence": 4}
"""Decimals that the report shows of a claim, by its section."""

Results = Mapping[str, Any]


def judge(results: Results, claims: Iterable[Claim] = CLAIMS) -> list[dict[str, Any]]:
    """A record for each claim whose difference is known: its words, the difference with its interval, and a verdict.

    A claim holds where the whole interval has the claimed sign, does not hold where all of it has the other, and cannot
    be told where 0 lies within or with one seed, which tells nothing of another.
    """
    judged = []
    for claim in claims:
        found = _measured(results, claim)
        if found is None or found["difference"] is None:
            continue
        low, high = found["low"], found["high"]
        verdict = OPEN
        seeds = found.get("seeds", len(results.get("seeds", ())))
        if seeds > 1 and low is not None and high is not None and (low > 0 or high < 0):
            verdict = HOLDS if claim.sign * low > 0 else FAILS
        names = ("id", "section", "says", "where", "measure", "first", "second", "paper", "note")
        numbers = {name: found[name] for name in ("difference", "low", "high")}
        judged.append({**{name: getattr(claim, name) for name in names}, **numbers, "verdict": verdict})
    return judged


def count(judged: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims have each verdict, all verdicts named."""
    verdicts = [record["verdict"] for record in judged]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}


def _measured(results: Results, claim: Claim) -> Mapping[str, Any] | None:
    section = results.get(claim.section) or []
    records = section if isinstance(section, list) else section.get("differences", [])
    return one(records, **dict(claim.select))
