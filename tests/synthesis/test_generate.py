"""Triplets, tar shards and sidecars: what is drawn, resumed, shared and merged; real pipelines with random weights."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
import tarfile
import time

import numpy as np
import pytest
import torch
from PIL import Image

from bncap.config import get_config
from bncap.data.pairs import Pair
from bncap.errors import BncapError, OutOfTime
from bncap.mini.models import MiniSynthesiser
from bncap.pipeline import artifacts, paths
from bncap.pipeline.artifacts import read_csv, read_json
from bncap.synthesis import generate, shards
from bncap.synthesis.audit import audit_pictures
from bncap.synthesis.generate import TimeEstimate, build_images, draw_pairs, draw_shards
from bncap.synthesis.prompts import joint_prompt
from bncap.synthesis.shards import PictureStore

PAIRS = [
    Pair(10 * image + k, str(image), f"train2014/{image}.jpg", "train", f"A red ball {image} {k}.", "একটি লাল বল।", 0.9)
    for image in range(30)
    for k in range(5)
]  # fmt: skip
SMALL = ("data.triplets=7", "synthesis.batch=2", "synthesis.shard=3")  # tar shards of 3, 3 and 1 pictures
KANDINSKY = (
    "components.synthesiser=kandinsky-community/kandinsky-2-1",
    "components.synthesiser_prior=kandinsky-community/kandinsky-2-1-prior",
    "synthesis.side=64", "synthesis.stored_side=32", "synthesis.prior_steps=2", "synthesis.steps=2",
)  # fmt: skip


def write_corpus(pairs):
    header = [field.name for field in dataclasses.fields(Pair)]
    rows = [dataclasses.astuple(pair) for pair in pairs]
    digest = hashlib.sha256(repr(rows).encode()).hexdigest()
    artifacts.run_step(
        paths.step_dir("smoke", "01_data_build", "corpus", 42),
        settings={"pairs": digest},
        build=lambda folder: artifacts.write_csv(folder / "corpus.csv", header, rows),
        quiet=True,
    )


@pytest.fixture
def config(artifacts_dir):
    write_corpus(PAIRS)
    return get_config("smoke", SMALL)


@pytest.fixture
def prompts_drawn(monkeypatch):
    """The prompts that the mini synthesiser is given, call by call."""
    calls = []
    draw = MiniSynthesiser.draw
    monkeypatch.setattr(MiniSynthesiser, "draw", lambda self, p, n, s: calls.append(p) or draw(self, p, n, s))
    return calls


def shard(number, count=3):
    return paths.step_dir("smoke", "02_synthesis", f"pictures.{number:04d}of{count:04d}", 42)


def test_the_draw_takes_at_most_so_many_captions_of_an_image_and_is_sorted():
    drawn = draw_pairs(PAIRS, 50, 2, seed=1)
    assert len(drawn) == 50 and [p.caption_id for p in drawn] == sorted(p.caption_id for p in drawn)
    counts = np.unique([p.image_id for p in drawn], return_counts=True)[1]
    assert counts.max() == 2


def test_the_draw_is_seeded_whatever_the_order_of_the_corpus_and_nested_in_its_size():
    drawn = draw_pairs(PAIRS, 20, 2, seed=1)
    assert draw_pairs(PAIRS[::-1], 20, 2, seed=1) == drawn
    assert draw_pairs(PAIRS, 20, 2, seed=2) != drawn
    assert set(draw_pairs(PAIRS, 8, 2, seed=1)) < set(drawn)


def test_only_training_pairs_are_drawn_and_fewer_if_there_are_no_more():
    other = Pair(999, "999", "val2014/999.jpg", "test", "A cat.", "একটি বিড়াল।", 0.9)
    assert len(draw_pairs([*PAIRS, other], 1000, 5, seed=1)) == len(PAIRS)


def test_every_triplet_has_a_picture_and_a_sidecar_whose_hashes_hold(config):
    folder = build_images(config)
    rows, store = read_csv(folder / "triplets.csv"), PictureStore(config)
    counts = read_json(folder / "counts.json")
    assert len(rows) == 7 == counts["triplets"] == counts["paired"] == counts["drawn_images"]
    by_id = {str(p.caption_id): p for p in PAIRS}
    for row in rows:
        sidecar, content = store.sidecar(row["synthetic"]), store.find(row["synthetic"]).read()
        pair = by_id[row["caption_id"]]
        assert (row["image"], row["en"], row["target"]) == (pair.image, pair.en, pair.target)
        assert sidecar["prompt"] == joint_prompt(pair.en, pair.target)
        assert sidecar["prompt_sha256"] == hashlib.sha256(sidecar["prompt"].encode()).hexdigest()
        assert sidecar["image_sha256"] == hashlib.sha256(content).hexdigest()
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert sidecar["drawn_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
        assert sidecar["negative_prompt"] == config.synthesis.negative_prompt


def test_a_tar_shard_holds_so_many_pictures_and_nothing_else_is_left(config):
    build_images(config)
    ids = []
    for number, size in enumerate((3, 3, 1)):
        assert {path.name for path in shard(number).iterdir()} == {
            "pictures.tar", "index.csv", "prompts.csv", "manifest.json"}  # fmt: skip
        with tarfile.open(shard(number) / "pictures.tar") as archive:
            names = archive.getnames()
        assert len(names) == 2 * size
        ids += [int(name.removesuffix(".png")) for name in names[::2]]
    assert ids == sorted(ids) == [p.caption_id for p in draw_pairs(PAIRS, 7, 2, 42)]


def test_an_interrupted_shard_keeps_whole_pictures_and_mends_the_others(config, monkeypatch, prompts_drawn):
    config = get_config("smoke", ["data.triplets=7", "synthesis.batch=3", "synthesis.shard=7"])
    build_images(config)
    before = (shard(0, 1) / "pictures.tar").read_bytes()
    shutil.rmtree(shard(0, 1))
    assert len(prompts_drawn) == 3
    with monkeypatch.context() as patch:
        patch.setattr("bncap.synthesis.shards.pack_shard", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_images(config)
    loose = sorted((shard(0, 1) / "loose").glob("*.png"), key=lambda path: int(path.stem))
    assert len(loose) == 7
    loose[-1].write_bytes(b"half a picture")  # in the last batch, which holds one picture

    prompts_drawn.clear()
    build_images(config)
    assert len(prompts_drawn) == 1 and len(prompts_drawn[0]) == 3  # one batch, filled up with its only request
    assert len(set(prompts_drawn[0])) == 1
    assert (shard(0, 1) / "pictures.tar").read_bytes() == before


def test_when_the_time_is_up_the_batch_is_finished_and_the_next_session_goes_on(config, monkeypatch, prompts_drawn):
    monkeypatch.setenv("BNCAP_DEADLINE", str(time.time() - 1))
    with pytest.raises(OutOfTime, match=r"tar shard 0 of 3 .*, 2 of 3 pictures"):
        build_images(config)
    assert len(prompts_drawn) == 1
    assert sorted(path.name for path in shard(0).iterdir()) == ["loose.tar", "unfinished.json"]  # few files to carry
    assert sum(name.endswith(".png") for name in shards.list_loose(shard(0) / "loose")) == 2
    with pytest.raises(OutOfTime, match=r"tar shard 0 of 3 .* finished"):
        build_images(config)
    assert artifacts.is_finished(shard(0)) and not shard(1).exists() and len(prompts_drawn) == 2
    monkeypatch.delenv("BNCAP_DEADLINE")
    build_images(config)
    assert len(prompts_drawn) == 5


def test_parts_share_the_shards_and_a_merge_draws_none_again(config, prompts_drawn):
    draw_shards(config, (1, 2))
    assert [artifacts.is_finished(shard(n)) for n in range(3)] == [True, False, True]
    draw_shards(config, (2, 2))
    drawn = len(prompts_drawn)
    build_images(config)
    assert artifacts.is_finished(shard(1)) and len(prompts_drawn) == drawn == 5


def test_a_machine_with_several_gpus_starts_a_process_for_each(config, monkeypatch):
    started = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(generate.workers, "run_parallel", lambda f, jobs, n, label: started.append((f, jobs, n)))
    draw_shards(config)
    [(function, jobs, processes)] = started
    assert processes == 2 and [job[1:] for job in jobs] == [(1, 2), (2, 2)]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    seen = []
    monkeypatch.setattr(
        generate, "draw_shards", lambda config, part: seen.append((part, generate.os.environ["CUDA_VISIBLE_DEVICES"]))
    )
    function(*jobs[1])
    assert seen == [((2, 2), "7")]


def test_a_foreign_shard_among_the_inputs_is_refused_by_its_name(config, artifacts_dir, monkeypatch, prompts_drawn):
    draw_shards(config, (2, 3))
    inputs = artifacts_dir.parent / "inputs"
    (inputs / "smoke/02_synthesis").mkdir(parents=True)
    shutil.move(shard(1), inputs / "smoke/02_synthesis")
    monkeypatch.setenv("BNCAP_INPUTS", str(inputs))
    other = get_config("smoke", [*SMALL, "synthesis.negative_prompt=blurred"])
    with pytest.raises(
        BncapError, match=r"tar shard 1 of 3 .* is foreign: .*pictures\.0001of0003-s42.*negative_prompt"
    ):
        build_images(other)
    assert len(prompts_drawn) == 2, "drawn before the shards were looked at"
    folder = build_images(config)  # the settings that it was drawn with
    assert not (artifacts_dir / "smoke/02_synthesis/pictures.0001of0003-s42").exists()
    assert all(PictureStore(config).find(row["synthetic"]).read() for row in read_csv(folder / "triplets.csv"))


def test_a_shard_depends_on_its_own_captions_and_not_on_the_rest_of_the_corpus(config, prompts_drawn):
    build_images(config)
    drawn = draw_pairs(PAIRS, 7, 2, 42)
    changed = {drawn[-1].caption_id: "A blue ball."}
    write_corpus([dataclasses.replace(p, en=changed.get(p.caption_id, p.en)) for p in PAIRS])
    prompts_drawn.clear()
    build_images(config)
    assert len(prompts_drawn) == 1 and "A blue ball." in prompts_drawn[0][0]


def test_pictures_that_the_data_set_brings_are_used_and_none_is_drawn_for_them(config, artifacts_dir, tmp_path):
    brought = dataclasses.replace(PAIRS[0], synthetic="synthetic/0.png")
    write_corpus([brought, *PAIRS[5:7]])
    with pytest.raises(BncapError, match=r"synthetic/0\.png, the synthetic picture of caption 0, is missing"):
        build_images(config)
    world = paths.dataset_roots(config)[0]
    (world / "synthetic").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(world / "synthetic/0.png")
    rows = read_csv(build_images(config) / "triplets.csv")
    assert [row["synthetic"] for row in rows] == [
        "synthetic/0.png", "pictures.0000of0001-s42/10.png", "pictures.0000of0001-s42/11.png"]  # fmt: skip
    none = build_images(get_config("smoke", [*SMALL, "components.synthesiser=none"]))
    assert [row["synthetic"] for row in read_csv(none / "triplets.csv")] == ["synthetic/0.png", "", ""]
    assert read_json(none / "counts.json")["paired"] == 1


def test_the_counts_say_how_many_prompts_were_cut_and_how_many_words_are_left(config):
    folder = build_images(get_config("smoke", [*SMALL, "synthesis.target_tokens=5"]))  # two words beside the fixed ones
    counts, rows = read_json(folder / "counts.json"), read_csv(folder / "prompts.csv")
    assert [int(row["caption_id"]) for row in rows] == [p.caption_id for p in draw_pairs(PAIRS, 7, 2, 42)]
    assert {(row["target_words"], row["target_words_kept"]) for row in rows} == {("3", "2")}
    assert (counts["prompts_cut"], counts["prompts_cut_share"]) == (7, 1.0)
    assert (counts["target_words"], counts["target_words_kept"]) == (21, 14)
    assert counts["target_words_kept_share"] == 0.6667 and counts["en_words_kept_share"] == 1.0
    sidecar = PictureStore(config).sidecar(read_csv(folder / "triplets.csv")[0]["synthetic"])
    assert sidecar["cut_target"] == ["একটি"] and sidecar["prompt"].endswith("In Bengali: লাল বল।")


def test_an_estimate_counts_hours_sessions_and_gigabytes(capsys):
    estimate = TimeEstimate(110_000, "part 1 of 2, ")
    estimate.add(2, 12.0, 200_000)
    assert not capsys.readouterr().out
    estimate.add(2, 8.0, 200_000)
    estimate.add(2, 800.0, 200_000)
    assert capsys.readouterr().out.splitlines() == [
        "synthesis estimate: part 1 of 2, 110,000 pictures to draw, 5 s each (measured on the first 4): 152.8 hours, "
        "13 kernel sessions of 12 h, 11.00 GB"
    ]


def test_a_corpus_without_accepted_training_pairs_is_an_error_that_says_what_to_do(config):
    write_corpus([])
    with pytest.raises(BncapError, match=r"data\.threshold"):
        build_images(config)


def test_shares_of_the_prompt_that_exceed_what_is_read_are_an_error(config):
    with pytest.raises(BncapError, match=r"english_tokens \+ synthesis.target_tokens = 87: .* 77 tokens"):
        build_images(get_config("smoke", ["synthesis.target_tokens=50"]))


@pytest.fixture
def models(standins, monkeypatch):
    monkeypatch.setenv("BNCAP_MODELS", str(standins))


def test_pictures_by_kandinsky_are_made_again_from_their_sidecars_alone(config, models):
    settings = (*KANDINSKY, "data.triplets=3", "synthesis.batch=2")
    folder = build_images(get_config("smoke", settings))
    names = [row["synthetic"] for row in read_csv(folder / "triplets.csv")]
    store = PictureStore(config)
    sidecars = [store.sidecar(name) for name in names]
    assert [sidecar["position"] for sidecar in sidecars] == [0, 1, 0]
    assert sidecars[0]["sampling"] == {
        "prior_steps": 2, "steps": 2, "guidance": 4.0, "arithmetic": "torch.float32 on cpu"}  # fmt: skip
    assert set(sidecars[0]["components"]) == {"synthesiser", "synthesiser_prior"}
    assert all(len(part["sha256"]) == 64 for part in sidecars[0]["components"].values())
    assert Image.open(io.BytesIO(store.find(names[0]).read())).size == (32, 32)
    assert sidecars[0]["drawn_sha256"] != sidecars[1]["drawn_sha256"]
    models_only = get_config("smoke", KANDINSKY[:2])
    assert audit_pictures(models_only, 3)[1]


def test_a_shard_that_was_changed_after_it_was_finished_is_named_and_not_taken_for_drawn(config):
    build_images(config)
    tar = shard(1) / "pictures.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    with pytest.raises(BncapError, match=r"pictures\.0001of0003-s42/pictures\.tar was changed after it was finished"):
        draw_shards(config)
