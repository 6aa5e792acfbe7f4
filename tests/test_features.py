import errno

import numpy as np
import pytest
import torch
from PIL import Image

from bncap import artifacts, deadline, features, paths
from bncap.config import get_config
from bncap.errors import BncapError, OutOfTime
from bncap.features import Encoder, FeatureStore, open_picture
from bncap.settings import Features

SHIPPED = str(paths.PACKAGE / "mini/checkpoints/maxvit_mini")


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


def test_the_encoder_is_frozen_and_in_evaluation_mode(encoder):
    assert not encoder.model.training and not any(p.requires_grad for p in encoder.model.parameters())


def test_a_half_empty_checkpoint_is_an_error(tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(SHIPPED, tmp_path / "half")
    weights = load_file(tmp_path / "half/model.safetensors")
    save_file({k: v for i, (k, v) in enumerate(sorted(weights.items())) if i % 2}, tmp_path / "half/model.safetensors")
    with pytest.raises(BncapError, match=r"half: the encoder cannot be loaded .*fetch it again"):
        Encoder(str(tmp_path / "half"))


def test_a_written_set_reads_back_by_identifier(pictures, artifacts_dir, encoder):
    folder = paths.step_dir("smoke", "02_synthesis", "features", 42)
    write = lambda f: features._extract(SHIPPED, Features(batch=2), "train", pictures, f)  # noqa: E731
    artifacts.run_step(folder, settings={}, build=write)
    store = FeatureStore(folder)
    assert store.ids("train") == list(pictures) and store.channels() == 128
    rows = store.rows("train", ["id3", "id0"])
    expected = encoder([open_picture(pictures["id3"]), open_picture(pictures["id0"])])[-1]
    torch.testing.assert_close(store.take("train", rows), expected, rtol=2e-3, atol=2e-2)
    with pytest.raises(BncapError, match="no features of id9"):
        store.rows("train", ["id9"])


def test_a_finished_set_is_not_computed_again(pictures, tmp_path, monkeypatch):
    features._extract(SHIPPED, Features(batch=2), "train", pictures, tmp_path)
    monkeypatch.setattr(features, "Encoder", lambda *a: pytest.fail("computed again"))
    features._extract(SHIPPED, Features(batch=2), "train", pictures, tmp_path)


def test_features_that_are_not_finite_name_the_picture(pictures, tmp_path, monkeypatch):
    class Broken:
        indices = (-1,)

        def __init__(self, *arguments):
            pass

        def __call__(self, batch):
            maps = torch.zeros(len(batch), 4, 3)
            maps[-1] = float("nan")
            return [maps]

    monkeypatch.setattr(features, "Encoder", Broken)
    with pytest.raises(BncapError, match=r"features of .*1\.png are not finite"):
        features._extract(SHIPPED, Features(batch=2), "train", pictures, tmp_path)
    assert not (tmp_path / "train.npy").exists()


def test_a_picture_that_does_not_decode_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(BncapError, match=r"broken\.jpg does not decode"):
        open_picture(tmp_path / "broken.jpg")
    with pytest.raises(BncapError, match=r"gone\.jpg is missing"):
        open_picture(tmp_path / "gone.jpg")


def test_exif_orientation_and_modes_are_respected(tmp_path):
    picture = Image.new("RGB", (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(tmp_path / "turned.jpg").size == (20, 40)
    for mode in ("L", "P", "RGBA", "LA"):
        Image.new(mode, (8, 8)).save(tmp_path / f"{mode}.png")
        assert open_picture(tmp_path / f"{mode}.png").mode == "RGB"


def test_transparent_pixels_are_white(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png").getpixel((3, 3)) == (255, 255, 255)


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


def test_features_cut_short_on_disk_are_named(store):
    opened = FeatureStore(store)
    (store / "train.npy").write_bytes((store / "train.npy").read_bytes()[:-8])
    with pytest.raises(BncapError, match=r"features-s42/train\.npy cannot be read .*delete"):
        opened.take("train", np.array([0]))
    with pytest.raises(BncapError, match=r"features-s42/train\.npy was changed after it was finished; delete"):
        FeatureStore(store)


def test_features_that_an_interruption_left_damaged_are_computed_again(pictures, tmp_path):
    left = tmp_path / "left"
    for folder in (left, tmp_path / "whole"):
        folder.mkdir()
    features._extract(SHIPPED, Features(batch=2), "train", pictures, tmp_path / "whole")
    artifacts.write_json(left / ".train.json", {"done": 2})
    (left / ".train.npy").write_bytes((tmp_path / "whole" / "train.npy").read_bytes()[:200])
    features._extract(SHIPPED, Features(batch=2), "train", pictures, left)
    assert (left / "train.npy").read_bytes() == (tmp_path / "whole" / "train.npy").read_bytes()


def test_a_disk_without_room_for_the_features_is_an_error_before_any_is_written(pictures, tmp_path, monkeypatch):
    def full(descriptor, start, length):
        assert length > 5 * 49 * 128 * 2
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(features.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        features._extract(SHIPPED, Features(batch=2), "train", pictures, tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("train")]


def test_a_picture_broken_after_the_corpus_was_made_is_named_and_no_half_set_is_left(pictures, tmp_path):
    pictures["id3"].write_bytes(pictures["id3"].read_bytes()[:200])
    with pytest.raises(BncapError, match=r"3\.png does not decode as a picture"):
        features._extract(SHIPPED, Features(batch=2), "train", pictures, tmp_path)
    assert not (tmp_path / "train.csv").exists() and not (tmp_path / "train.npy").exists()


def test_sixteen_bits_of_grey_are_not_cut_off_at_255(tmp_path):
    levels = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert np.asarray(open_picture(tmp_path / "deep.png"))[..., 0].tolist() == [[0, 100], [200, 255]]


@pytest.mark.parametrize("penultimate", [False, True])
def test_a_set_stopped_by_the_clock_goes_on_at_its_next_batch_to_the_same_bytes(
    pictures, tmp_path, monkeypatch, penultimate
):
    settings = Features(batch=2, penultimate=penultimate)
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    features._extract(SHIPPED, settings, "train", pictures, tmp_path / "whole")

    opened = []
    monkeypatch.setattr(features, "open_picture", lambda path: opened.append(path.name) or open_picture(path))
    monkeypatch.setenv(deadline.VARIABLE, "1")
    for done in (2, 4):
        with pytest.raises(OutOfTime, match=f"features of the train set, {done} of 5 pictures"):
            features._extract(SHIPPED, settings, "train", pictures, tmp_path / "parts")
    assert opened == ["0.png", "1.png", "2.png", "3.png"]
    monkeypatch.delenv(deadline.VARIABLE)
    features._extract(SHIPPED, settings, "train", pictures, tmp_path / "parts")
    assert opened == [f"{i}.png" for i in range(5)]
    whole, parts = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("whole", "parts"))
    assert whole == parts and len(whole) == 2 + penultimate


def test_a_set_killed_at_work_goes_on_from_the_last_batch_noted(pictures, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    opened = []

    def open_three(path):
        if len(opened) == 3:
            raise Killed
        opened.append(path.name)
        return open_picture(path)

    monkeypatch.setattr(features, "KEPT_EVERY", 1)
    with monkeypatch.context() as patch:
        patch.setattr(features, "open_picture", open_three)
        with pytest.raises(Killed):
            features._extract(SHIPPED, Features(batch=1), "train", pictures, tmp_path)
    monkeypatch.setattr(features, "open_picture", lambda path: opened.append(path.name) or open_picture(path))
    features._extract(SHIPPED, Features(batch=1), "train", pictures, tmp_path)
    assert opened == [f"{i}.png" for i in range(5)]


def test_a_set_without_pictures_is_an_empty_list_and_needs_no_encoder(artifacts_dir, monkeypatch):
    monkeypatch.setattr(features, "Encoder", lambda *a: pytest.fail("loaded for nothing"))
    folder = paths.step_dir("smoke", "02_synthesis", "features", 42)
    artifacts.run_step(folder, settings={}, build=lambda f: features._extract(SHIPPED, Features(), "ood", {}, f))
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
def test_pictures_of_ones_own_have_features_with_and_without_synthetic_ones(own, monkeypatch, synthetic):
    monkeypatch.setattr(features.workers, "run_parallel", lambda f, jobs, *_: [f(*job) for job in jobs])
    write_triplets(synthetic)
    store = FeatureStore(features.build_features(own))
    assert store.ids("train") == ["0.png", "1.png"] and store.ids("ood") == []
    assert store.ids("test") == ["3.png", "4.png"]
    assert store.ids("synthetic") == ["0"] * bool(synthetic[0])
    if synthetic[0]:  # the same file as a test picture
        torch.testing.assert_close(store.take("synthetic", np.array([0])), store.take("test", np.array([1])))
