import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bncap.bench import data, features, growth, harness, hours, memory, mini, operations, ot, page
from bncap.bench.harness import Ratio, Result, Row
from bncap.commands.random_models import MBART50
from bncap.config import MAIN
from bncap.errors import BncapError

FLOOR = {"ours, fp32": 0.1, "ours, bf16": 0.05, "plain, fp32": 0.4, "plain, bf16": 0.2}
SECONDS = {"ours, fp32": 0.5, "ours, bf16": 0.125, "plain, fp32": 8.0, "plain, bf16": 2.0}


def measured(bench, device="cpu", size="full", **changed):
    rows = [Row(name, (seconds, seconds), 8 / seconds, "samples/s") for name, seconds in SECONDS.items()]
    result = Result(bench, size, device, "made up", tuple(rows), (), {"floor_seconds": FLOOR})
    return replace(result, **changed)


def grown(device="cpu"):
    points = [
        {"axis": axis, "value": value, "seconds": [0.1 * value, 0.1 * value], "peak": 10**9}
        | ({"disk": value * 1000} if axis == growth.EPOCH else {})
        for axis in growth.AXES
        for value in (2, 4, 8, 16, 32)
    ]
    return measured("growth", device, details={"points": points, "axes": list(growth.AXES.items())})


def stored(result, folder, monkeypatch):
    """As harness.save writes it, on a CUDA machine that is made up."""
    if result.device == "cuda":
        monkeypatch.setattr(harness, "machine", lambda device: {"processor": "p", "gpu": "Some GPU"})
    return harness.save(result, folder)


def test_the_three_solvers_agree_and_their_ratios_are_those_of_the_medians():
    result = ot.run("mini", "cpu", 1)
    seconds = {row.name: row.median for row in result.rows}
    theirs = [seconds["POT in a loop, kept patches"], seconds["POT in a loop, all patches"]]
    theirs.append(min(seconds["geomloss, kept patches"], seconds["geomloss, all patches"]))
    assert [ratio.value for ratio in result.ratios] == [others / seconds["ours"] for others in theirs]
    values = result.details["values"]
    assert values["POT in a loop, kept patches"] == pytest.approx(values["ours"], 1e-4)
    assert all(10 <= kept <= 20 for kept in result.details["kept"])


def test_a_contender_that_solves_another_problem_is_refused():
    problem = ot.random_problem(4, 9, 6, "cpu")
    sharper = replace(problem, loss=replace(problem.loss, epsilon=0.5))
    with pytest.raises(BncapError, match="do not solve the same problem"):
        ot.check({"ours": lambda: ot.ours(problem), "POT": lambda: ot.pot(sharper)})


def test_gathered_patches_carry_the_whole_mass():
    problem = ot.random_problem(5, 16, 3, "cpu")
    x, _, w = ot.gathered(problem)
    assert torch.allclose(w.sum(1), torch.ones(5)) and x.shape[1] == w.shape[1] < 16
    assert torch.allclose(torch.einsum("bs,bsd->bd", w, x), torch.einsum("bs,bsd->bd", problem.w, problem.x))


def test_operations_of_the_transport_are_counted_on_kept_patches():
    problem = ot.random_problem(1, 4, 8, "cpu")
    problem = replace(problem, w=torch.tensor([[0.5, 0.0, 0.5, 0.0]]))
    counted = ot.operations(problem)
    assert counted == {
        "multiply_adds": 3 * 2 * 2 * 8,
        "exponentials": 2 * problem.loss.n_iters * 4,
        "bytes": (4 * 2 + 2 * 4) * 8 * 4,
    }


def test_features_are_read_against_jpegs_that_decode(tmp_path):
    size = features.Size(80, 4, 8, features.READ, 3)
    store = features.FeatureStore(features.write_store(tmp_path, size, np.random.default_rng(0)))
    assert store.take("train", np.array([79, 0])).shape == (2, 4, 8)
    written = features.write_pictures(tmp_path / "pictures", 2, np.random.default_rng(0))
    assert [picture.size for picture in features.decode(written)] == [features.PICTURE] * 2
    assert 120_000 < written[0].stat().st_size < 200_000, "as large as COCO's"
    assert Image.open(written[0]).tobytes() != Image.open(written[1]).tobytes()
    assert features._cold_rows(store.folder, size, np.random.default_rng(0)) > 0


