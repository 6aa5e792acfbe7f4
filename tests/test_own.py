"""Captions and pictures of somebody's own, in Hindi, from the file to scores: the steps that profile ``own`` takes."""

from __future__ import annotations

import csv
import math
import unicodedata

import pytest
from PIL import Image, ImageDraw

from bncap.config import BASE, MAIN, get_config
from bncap.data import corpus
from bncap.data.pairs import read_corpus
from bncap.data.splits import read_splits
from bncap.encoders import features
from bncap.errors import BncapError
from bncap.experiments import runs, samples
from bncap.pipeline import artifacts, paths, workers
from bncap.report import figures_method, figures_results, tables
from bncap.small_models import build
from bncap.small_models.text_models import select_texts
from bncap.synthesis import generate

pytestmark = pytest.mark.slow

COLOURS = {"लाल": (205, 30, 35), "नीला": (40, 60, 200), "काला": (20, 20, 20), "पीला": (230, 210, 40)}
SHAPES = {"गोला": "ellipse", "डिब्बा": "rectangle"}
MODES = ("RGB", "RGBA", "P", "RGB")
COUNT = 44
SETTINGS = (
    "data.lang=hi_IN", "data.own_share=0.2", "data.max_rejected=0.05", "data.shards=2", "world.model_steps=0.1",
    "train.epochs=30", "train.batch=16",
)  # fmt: skip


def write_data(folder, synthetic=()):
    """Pictures of a coloured shape on sand, one of them too small, and a plain CSV; each caption has a word of its own.

    Returns the configuration.  Those of ``synthetic`` bring a synthetic picture.
    """
    (folder / "images").mkdir()
    rows = []
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for i in range(COUNT):
        colour, shape = kinds[i * 3 % len(kinds)]
        picture = Image.new("RGB", (20, 20) if i == 5 else (60 + 7 * i, 300 - 5 * i), (216, 198, 150))
        side = min(picture.size)
        draw = getattr(ImageDraw.Draw(picture), SHAPES[shape])
        centre = picture.width / 2, picture.height / 2
        draw([*(c - side / 3 for c in centre), *(c + side / 3 for c in centre)], fill=COLOURS[colour])
        picture.convert(MODES[i % len(MODES)]).save(folder / "images" / f"{i:02}.png")
        own_word = chr(0x0915 + i // 20) + chr(0x0915 + i % 20)
        rows.append([f"{i:02}.png", f"रेत पर एक {colour} {shape} है। {own_word}", ""])
        if i in synthetic:
            picture.resize((112, 112)).save(folder / "images" / f"drawn_{i:02}.png")
            rows[-1][-1] = f"drawn_{i:02}.png"
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["image", "caption", "synthetic"], *rows])
    return get_config("own", [f"data.captions={folder / 'captions.csv'}", *SETTINGS])


def one_after_the_other(function, arguments, jobs=None, label=""):
    return [function(*each) for each in arguments]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The configuration, when every step has been made."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNCAP_ARTIFACTS", str(folder / "artifacts"))
        patch.setenv("BNCAP_FIGURES", str(folder / "figures"))
        patch.setenv("BNCAP_TRIAL", "")
        patch.setattr(workers, "run_parallel", one_after_the_other)
        patch.setattr(build, "run_parallel", one_after_the_other)
        config = write_data(folder)
        build.build_models(config)
        corpus.build_corpus(config)
        generate.build_images(config)
        features.build_features(config)
        runs.run_main(config, [42])
        samples.build_samples(config, 42)
        yield config


def step(config, number, name):
    return paths.step_dir(config.profile, number, name, config.data.seed)


