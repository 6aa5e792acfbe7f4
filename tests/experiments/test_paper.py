"""The paper's claims, judged on differences that a test writes."""

import dataclasses

import pytest

from bncap.config import ALL_VARIANTS, MAIN
from bncap.experiments import paper
from bncap.experiments.paper import (
    BEFORE,
    CLAIMS,
    FAILS,
    HOLDS,
    OPEN,
    Claim,
    check_claims,
    count_verdicts,
    score_pairs,
)

RISES = Claim(
    "a", "rises", "Table 9", "BLEU-4", "pal", "ce_real", "pairs", (("variant", "pal"), ("metric", "B4")), 4.39
)
FALLS = dataclasses.replace(RISES, id="b", sign=-1)


def measured(low, high):
    return {
        "seeds": [42, 43],
        "pairs": [{"variant": "pal", "metric": "B4", "difference": 1.0, "low": low, "high": high}],
    }


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.5, 1.5, HOLDS), (-2.0, -0.1, FAILS), (-0.5, 2.5, OPEN), (None, None, OPEN), (0.0, 2.0, OPEN)],
)
def test_a_claim_is_judged_by_where_its_interval_lies(low, high, verdict):
    [record] = check_claims(measured(low, high), [RISES])
    assert record["verdict"] == verdict and (record["low"], record["high"]) == (low, high) and record["paper"] == 4.39


def test_one_seed_settles_nothing_whatever_its_interval_over_images():
    [record] = check_claims({**measured(0.5, 1.5), "seeds": [42]}, [RISES])
    assert record["verdict"] == OPEN and record["low"] == 0.5
    pairs = measured(0.5, 1.5)["pairs"]
    for seeds, verdict in ((1, OPEN), (2, HOLDS)):  # as a notebook has them, which judges pairs alone
        assert check_claims({"pairs": [{**pairs[0], "seeds": seeds}]}, [RISES])[0]["verdict"] == verdict


def test_what_was_not_measured_is_not_judged():
    assert check_claims({}, [RISES]) == [] and check_claims({"pairs": []}, [RISES]) == []
    assert (
        check_claims({"seeds": [1, 2], "pairs": {"differences": measured(1.0, 2.0)["pairs"]}}, [RISES])[0]["verdict"]
        == HOLDS
    )


def test_all_verdicts_are_counted():
    judged = check_claims(measured(0.5, 1.5), [RISES, FALLS])
    assert count_verdicts(judged) == {HOLDS: 1, FAILS: 1, OPEN: 0}


def test_each_claim_has_an_id_of_its_own_and_names_runs_that_are_made():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    assert {c.first for c in CLAIMS} | {c.second for c in CLAIMS} <= {*ALL_VARIANTS, BEFORE}


def test_what_the_paper_prints_is_the_difference_of_its_rows():
    printed = {claim.id: claim.paper for claim in CLAIMS}
    assert printed["full_B4"] == pytest.approx(12.29 - 5.80)
    assert printed["cnn_lstm_B4"] == pytest.approx(
        10.85 - 3.98
    )  # Table 1 has another row of the main model than Table 3
    assert printed["small_rho_METEOR"] == pytest.approx(17.5 - 10.9)
    assert printed["centroids_before"] == pytest.approx(paper.CENTROID_DISTANCE.after - paper.CENTROID_DISTANCE.before)
    assert printed["nouns_noun_precision"] is None and printed["centroids_ce_real"] is None
    assert printed["full_test_B4"] is None  # the paper has no cross-entropy in domain


def test_the_pairs_to_be_compared_are_those_of_the_claims_on_scores():
    pairs = score_pairs()
    assert len(pairs) == len(set(pairs)) and (MAIN, "ce_real", "ood") in pairs
    assert ("lambda0.5-tau0.7-rho0.1", "lambda0.5-tau1.0-rho0.5", "ood") in pairs