def test_captions_come_back_whole_from_shards_and_corpus(tmp_path, monkeypatch):
    from bncap.data import translations

    monkeypatch.setattr(translations, "Verifier", None)  # put back what the bench sets in a process of its own
    for name in ("BNCAP_DATA", "BNCAP_ARTIFACTS", "TQDM_DISABLE"):
        monkeypatch.setenv(name, "")
    size = data.Size(6100, 1220, 1700, 1100)
    data.write_data(tmp_path / "data", size)
    found = data.build_and_read(tmp_path / "data", tmp_path / "artifacts")
    assert found["captions"] == size.captions
    assert found["pairs"] == found["accepted"] == pytest.approx(0.8 * (6100 + 5 * 2500), rel=0.02)
    assert found["built"] > found["merge"] > 0 and found["peak"] > 10**7


def test_made_up_captions_are_in_the_layout_of_coco(tmp_path):
    data.write_data(tmp_path, data.Size(50, 10, 4, 2))
    content = json.loads((tmp_path / "annotations" / "captions_train2014.json").read_text())
    ids = {image["id"] for image in content["images"]}
    assert len(content["annotations"]) == 50 and {a["image_id"] for a in content["annotations"]} == ids
    assert len({a["id"] for a in content["annotations"]}) == 50
    assert (tmp_path / "flickr30k" / "results.csv").read_text().count("\n") == 1 + 5 * 2


def test_notebook_seconds_are_read_off_the_lines_of_a_run():
    lines = ["00_mini_world: running ...", "00_mini_world: 116 s", "01_data_build: up to date", "04_training: 7 s", "x"]
    assert mini.notebook_seconds(lines) == {"00_mini_world": 116, "04_training": 7}


def test_the_mini_bench_tells_which_steps_a_start_made(tmp_path, monkeypatch):
    def begin(profile, root, device, options=()):
        made = {(): ("01_data_build/corpus-s42", "04_training/ce_real-s42"), mini.CHANGED: ("04_training/ce_real-s42",)}
        first = not (root / "x").exists()
        (root / "x").touch()
        return mini.Start(
            500.0 if first else 9.0, {"04_training": 70.0}, made[tuple(options)] if first or options else ()
        )

    monkeypatch.setattr(mini, "start", begin)
    result = mini.run("full", "cpu", 2)
    assert result.size == "mini"
    assert [ratio.value for ratio in result.ratios] == [500, 9, 0, 0]
    assert [ratio.reached for ratio in result.ratios] == [False, True, True, True]
    assert result.ratios[0].bound == "04_training 70 s"
    assert result.rows[-1].note == "made 1 in 04_training" and result.rows[-2].note == "nothing made"
    assert len(result.rows[-2].seconds) == 2


def test_a_run_of_the_miniature_that_fails_is_an_error(tmp_path):
    with pytest.raises(BncapError, match="there is no notebook '77'"):
        mini.start("smoke", tmp_path, "cpu", ("--only", "77"))


def test_growth_measures_steps_and_epochs(tmp_path):
    values = {**growth.GROWTH["mini"].values, "triplets": (20, 70)}
    setting = replace(growth.GROWTH["mini"], values=values)
    point = growth.step_point("tokens", 8, setting, "cpu", "fp32", 1)
    assert (point["axis"], point["value"], len(point["seconds"])) == ("tokens", 8, 1) and "peak" in point
    written = growth.write_triplets(tmp_path, setting)
    small, large = (growth.epoch_point(value, setting, written, "cpu", 1) for value in (20, 70))
    assert large["disk"] == (70 + 14) * growth.contenders.PATCHES * setting.channels * 2 > small["disk"]


def test_every_axis_of_growth_has_five_ascending_points_at_both_sizes():
    for setting in growth.GROWTH.values():
        assert list(setting.values) == list(growth.AXES)
        assert all(len(v) == 5 and list(v) == sorted(v) for v in setting.values.values())


def test_the_peak_of_memory_can_begin_anew():
    held = torch.ones(30_000_000)
    assert memory.resident("VmHWM") >= held.nbytes
    del held
    memory.forget_peak()
    assert memory.resident("VmHWM") <= memory.resident("VmRSS") + 5_000_000
    with pytest.raises(BncapError, match="VmNothing"):
        memory.resident("VmNothing")


def test_operations_of_the_decoder_are_those_worked_out_by_hand():
    decoder, T, S, D = operations.mbart(5000), 6, 49, 1024
    layer = T * (4 * D * D + 2 * D * D + 2 * D * 4096) + S * 2 * D * D + 2 * T * T * D + 2 * T * S * D
    by_hand = 2 * (MBART50["decoder_layers"] * layer + S * 768 * D)
    assert operations.body(decoder, T) == pytest.approx(by_hand, rel=1e-6)
    assert decoder.head(T) == 2 * T * D * 5000
    assert 2.7 < operations.body(decoder, T, backward=True) / operations.body(decoder, T) <= 3
    again = operations.training(decoder, 4, T, again=True).operations - operations.training(decoder, 4, T).operations
    assert again == 4 * operations.body(decoder, T)