def test_only_what_serves_own_data_is_made_and_from_training_captions_alone(chain):
    assert set(build.build_models(chain)) == {"decoder", "bertscore"}
    texts, splits = select_texts(chain), read_splits(chain)
    seen = {*texts.train, *texts.held_out}
    assert seen == {caption.text for caption in splits["train"]}
    held_out = [caption.text for split in ("validation", "test") for caption in splits[split]]
    assert len(held_out) == 18 and not seen & set(held_out)
    from bncap.model import load_tokenizer

    tokenizer = load_tokenizer(str(step(chain, "00_mini_world", "decoder")), "hi_IN")
    for text in held_out:
        assert tokenizer.unk_token_id not in tokenizer(text_target=text)["input_ids"]


def test_a_picture_that_is_too_small_is_left_out_with_its_caption(chain):
    pairs = read_corpus(step(chain, "01_data_build", "corpus"))
    assert len(pairs) == COUNT - 1 and not any(pair.image.endswith("05.png") for pair in pairs)
    assert all(pair.similarity is None and pair.target.startswith("रेत पर") for pair in pairs)


def test_without_synthetic_pictures_cross_entropy_alone_is_trained_and_scored_on_the_one_test_set(chain):
    assert list(runs.trainable(chain)) == [BASE]
    scores = artifacts.read_json(step(chain, "04_training", BASE) / "scores.json")
    assert set(scores) == {"test"} and scores["test"]["images"] in (8, 9)
    assert all(math.isfinite(scores["test"][name]) for name in ("B1", "B4", "METEOR", "BERT-F1"))
    assert "lang:hi" in scores["test"]["signature"]


def test_the_captions_are_in_hindi_and_tell_the_pictures_apart(chain):
    rows = artifacts.read_csv(step(chain, "04_training", BASE) / "captions_test.csv")
    letters = {c for row in rows for c in row["caption"] if unicodedata.category(c)[0] in "LM"}
    assert letters and all("DEVANAGARI" in unicodedata.name(c) for c in letters)
    right = sum(colour in row["caption"] for row in rows for colour in COLOURS if colour in row["reference"])
    assert right > len(rows) / 2  # a blind model would be right in one of four


def test_samples_and_figures_need_no_pair(chain, tmp_path):
    shown = step(chain, "04_training", "samples")
    record = artifacts.read_json(shown / "samples.json")
    assert record["triplet"] is None and {c["split"] for c in record["captions"]} == {"test"}
    places = [(c["rank"], -c["meteor"]) for c in record["captions"]]
    assert record["lang"] == "hi" and len(places) == samples.SHOWN and places == sorted(set(places))
    assert (places[0][0], places[-1][0]) == (1, record["captions"][0]["of"])
    assert Image.open(figures_method.draw_captions(shown, tmp_path / "captions")).width > 1000
    assert figures_results.draw_convergence(chain, [42], tmp_path / "fig3", [BASE]).is_file()


def test_the_table_has_one_row_and_nothing_of_the_papers(chain):
    frame = tables.read_table("table2_main", chain, 42, [BASE])
    assert frame[["method", "split"]].to_numpy().tolist() == [[BASE, "test"]]
    csv_file, markdown, _ = tables.write_table(frame, "table2_main", chain)
    assert csv_file.is_file() and "paper" not in markdown.read_text("utf-8")


def test_where_some_captions_bring_a_synthetic_picture_the_main_model_is_trained_as_well(tmp_path, artifacts_dir):
    config = write_data(tmp_path, synthetic=range(10, 30))
    corpus.build_corpus(config)
    rows = artifacts.read_csv(generate.build_images(config) / "triplets.csv")
    assert list(runs.trainable(config)) == [BASE, MAIN]
    assert 0 < sum(row["synthetic"] != "" for row in rows) < len(rows)


def test_captions_of_another_language_are_refused_with_the_remedy(tmp_path, artifacts_dir):
    write_data(tmp_path)
    path = tmp_path / "captions.csv"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([f"{lines[0]},lang", *(f"{line},hi" for line in lines[1:])]), "utf-8")
    config = get_config("own", [f"data.captions={path}", "data.lang=ne_NP"])
    with pytest.raises(BncapError, match=r"captions\.csv has no training caption in Nepali.*set data\.lang"):
        select_texts(config)
