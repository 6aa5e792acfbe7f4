"""Captions for any picture: what is opened, which model is taken, what is said when something is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bncap.commands import caption
from bncap.config import get_config
from bncap.decoders.decode import WordAttention
from bncap.errors import BncapError
from bncap.pipeline.artifacts import MANIFEST, read_json, write_json


class TinyEncoder:
    """Averages of a 3 x 3 grid, four times over: 12 channels, 9 patches."""

    def __init__(self, path):
        self.path = path

    def transform(self, picture):
        small = np.asarray(picture.resize((3, 3), Image.Resampling.BOX), dtype=np.float32) / 255
        return torch.from_numpy(small)

    def __call__(self, pictures):
        pixels = torch.stack([self.transform(p) for p in pictures]).flatten(1, 2)  # (B, 9, 3)
        return [pixels.repeat(1, 1, 4)]


@pytest.fixture
def run(artifacts_dir, captioner, mbart_folder, monkeypatch):
    """Two finished runs of the main model; the second, of seed 1, was finished last."""
    monkeypatch.setattr(caption, "Encoder", TinyEncoder)
    monkeypatch.setattr(caption, "seen_picture", lambda encoder, picture: picture.resize((30, 30)))
    for seed, hour in ((1, 12), (2, 11)):
        folder = artifacts_dir / "smoke" / "04_training" / f"pal_infonce_ot.weights-s{seed}"
        origin = {"profile": "smoke", "encoder": "mini:encoder", "pretrained": str(mbart_folder)}
        captioner.save(folder / "best", origin)
        write_json(folder / MANIFEST, {"finished": f"2026-01-01T{hour}:00:00+0000"})
    return folder.with_name("pal_infonce_ot.weights-s1")


def picture(path, mode="RGB", size=(31, 17)):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


def test_pictures_of_any_mode_and_size_get_a_caption_with_each_words_attention(run, tmp_path):
    files = [
        picture(tmp_path / f"{mode}.png", mode, size)
        for mode, size in (("RGBA", (3, 90)), ("L", (1, 1)), ("P", (64, 8)))
    ]
    found = caption.caption_pictures(files, "smoke")
    assert [f.picture for f in found] == files
    for f in found:
        assert [w.word for w in f.words] == f.text.split()
        assert all(w.weights.shape == (9,) and w.weights.sum() == pytest.approx(1, abs=1e-5) for w in f.words)
        assert f.score < 0


def test_the_run_that_was_finished_last_is_taken_and_named(run, tmp_path, capsys):
    caption.caption_pictures([picture(tmp_path / "a.png")], "smoke")
    assert "pal_infonce_ot.weights-s1" in capsys.readouterr().err
    assert caption.newest_run("smoke") == caption.newest_run() == run / "best"


def test_without_a_main_model_the_newest_of_cross_entropy_alone_is_taken(run, artifacts_dir):
    own = artifacts_dir / "own" / "04_training" / "ce_real.weights-s1"
    own.mkdir(parents=True)
    write_json(own / MANIFEST, {"finished": "2030-01-01T00:00:00+0000"})
    assert caption.newest_run() == run / "best"
    assert caption.newest_run("own") == own / "best"
    with pytest.raises(BncapError, match="no trained model under kaggle"):
        caption.newest_run("kaggle")


def test_a_run_that_does_not_say_its_encoder_is_refused(run, tmp_path):
    write_json(run / "best" / "captioner.json", {"last_k": 2, "lang": "bn_IN"})
    with pytest.raises(BncapError, match="encoder"):
        caption.caption_pictures([picture(tmp_path / "a.png")], "smoke")


def test_an_export_goes_over_nothing_but_an_earlier_one(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("mine")
    with pytest.raises(BncapError, match="--out .*mine holds something else"):
        caption.export(tmp_path / "mine", run=run)
    for out in (tmp_path / "mine" / "config.json", tmp_path / "mine" / "config.json" / "below"):
        with pytest.raises(BncapError, match=f"--out {out} cannot be made"):
            caption.export(out, run=run)
    assert (tmp_path / "mine" / "config.json").read_text() == "mine"
    for _ in range(2):
        caption.export(tmp_path / "plain", run=run)


def test_a_run_may_be_named_by_its_weights_or_by_its_scores(run, tmp_path, capsys):
    scored = run.with_name("pal_infonce_ot-s1")
    scored.mkdir()
    file = picture(tmp_path / "a.png")
    texts = {caption.caption_pictures([file], "smoke", folder)[0].text for folder in (run, run / "best", scored)}
    assert len(texts) == 1
    assert "model:" not in capsys.readouterr().err


def test_a_folder_is_read_in_order_and_what_does_not_decode_is_left_out(run, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("b.PNG", "a.jpg"):
        picture(folder / name)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    found = caption.caption_pictures([folder], "smoke")
    assert [f.picture.name for f in found] == ["a.jpg", "b.PNG"]
    assert "broken.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "nothing.png", "nothing.png is missing"),
        (lambda p: (p / "text.png").write_text("x") and p / "text.png", "text.png does not decode"),
        (lambda p: (p / "empty").mkdir() or p / "empty", "has no picture"),
    ],
)
def test_what_cannot_be_captioned_is_named(run, tmp_path, make, said):
    with pytest.raises(BncapError, match=said):
        caption.caption_pictures([make(tmp_path)], "smoke")


def test_a_file_that_attention_cannot_be_drawn_into_is_named_before_any_work(artifacts_dir, tmp_path):
    file = picture(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    for bad in (file / "words.png", tmp_path / "words.jpg", tmp_path / "folder.png"):  # there is no model to be loaded
        with pytest.raises(BncapError, match=bad.name):
            caption.caption_pictures([file], attention_png=bad)
    with pytest.raises(BncapError, match="1 to 20 pictures"):
        caption.caption_pictures([file] * 21, attention_png=tmp_path / "words.png")


def test_a_missing_model_is_told_with_the_command_that_makes_it(artifacts_dir, tmp_path):
    with pytest.raises(BncapError, match=r"run_all\.sh --profile smoke --to 04"):
        caption.caption_pictures([picture(tmp_path / "a.png")], "smoke")
    with pytest.raises(BncapError, match="captioner.json"):
        caption.caption_pictures([tmp_path / "a.png"], "smoke", tmp_path)


def test_reports_are_plain_lines_or_json_with_the_same_numbers(run, tmp_path):
    found = caption.caption_pictures([picture(tmp_path / "a.png")], "smoke", beams=3, attention_png=tmp_path / "w.png")
    record = json.loads(caption.report_lines(found, as_json=True)[0])
    assert record["caption"] == found[0].text
    assert record["picture"].endswith("a.png")
    assert [w["word"] for w in record["words"]] == found[0].text.split()
    assert found[0].text in caption.report_lines(found, as_json=False)[0]
    assert Image.open(tmp_path / "w.png").width > 500


def test_the_strongest_patch_is_counted_in_rows_and_columns_from_one():
    weights = np.zeros(49, dtype=np.float32)
    weights[2 * 7 + 4] = 1
    assert WordAttention("বল", weights).strongest_patch() == (3, 5)


@pytest.mark.parametrize("file", ["bridge.safetensors", "decoder/model.safetensors", "captioner.json"])
def test_a_damaged_model_is_named(run, tmp_path, file):
    path = run / "best" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BncapError, match=r"bridge\.safetensors|decoder|captioner\.json") as error:
        caption.caption_pictures([picture(tmp_path / "a.png")], "smoke")
    assert len(str(error.value).splitlines()) == 1


def test_a_run_is_used_with_the_settings_that_it_was_made_with(run, tmp_path, monkeypatch):
    made_with = get_config("smoke", ["world.retrain_encoder=True", "model.max_tokens=5"])
    write_json(run / MANIFEST, {"finished": "2026-01-01T12:00:00+0000", "config": made_with.as_dict()})
    seen = []
    monkeypatch.setattr(caption, "Encoder", lambda path: seen.append(path) or TinyEncoder(path))
    (found,) = caption.caption_pictures([picture(tmp_path / "a.png")], run=run)
    assert seen[0].endswith("00_mini_world/encoder-s42")  # not the encoder that ships with the package
    assert len(found.words) <= 5


@pytest.mark.parametrize("wrong", [{"last_k": "2"}, {"lang": 3}, {"encoder": 5}, {"profile": None}])
def test_a_record_that_another_program_wrote_is_refused(run, tmp_path, wrong):
    path = run / "best" / "captioner.json"
    write_json(path, read_json(path) | wrong)
    with pytest.raises(BncapError, match=r"captioner\.json"):
        caption.caption_pictures([picture(tmp_path / "a.png")], "smoke")
