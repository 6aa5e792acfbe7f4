"""Features: computed and written set by set, read row by row, made ahead in threads; what is broken is named."""

from __future__ import annotations

import math
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from bncap.config import get_config
from bncap.encoders import features
from bncap.encoders.features import Encoder, FeatureStore, open_picture, prefetched
from bncap.errors import BncapError, OutOfTime
from bncap.pipeline import artifacts, deadline, paths
from bncap.settings import Features

SHIPPED = str(paths.PACKAGE / "small_models/checkpoints/maxvit_mini")


@pytest.fixture(scope="module")
def encoder():
    return Encoder(SHIPPED, penultimate=True)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    found = {}
    for i in range(5):
        found[f"id{i}"] = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (112, 112, 3), dtype=np.uint8)).save(found[f"id{i}"])
    return found


def test_the_final_stage_has_49_patches_and_the_one_before_196(encoder, pictures):
    fine, final = encoder([open_picture(p) for p in pictures.values()])
    assert fine.shape == (5, 196, 64) and final.shape == (5, 49, 128)


def test_patches_run_row_by_row(encoder, pictures):
    """A mark in the picture's upper right corner changes most the patch at the end of the first row."""
    plain = Image.new("RGB", (112, 112), (120, 120, 120))
    marked = plain.copy()
    marked.paste((255, 0, 0), (96, 0, 112, 16))
    change = (encoder([marked])[-1] - encoder([plain])[-1]).norm(dim=-1)[0]
    assert int(change.argmax()) == 6


def test_a_half_empty_checkpoint_is_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(SHIPPED, tmp_path / "half")
    weights = load_file(tmp_path / "half/model.safetensors")
    save_file({k: v for i, (k, v) in enumerate(sorted(weights.items())) if i % 2}, tmp_path / "half/model.safetensors")
    with pytest.raises(BncapError, match=r"half: the encoder cannot be loaded .*fetch it again"):
        Encoder(str(tmp_path / "half"))


def test_a_written_set_reads_back_by_identifier(pictures, artifacts_dir, encoder):
    folder = paths.step_dir("smoke", "02_synthesis", "features", 42)
    write = lambda f: features.extract(SHIPPED, Features(batch=2), {"train": pictures}, f)  # noqa: E731
    artifacts.run_step(folder, settings={}, build=write)
    store = FeatureStore(folder)
    assert store.ids("train") == list(pictures) and store.channels() == 128
    rows = store.rows("train", ["id3", "id0"])
    expected = encoder([open_picture(pictures["id3"]), open_picture(pictures["id0"])])[-1]
    taken = store.take("train", rows)
    assert taken.dtype == torch.float16
    torch.testing.assert_close(taken.float(), expected, rtol=2e-3, atol=2e-2)
    with pytest.raises(BncapError, match="no features of id9"):
        store.rows("train", ["id9"])


class FakeEncoder:
    """Four patches of three channels, each the picture's first pixel; pretends to be on ``device``."""

    def __init__(self, device="cpu", broken=None):
        self.device, self.broken = torch.device(device), broken

    def __call__(self, pictures):
        return self.maps(self.pixels(pictures))

    def pixels(self, pictures):
        return torch.stack([torch.tensor(picture.getpixel((0, 0)), dtype=torch.float32) for picture in pictures])

    def maps(self, pixels):
        bad = [tuple(row) == self.broken for row in pixels.int().tolist()]
        pixels[bad] = math.nan
        return [pixels[:, None].repeat(1, 4, 1)]


def test_features_that_are_not_finite_name_the_picture(pictures, tmp_path, monkeypatch):
    broken = open_picture(pictures["id1"]).getpixel((0, 0))
    monkeypatch.setattr(features, "Encoder", lambda *_: FakeEncoder(broken=broken))
    with pytest.raises(BncapError, match=r"features of .*1\.png are not finite"):
        features.extract(SHIPPED, Features(batch=2), {"train": pictures}, tmp_path)
    assert not (tmp_path / "train.npy").exists()


def test_a_picture_that_does_not_decode_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(BncapError, match=r"broken\.jpg does not decode"):
        open_picture(tmp_path / "broken.jpg")
    with pytest.raises(BncapError, match=r"gone\.jpg is missing"):
        open_picture(tmp_path / "gone.jpg")


@pytest.fixture
def store(artifacts_dir):
    """Three pictures' features; of the second, ``id1``, one number is not finite."""

    def write(folder):
        values = np.ones((3, 4, 2), dtype=np.float16)
        values[1, 2, 0] = np.nan
        np.save(folder / "train.npy", values)
        artifacts.write_csv(folder / "train.csv", ["row", "id"], [(i, f"id{i}") for i in range(3)])

    return artifacts.run_step(paths.step_dir("smoke", "02_synthesis", "features", 42), settings={}, build=write)


