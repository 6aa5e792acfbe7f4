"""Drawing kept pictures again: the same, or what differs; what cannot be compared is an error."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bncap.config import get_config
from bncap.errors import BncapError
from bncap.mini.models import MiniSynthesiser
from bncap.pipeline import artifacts, paths
from bncap.synthesis import generate
from bncap.synthesis.audit import audit_pictures, load_same_synthesiser, measure_difference, regenerate_pictures
from bncap.synthesis.generate import drawing_versions
from bncap.synthesis.shards import PictureStore, encode_picture

HEADER = ("caption_id", "image_id", "image", "split", "en", "target", "similarity", "synthetic")


@pytest.fixture
def config(artifacts_dir):
    """Eleven pictures in batches of three and tar shards of five."""
    rows = [(i, i, f"{i}.jpg", "train", f"A red ball {i}.", "একটি লাল বল।", 0.9, "") for i in range(11)]
    corpus = paths.step_dir("smoke", "01_data_build", "corpus", 42)
    artifacts.run_step(corpus, settings={}, build=lambda f: artifacts.write_csv(f / "corpus.csv", HEADER, rows))
    made = get_config("smoke", ["synthesis.batch=3", "synthesis.shard=5"])
    generate.build_images(made)
    return made


def test_pictures_drawn_again_are_the_same_to_the_byte(config):
    lines, same = audit_pictures(config, 6)
    assert same and len(lines) == 8 and lines[-1] == "6 of 6 pictures drawn again are the same to the byte"
    assert all("same" in line and "0 of 255" in line for line in lines[1:-1])


def test_the_sample_is_seeded_and_no_larger_than_there_are_pictures(config):
    assert audit_pictures(config, 4, seed=1) == audit_pictures(config, 4, seed=1) != audit_pictures(config, 4, seed=2)
    assert len(audit_pictures(config, 100)[0]) == 11 + 2


def test_each_picture_is_drawn_at_the_place_in_the_batch_that_it_had_at_first(config, monkeypatch):
    calls = []
    draw = MiniSynthesiser.draw
    monkeypatch.setattr(MiniSynthesiser, "draw", lambda self, p, n, s: calls.append(list(s)) or draw(self, p, n, s))
    store = PictureStore(config)
    records = [store.sidecar(f"pictures.000{i // 5}of0003-s42/{i}.png") for i in range(11)]
    assert [record["position"] for record in records] == [0, 1, 2, 0, 1, 0, 1, 2, 0, 1, 0]
    regenerate_pictures(records, *load_same_synthesiser(records, config))
    assert {len(seeds) for seeds in calls} == {3} and len(calls) == 5  # as many as there are of position 0
    for record in records:
        assert any(seeds[record["position"]] == record["seed"] for seeds in calls)


def test_a_picture_that_differs_is_reported_with_its_difference(config, monkeypatch):
    draw = MiniSynthesiser.draw

    def one_level_off(self, prompts, negative, seeds):
        drawn = [np.array(picture) for picture in draw(self, prompts, negative, seeds)]
        for pixels in drawn:
            pixels[3, 4, 1] ^= 1
        return [Image.fromarray(pixels) for pixels in drawn]

    monkeypatch.setattr(MiniSynthesiser, "draw", one_level_off)
    lines, same = audit_pictures(config, 3)
    assert not same and all("differs" in line and "1 of 255" in line for line in lines[1:4])
    assert lines[4].startswith("0 of 3 ")


def test_other_models_are_refused_and_named(config, monkeypatch):
    monkeypatch.setattr(MiniSynthesiser, "name", "another/model")
    with pytest.raises(BncapError, match=r"picture \d+ was drawn by .*another/model"):
        audit_pictures(config, 2)


def test_other_versions_are_named_below_the_table(config, monkeypatch):
    there = drawing_versions()
    assert not any("here:" in line for line in audit_pictures(config, 2)[0])
    monkeypatch.setattr("bncap.synthesis.audit.drawing_versions", lambda: there | {"torch": "0.0"})
    lines, same = audit_pictures(config, 2)
    assert same and lines[-1] == f"drawn with torch {there['torch']}; here: torch 0.0"


def test_there_is_nothing_to_audit_where_nothing_was_drawn(config):
    generate.build_images(none := get_config("smoke", ["components.synthesiser=none"]))
    with pytest.raises(BncapError, match="no picture that was drawn"):
        audit_pictures(none, 4)
    with pytest.raises(BncapError, match="--n 0"):
        audit_pictures(config, 0)


def test_the_measure_difference_is_in_levels_of_255():
    black, grey = (encode_picture(Image.new("RGB", (4, 4), (level,) * 3), 0) for level in (0, 77))
    assert measure_difference(black, grey) == measure_difference(grey, black) == 77
    assert measure_difference(black, encode_picture(Image.new("RGB", (5, 5)), 0)) == 255
