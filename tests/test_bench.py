"""What the benchmarks share, those of the training step and of decoding on small models, and the command."""

from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest
import torch

from bncap import bench
from bncap.__main__ import main
from bncap.bench import ceiling, contenders, decode, harness, step
from bncap.bench.harness import Ratio, Result, Row
from bncap.commands import full_size
from bncap.commands.random_models import MINI
from bncap.errors import BncapError

TINY = step.Setting(MINI, 4, 6)


@pytest.fixture(scope="module")
def measured():
    """The results of both benchmarks on a few pictures, fp32 alone, memory and ceilings made up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(step.SETTINGS, "mini", TINY)
        patch.setitem(decode.SETTINGS, "mini", decode.Setting(MINI, 3, 6))
        patch.setattr(step, "_peak", lambda function, *rest: 30 if function is step.plain_alone else 10)
        patch.setattr(contenders, "precisions", lambda device: ("fp32",))
        patch.setattr(ceiling, "gemm_flops", lambda device, dtype: 1e9)
        patch.setattr(ceiling, "copy_bytes", lambda device: 1e9)
        yield {"step": step.run("mini", "cpu", 1), "decode": decode.run("mini", "cpu", 1)}


def result(**changes):
    rows = (Row("ours", (3.0, 1.0, 2.0), 4.0, "samples/s", 5_000_000), Row("plain", (9.0,)))
    return Result(**{"bench": "step", "size": "mini", "device": "cpu", "setting": "B = 2", "rows": rows, **changes})


def test_contenders_take_turns_after_a_call_of_each():
    calls = []
    seconds = harness.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_reached_from_its_side():
    assert Ratio("faster", 4.0, 4.0).reached and not Ratio("faster", 3.9, 4.0).reached
    assert Ratio("GiB", 12.0, 13.0, most=True).reached and not Ratio("GiB", 14.0, 13.0, most=True).reached
    assert Ratio("beside", 0.1).reached


def test_the_table_shows_medians_and_what_was_missed():
    lines = harness.table(result(ratios=(Ratio("faster", 2.0, 4.0, bound="copies"), Ratio("beside", 7.0)))).splitlines()
    assert lines[2].split() == ["ours", "2", "1", "3", "4", "samples/s", "5"]
    assert lines[-2:] == ["faster: 2 (wanted >= 4: MISSED); copies", "beside: 7"]


def test_the_file_names_machine_versions_and_commit(tmp_path):
    path = harness.save(result(ratios=(Ratio("faster", 2.0, 4.0),)), tmp_path)
    assert path.name == "step-mini-cpu.json"
    saved = json.loads(path.read_text("utf-8"))
    assert saved["rows"][0]["median"] == 2.0 and saved["ratios"][0]["reached"] is False
    assert saved["machine"]["cores"] >= 1 and saved["packages"]["torch"] in torch.__version__ and saved["commit"]


def test_peak_memory_is_that_of_the_call_alone():
    assert 64e6 < harness.peak_memory(np.ones, 8_000_000) < 80e6
    assert harness.MALLOC not in os.environ


def test_a_step_is_measured_against_the_plain_reading_on_equal_terms(measured):
    found = measured["step"]
    assert [row.name for row in found.rows] == ["ours, fp32", "plain, fp32"]
    assert all(len(row.seconds) == 1 and row.rate == 4 / row.median for row in found.rows)
    assert found.details["terms"]["ours"] == pytest.approx(found.details["terms"]["plain"], rel=1e-3)
    speed, memory = found.ratios
    assert speed.value == found.rows[1].median / found.rows[0].median and memory.value == 3


def test_the_operations_of_a_step_are_those_counted_by_hand(measured):
    counted = measured["step"].details["operations"]["ours, fp32"]
    B, T, S, D, C, F, V = 4, 6, 49, 96, 128, 256, 437
    tokens, patches = 2 * B * T * D, 2 * B * S * D
    per_layer = tokens * (6 * D + 2 * F) + patches * 2 * D + 2 * 2 * B * T * D * (T + S)
    forward = 2 * per_layer + tokens * V + 2 * patches * C
    frozen = 2 * patches * C  # the features need no gradient
    assert counted == pytest.approx(3 * forward - frozen, rel=0.03)


def test_both_train_every_weight_but_the_encoders_and_the_idle_text_encoders(measured):
    found = measured["step"].details["trained_parameters"]
    sizes = full_size.parameter_counts(MINI)
    assert found["ours"] == found["plain"] == sizes["  decoder layers and positions"] + sizes["bridge"] + 437 * 96


def test_a_search_is_measured_against_the_plain_readings_with_equal_captions(measured):
    found = measured["decode"]
    assert [row.name for row in found.rows] == ["ours, fp32", "plain, fp32"]
    assert found.details["equal_captions"].startswith("3 of 3")
    assert found.ratios[0].value == found.rows[1].median / found.rows[0].median


def test_every_search_is_of_full_length():
    plain = contenders.plain_reading(MINI, 6, "cpu").eval()
    given = contenders.pictures(plain, 3, MINI.side, "cpu")
    model = contenders.captioner(MINI, MINI.channels, "cpu").eval()
    decode.forbid(model, plain.mbart.final_logits_bias, contenders.give_weights(model, plain))
    found = decode.ours(model, given.features, 6, "fp32")
    assert found.shape == (3, 7) and found[:, -1].eq(2).all() and not found[:, 1:-1].eq(2).any()


def test_a_ratio_that_is_missed_says_what_bounds_it():
    rows = [
        Row("ours, fp32", (2.0,)),
        Row("ours, bf16", (1.0,)),
        Row("plain, fp32", (10.0,)),
        Row("plain, bf16", (6.0,)),
    ]
    floors = {"ours, fp32": 1.0, "ours, bf16": 0.5}
    found = contenders.ratios(rows, "samples/s", "cpu", 15, floors)
    assert [ratio.value for ratio in found] == [5, 10, 6]
    assert [ratio.wanted for ratio in found] == [15, None, None]
    assert found[0].bound.endswith("50% of its time: in fp32 none could pass 10.0") and not found[1].bound


def test_without_the_repository_there_is_nothing_to_compare_with(monkeypatch, tmp_path):
    monkeypatch.setattr(contenders, "PLAIN", tmp_path / "plain_reading.py")
    monkeypatch.delitem(sys.modules, "plain_reading", raising=False)
    with pytest.raises(BncapError, match=r"plain_reading.py is missing: this benchmark needs a clone"):
        contenders.plain_reading(MINI, 6, "cpu")


def test_the_command_runs_all_in_order_and_the_page_last(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(bench, "run", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("bncap.bench.page.write", lambda folder: folder / "README.md")
    assert main(["bench", "--device", "cpu", "--repeats", "2", "--out", str(tmp_path)]) == 0
    assert calls == [(name, "mini", "cpu", 2, tmp_path) for name in bench.BENCHES]
    assert capsys.readouterr().out == f"written to {tmp_path / 'README.md'}\n"
    assert main(["bench", "ot", "decode", "--size", "full", "--device", "cpu"]) == 0
    assert calls[-2:] == [("ot", "full", "cpu", 3, None), ("decode", "full", "cpu", 3, None)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ot", "steps"], "there is no bench 'steps'; there are step, ot, decode, features, data, mini, growth, page"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--device", "cuda"], "--device cuda: torch finds no GPU here; leave the option out to measure the processor"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_measured(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(bench, "run", lambda *arguments: pytest.fail("measured"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", *arguments]) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
