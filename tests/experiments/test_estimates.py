"""Estimates with intervals: made, written, read back, and kept with their date and commit."""

import datetime
import json
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bncap.errors import BncapError
from bncap.experiments import estimates
from bncap.pipeline import artifacts, paths


def test_results_carry_their_date_and_commit(artifacts_dir):
    path = estimates.write_extended("smoke", estimates.READINGS, {"rows": [1.5]})
    assert path == paths.figures_dir("smoke") / "readings.json"
    found = estimates.read_extended("smoke", estimates.READINGS)
    assert found["found"] == {"rows": [1.5]} and found["made"]["date"] == datetime.date.today().isoformat()
    assert found["made"]["commit"]


def test_the_same_results_keep_the_date_of_the_first_time(artifacts_dir):
    path = estimates.write_extended("smoke", estimates.ERRORS, {"rows": []})
    old = {**json.loads(path.read_text("utf-8")), "made": {"date": "2020-02-02", "commit": "abc"}}
    artifacts.write_json(path, old)
    estimates.write_extended("smoke", estimates.ERRORS, {"rows": []})
    assert estimates.read_extended("smoke", estimates.ERRORS)["made"] == {"date": "2020-02-02", "commit": "abc"}
    estimates.write_extended("smoke", estimates.ERRORS, {"rows": [1]})
    assert estimates.read_extended("smoke", estimates.ERRORS)["made"]["date"] != "2020-02-02"


def test_a_bootstrap_estimate_leaves_unknown_samples_out_and_is_decided_as_it_is_rounded():
    replicates = np.array([0.00004, *np.linspace(0, 1, 99), math.nan])
    estimate = estimates.bootstrap_estimate("value", 0.5, replicates)
    low, high = np.nanquantile(replicates, [0.025, 0.975])
    assert (estimate["value"], estimate["low"], estimate["high"]) == (0.5, round(low, 4), round(high, 4))
    assert (
        estimate["excludes_zero"] and not estimates.bootstrap_estimate("value", 0.1, replicates - 0.5)["excludes_zero"]
    )
    small = estimates.bootstrap_estimate("value", 1e-5, np.full(9, 1e-5))
    assert small["low"] == 0 and not small["excludes_zero"]
    unknown = {"value": None, "low": None, "high": None, "excludes_zero": False}
    assert estimates.bootstrap_estimate("value", math.nan, replicates) == unknown
    assert estimates.bootstrap_estimate("value", math.nan, np.array([math.nan])) == unknown


def test_a_difference_over_seeds_is_paired_and_has_the_interval_of_scipys_t_test():
    a, b = {1: 3.0, 2: 5.0, 3: 4.5, 9: 100.0}, {1: 1.0, 2: 2.0, 3: 2.5}
    oracle = scipy_stats.ttest_rel([3, 5, 4.5], [1, 2, 2.5]).confidence_interval(0.95)
    estimate = estimates.seed_difference(a, b)
    assert (estimate["low"], estimate["high"]) == pytest.approx((oracle.low, oracle.high), abs=1e-4)
    assert estimate["difference"] == pytest.approx(7 / 3, abs=1e-4)
    assert (estimate["first"], estimate["seeds"], estimate["excludes_zero"]) == (4.1667, 3, True)
    alone = estimates.seed_difference({1: 3.0}, {1: 1.0})
    assert (alone["difference"], alone["low"], alone["high"], alone["excludes_zero"]) == (2.0, None, None, False)
    with pytest.raises(BncapError, match="same seeds"):
        estimates.seed_difference({1: 3.0}, {2: 1.0})


def test_records_are_read_back_as_they_were_written(tmp_path):
    records = [
        {"variant": "pal", "value": 1.5, "count": 3, "certain": True},
        {"variant": "ot", "value": None, "count": 4},
    ]
    path = estimates.write_csv(tmp_path / "a" / "x.csv", records, ("variant", "value", "count", "certain"))
    assert path.read_text("utf-8") == "variant,value,count,certain\npal,1.5,3,True\not,,4,\n"
    assert estimates.read_csv(path) == [records[0], {**records[1], "certain": None}]
    assert estimates.first(records, variant="ot") is records[1] and estimates.first(records, variant="x") is None
    assert estimates.select(records, certain=True) == [records[0]]