def test_features_on_disk_that_are_not_finite_are_named_when_they_are_read(store):
    found = FeatureStore(store)
    assert found.take("train", np.array([2, 0])).shape == (2, 4, 2)
    with pytest.raises(BncapError, match=r"features-s42/train\.npy: the features of id1 are not finite; delete"):
        found.take("train", np.array([2, 1]))


def test_rows_come_in_the_order_and_number_they_are_asked_for(artifacts_dir):
    values = np.arange(5 * 3 * 2, dtype=np.float16).reshape(5, 3, 2)

    def write(folder):
        np.save(folder / "train.npy", values)
        artifacts.write_csv(folder / "train.csv", ["row", "id"], [(i, i) for i in range(5)])

    found = FeatureStore(artifacts.run_step(paths.step_dir("smoke", "02", "x", 1), settings={}, build=write))
    for rows in ([4, 0, 4, 2], [3], []):
        taken = found.take("train", np.array(rows, dtype=np.int64))
        assert taken.shape == (len(rows), 3, 2) and np.array_equal(taken.numpy(), values[rows])
    assert found.channels() == 2


def test_features_cut_short_on_disk_are_named(store):
    opened = FeatureStore(store)
    (store / "train.npy").write_bytes((store / "train.npy").read_bytes()[:-8])
    with pytest.raises(BncapError, match=r"features-s42/train\.npy cannot be read .*delete"):
        opened.take("train", [0])
    with pytest.raises(BncapError, match=r"features-s42/train\.npy was changed after it was finished; delete"):
        FeatureStore(store)


def test_a_picture_broken_after_the_corpus_was_made_is_named_and_no_half_set_is_left(pictures, tmp_path):
    pictures["id3"].write_bytes(pictures["id3"].read_bytes()[:200])
    with pytest.raises(BncapError, match=r"3\.png does not decode as a picture"):
        features.extract(SHIPPED, Features(batch=2), {"train": pictures}, tmp_path)
    assert not (tmp_path / "train.csv").exists() and not (tmp_path / "train.npy").exists()


def test_a_set_stopped_by_the_clock_is_made_again_and_complete_sets_are_kept(pictures, tmp_path, monkeypatch):
    settings, whole, stopped = Features(batch=2), tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        folder.mkdir()
    sets = {"train": pictures, "test": pictures}
    features.extract(SHIPPED, settings, sets, whole)
    features.extract(SHIPPED, settings, {"train": pictures}, stopped)
    monkeypatch.setenv(deadline.VARIABLE, "1")
    with pytest.raises(OutOfTime, match="features of the test set, 0 of 5 pictures"):
        features.extract(SHIPPED, settings, sets, stopped)
    monkeypatch.delenv(deadline.VARIABLE)
    (stopped / ".test.npy").write_bytes(b"left by an interruption")
    features.extract(SHIPPED, settings, sets, stopped)
    found, expected = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (stopped, whole))
    assert found == expected and len(found) == 4


def test_the_bytes_do_not_depend_on_how_many_threads_there_are(pictures, tmp_path, monkeypatch):
    found = []
    for jobs in ("1", "3"):
        monkeypatch.setenv("BNCAP_JOBS", jobs)
        (tmp_path / jobs).mkdir()
        features.extract(SHIPPED, Features(batch=1), {"train": pictures, "test": pictures}, tmp_path / jobs)
        found.append([(tmp_path / jobs / f"{name}.npy").read_bytes() for name in ("train", "test")])
    assert found[0] == found[1] and found[0][0] == found[0][1]


def test_identifiers_of_one_picture_share_its_row(pictures, artifacts_dir):
    ids = {"a": pictures["id0"], "b": pictures["id1"], "c": pictures["id0"]}
    folder = paths.step_dir("smoke", "02_synthesis", "features", 42)
    sets = {"train": ids}
    artifacts.run_step(folder, settings={}, build=lambda f: features.extract(SHIPPED, Features(), sets, f))
    store = FeatureStore(folder)
    assert store.ids("train") == ["a", "b", "c"] and store.rows("train", ["c", "b", "a"]).tolist() == [0, 1, 0]
    assert np.load(folder / "train.npy").shape == (2, 49, 128)


