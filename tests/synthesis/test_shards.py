"""Tar files of pictures: the same bytes each time, read by offset, checked by hash; what size is kept."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from bncap.config import get_config
from bncap.encoders.features import open_picture
from bncap.errors import BncapError
from bncap.pipeline import artifacts, paths
from bncap.synthesis import shards
from bncap.synthesis.shards import PictureStore

IDS = (2, 10, 7)
NAME = "pictures.0000of0001-s42"


def fill(loose, ids=IDS):
    rng = np.random.default_rng(0)
    loose.mkdir(parents=True)
    for i in ids:
        picture = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        (loose / f"{i}.png").write_bytes(shards.encode_picture(picture, 0))
        artifacts.write_json(loose / f"{i}.json", {"caption_id": i, "prompt": "একটি বল"})


@pytest.fixture
def shard(artifacts_dir, tmp_path):
    """A finished shard of three pictures, packed from ``tmp_path / "loose"``."""
    fill(tmp_path / "loose")
    folder = paths.step_dir("smoke", "02_synthesis", "pictures.0000of0001", 42)
    return artifacts.run_step(folder, settings={}, build=lambda f: shards.pack_shard(f, tmp_path / "loose", IDS))


def test_the_tar_is_an_ordinary_one_without_times_and_owners(shard, tmp_path):
    with tarfile.open(shard / "pictures.tar") as archive:
        assert archive.getnames() == ["2.png", "2.json", "10.png", "10.json", "7.png", "7.json"]
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
            assert archive.extractfile(member).read() == (tmp_path / "loose" / member.name).read_bytes()


def test_the_same_pictures_make_the_same_tar(shard, tmp_path):
    for path in (tmp_path / "loose").iterdir():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    (tmp_path / "again").mkdir()
    shards.pack_shard(tmp_path / "again", tmp_path / "loose", IDS)
    for name in ("pictures.tar", "index.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (shard / name).read_bytes()


def test_a_picture_and_its_sidecar_are_read_by_their_place_in_the_tar(shard, tmp_path):
    store = PictureStore(get_config("smoke"))
    for i in IDS:
        member = store.find(f"{NAME}/{i}.png")
        content = (tmp_path / "loose" / f"{i}.png").read_bytes()
        assert member.read() == content and member.sha256 == hashlib.sha256(content).hexdigest()
        assert np.array_equal(open_picture(member), open_picture(tmp_path / "loose" / f"{i}.png"))
        assert store.sidecar(f"{NAME}/{i}.png") == {"caption_id": i, "prompt": "একটি বল"}


def test_a_picture_that_is_not_in_the_tar_or_whose_tar_is_missing_is_named(shard):
    store = PictureStore(get_config("smoke"))
    with pytest.raises(BncapError, match=r"pictures\.0000of0001-s42 has no picture 3\.png"):
        store.find(f"{NAME}/3.png")
    with pytest.raises(BncapError, match=r"pictures\.0001of0002-s42 is missing .*--only 02"):
        store.find("pictures.0001of0002-s42/3.png")


def test_a_picture_that_was_changed_in_the_tar_is_named_when_it_is_read(shard):
    store = PictureStore(get_config("smoke"))
    member = store.find(f"{NAME}/10.png")
    content = bytearray((shard / "pictures.tar").read_bytes())
    content[member.offset + member.size // 2] ^= 1
    (shard / "pictures.tar").write_bytes(content)
    with pytest.raises(BncapError, match=rf"{NAME}/10\.png differs from its hash.* delete .*{NAME}"):
        open_picture(member)
    assert store.find(f"{NAME}/2.png").read()
    (shard / "pictures.tar").write_bytes(content[: member.offset])
    with pytest.raises(BncapError, match=rf"the sidecar of {NAME}/7\.png is damaged; delete .*{NAME}"):
        store.sidecar(f"{NAME}/7.png")


def test_a_picture_that_the_data_set_brings_is_a_file_without_a_sidecar(artifacts_dir, tmp_path):
    store = PictureStore(get_config("own", [f"data.captions={tmp_path}/captions.csv", f"data.images={tmp_path}"]))
    assert store.find("synthetic/a.png") == tmp_path / "synthetic/a.png"
    assert store.sidecar("synthetic/a.png") is None


def test_a_picture_is_kept_at_the_side_asked_for_and_never_enlarged():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    sides = {stored: Image.open(io.BytesIO(shards.encode_picture(picture, stored))).size for stored in (0, 24, 64, 224)}
    assert sides == {0: (64, 64), 24: (24, 24), 64: (64, 64), 224: (64, 64)}
    kept = Image.open(io.BytesIO(shards.encode_picture(picture, 0)))
    assert np.array_equal(kept, picture), "a picture kept whole has lost something"
    flat = Image.new("RGB", (64, 64), (10, 200, 30))
    assert (np.asarray(Image.open(io.BytesIO(shards.encode_picture(flat, 24)))) == (10, 200, 30)).all()


def test_bundled_files_come_back_and_of_a_bundle_that_was_cut_what_is_there(tmp_path):
    loose = tmp_path / "loose"
    loose.mkdir()
    contents = {name: name.encode() * 3000 for name in ("1.png", "1.json", "2.png")}
    for name, content in contents.items():
        (loose / name).write_bytes(content)
    shards.bundle_pictures(loose)
    assert [path.name for path in tmp_path.iterdir()] == ["loose.tar"]
    assert shards.list_loose(loose) >= set(contents)
    whole = (tmp_path / "loose.tar").read_bytes()
    shards.unbundle_pictures(loose)
    assert {path.name: path.read_bytes() for path in loose.iterdir()} == contents
    assert not (tmp_path / "loose.tar").exists()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2])
    shards.unbundle_pictures(tmp_path / "cut")
    assert 0 < len(list((tmp_path / "cut").iterdir())) < 3