def test_the_counted_encoder_has_its_published_operations():
    assert operations.encoding("resnet50").operations / 2e9 == pytest.approx(4.1, abs=0.1)


def test_runs_have_the_papers_steps():
    main, quick = hours.run_of(MAIN), hours.run_of("lambda0.5-tau1.0-rho0.5")
    assert (main.steps, quick.steps, main.tested) == (6 * 2500, 6 * 1250, 2000)
    assert main.parts["training"].operations == main.steps * main.step.operations
    assert {name: len(runs) for name, runs in hours.tables().items()} == {
        "Table 2": 2, "Table 1": 2, "Table 3": 6, "Table 4": 4,
    }  # fmt: skip
    both = hours.run_of("ce_real_syn").step.operations / hours.run_of("ce_real").step.operations
    assert both == 2
    plain = hours.run_of(MAIN, plain=True)
    assert plain.step.operations > main.step.operations + 2 * 32 * operations.encoding(hours.ENCODERS[""]).operations


def test_a_card_that_was_not_measured_has_its_peaks_times_the_share_that_the_step_reaches(tmp_path, monkeypatch):
    assert hours.clocks(tmp_path) == []
    stored(measured("step"), tmp_path, monkeypatch)
    t4 = hours.clocks(tmp_path)[0]
    assert (t4.name, t4.operations, t4.bytes) == ("T4", 65e12 * 0.4, 320e9 * 0.4)
    assert t4.hours(operations.Work(65e12 * 0.4 * 3600, 320e9 * 0.4 * 3600)) == pytest.approx(2)
    assert hours.clocks(tmp_path, plain=True)[0].operations == pytest.approx(65e12 * 0.1)
    slower = {name: 2 * seconds for name, seconds in SECONDS.items()}
    rows = tuple(Row(name, (seconds,), 1 / seconds, "pictures/s") for name, seconds in slower.items())
    stored(measured("decode", rows=rows), tmp_path, monkeypatch)
    t4 = hours.clocks(tmp_path)[0]
    work = operations.Work(1e15, 1e12)
    assert t4.hours(work, "decoding") == pytest.approx(2 * t4.hours(work))


def test_a_card_that_was_measured_is_as_fast_as_it_was(tmp_path, monkeypatch):
    stored(measured("step", "cuda"), tmp_path, monkeypatch)
    gpu, t4, _ = hours.clocks(tmp_path)
    main = hours.run_of(MAIN)
    assert gpu.name == "Some GPU" and gpu.measured and not t4.measured
    assert gpu.hours(main.parts["training"]) == pytest.approx(main.steps * 32 / 64 / 3600)
    stored(grown("cuda"), tmp_path, monkeypatch)
    stored(measured("decode", "cuda"), tmp_path, monkeypatch)
    gpu = hours.clocks(tmp_path)[0]
    assert gpu.hours(main.parts["training"]) == pytest.approx(main.steps * 3.2 / 3600)
    assert gpu.hours(main.parts["decoding"], "decoding") == pytest.approx(2000 / 64 / 3600)
    assert math.isinf(gpu.bytes)


def test_the_page_is_written_from_the_files_alone(tmp_path, monkeypatch):
    with pytest.raises(BncapError, match="holds no benchmark"):
        page.write(tmp_path)
    missed = Ratio("A / B", 3.0, 20, bound="bytes")
    stored(measured("ot", size="mini", ratios=(missed, Ratio("seconds", 5.0, 60, most=True))), tmp_path, monkeypatch)
    assert "No full-size training step was measured" in page.write(tmp_path).read_text("utf-8")
    stored(measured("step"), tmp_path, monkeypatch)
    stored(grown(), tmp_path, monkeypatch)
    text = page.write(tmp_path).read_text("utf-8")
    assert "| `ot --size mini --device cpu` | A / B | 3 | ≥ 20 | missed: bytes |" in text
    assert "| seconds | 5 | ≤ 60 | reached |" in text
    assert "derived, not measured on such a card" in text and "a step (ours, bf16) reaches 40.0%" in text
    assert "triplets a batch: × 16 from 2 to 32 costs × 16 the time and × 1 the memory" in text
    clock, runs = hours.clocks(tmp_path)[0], hours.tables()
    total = sum(hours.sums(clock, runs).values()) + sum(clock.hours(work) for work in hours.features().values())
    assert f"| **sum** |  | **{total:.1f} h** |" in text
    assert f"| of a week's 30 h |  | {total / 30:.0%} |" in text
    assert Image.open(tmp_path / "growth.png").size[0] > 1000 and (tmp_path / "growth.pdf").is_file()
    first = (tmp_path / "growth.png").read_bytes()
    assert page.write(tmp_path).read_text("utf-8") == text and (tmp_path / "growth.png").read_bytes() == first