@pytest.mark.parametrize(
    ("penultimate", "expected"),
    [(False, "5 pictures, 49 patches x 128 channels in float16: 62.7kB in {folder}, in about "),
     (True, "49 patches x 128 channels and 196 patches x 64 channels in float16: 188kB in {folder}, in about ")],
)  # fmt: skip
def test_size_place_and_time_are_said_once_before_anything_is_made(pictures, tmp_path, capsys, penultimate, expected):
    sets, settings = {"train": pictures, "ood": {}}, Features(batch=2, penultimate=penultimate)
    features.extract(SHIPPED, settings, sets, tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(said) == 1 and expected.format(folder=tmp_path) in said[0]
    features.extract(SHIPPED, settings, sets, tmp_path)
    assert capsys.readouterr().out == ""


def test_a_disk_with_too_little_room_is_named_before_anything_is_written(pictures, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=60_000)  # of 5 x 49 x 128 x 2 = 62,720
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: usage)
    (tmp_path / "features").mkdir()
    with pytest.raises(BncapError, match=r"features: the features \(5 pictures.* take 62\.7kB .* has 60\.0kB free"):
        features.extract(SHIPPED, Features(batch=2), {"train": pictures}, tmp_path / "features")
    assert not list((tmp_path / "features").iterdir())
    monkeypatch.setattr(features.shutil, "disk_usage", lambda folder: usage._replace(free=63_000))
    features.extract(SHIPPED, Features(batch=2), {"train": pictures}, tmp_path / "features")


def test_a_set_without_pictures_is_an_empty_list_and_needs_no_encoder(artifacts_dir, monkeypatch):
    monkeypatch.setattr(features, "Encoder", lambda *a: pytest.fail("loaded for nothing"))
    folder = paths.step_dir("smoke", "02_synthesis", "features", 42)
    artifacts.run_step(folder, settings={}, build=lambda f: features.extract(SHIPPED, Features(), {"ood": {}}, f))
    store = FeatureStore(folder)
    assert store.ids("ood") == [] and not len(store.rows("ood", []))
    with pytest.raises(BncapError, match="no features of id1"):
        store.rows("ood", ["id1"])


@pytest.fixture
def own(artifacts_dir, tmp_path, pictures):
    """Five pictures of one's own, two of them for training and each with a synthetic one that came along."""
    config = get_config("own", [f"data.captions={tmp_path}/captions.csv", f"data.images={tmp_path}"])
    splits = ("train", "train", "validation", "test", "test")
    header = ("caption_id", "image_id", "image", "split", "en", "target", "similarity", "synthetic")
    rows = [(i, i, f"{i}.png", split, "", "बिल्ली", "", "4.png" if i < 2 else "") for i, split in enumerate(splits)]
    corpus = paths.step_dir("own", "01_data_build", "corpus", 42)
    artifacts.run_step(corpus, settings={}, build=lambda f: artifacts.write_csv(f / "corpus.csv", header, rows))
    return config


def write_triplets(synthetic):
    header = ("caption_id", "image_id", "image", "synthetic", "en", "target")
    rows = [(i, i, f"{i}.png", name, "", "बिल्ली") for i, name in enumerate(synthetic)]
    images = paths.step_dir("own", "02_synthesis", "images", 42)
    artifacts.run_step(
        images, settings={"n": synthetic}, build=lambda f: artifacts.write_csv(f / "triplets.csv", header, rows)
    )


@pytest.mark.parametrize("synthetic", [("", ""), ("4.png", "")])
def test_pictures_of_ones_own_have_features_with_and_without_synthetic_ones(own, synthetic):
    write_triplets(synthetic)
    store = FeatureStore(features.build_features(own))
    assert store.ids("train") == ["0.png", "1.png"] and store.ids("ood") == []
    assert store.ids("test") == ["3.png", "4.png"]
    assert store.ids("synthetic") == ["0"] * bool(synthetic[0])
    if synthetic[0]:  # the same file as a test picture
        torch.testing.assert_close(store.take("synthetic", np.array([0])), store.take("test", np.array([1])))


def test_results_come_in_order_whichever_thread_is_first():
    def slow_at_first(i):
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i * i

    assert list(prefetched(slow_at_first, range(20), threads=4)) == [i * i for i in range(20)]


def test_an_error_in_the_thread_reaches_the_caller_after_what_came_before():
    def fail_at_three(i):
        if i == 3:
            raise ValueError("picture 3 is broken")
        return i

    found, seen = prefetched(fail_at_three, range(10)), []
    with pytest.raises(ValueError, match="picture 3 is broken"):
        seen.extend(found)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("end", ["closed early", "used up", "failed"])
def test_the_threads_end_with_the_iterator(end):
    before = threading.active_count()
    found = prefetched(lambda i: 1 // (5 - i), range(10) if end == "failed" else range(5), threads=2)
    assert next(found) == 0
    if end == "closed early":
        found.close()
    elif end == "failed":
        with pytest.raises(ZeroDivisionError):
            list(found)
    else:
        list(found)
    assert threading.active_count() == before
