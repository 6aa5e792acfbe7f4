"""What seldom runs is kept with the day and the commit of its making."""

import datetime
import json

from bncap.experiments import extended
from bncap.pipeline import artifacts, paths


def test_results_carry_their_date_and_commit(artifacts_dir):
    path = extended.write("smoke", extended.READINGS, {"rows": [1.5]})
    assert path == paths.figures_dir("smoke") / "readings.json"
    found = extended.read("smoke", extended.READINGS)
    assert found["found"] == {"rows": [1.5]} and found["made"]["date"] == datetime.date.today().isoformat()
    assert found["made"]["commit"]


def test_the_same_results_keep_the_date_of_the_first_time(artifacts_dir):
    path = extended.write("smoke", extended.ERRORS, {"rows": []})
    old = {**json.loads(path.read_text("utf-8")), "made": {"date": "2020-02-02", "commit": "abc"}}
    artifacts.write_json(path, old)
    extended.write("smoke", extended.ERRORS, {"rows": []})
    assert extended.read("smoke", extended.ERRORS)["made"] == {"date": "2020-02-02", "commit": "abc"}
    extended.write("smoke", extended.ERRORS, {"rows": [1]})
    assert extended.read("smoke", extended.ERRORS)["made"]["date"] != "2020-02-02"


def test_what_was_never_run_is_none_and_no_file(artifacts_dir):
    assert extended.read("smoke", extended.READINGS) is None and extended.result_files("smoke") == []
    extended.write("smoke", extended.READINGS, {})
    assert [path.name for path in extended.result_files("smoke")] == ["readings.json"]
