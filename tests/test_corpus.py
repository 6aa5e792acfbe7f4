import json

import numpy as np
import pytest
from PIL import Image

from bncap import artifacts, corpus
from bncap.captions import Caption
from bncap.config import get_config
from bncap.corpus import build_corpus, check_disjoint, draw_images, read_corpus, references
from bncap.errors import BncapError
from bncap.plot_data import acceptance_curve, similarity_histogram

SIZES = ("data.validation_images=2", "data.test_images=3", "data.ood_images=3", "data.shards=3")


class Translator:
    """Upper case is the "translation"; what it does wrong is written in the caption."""

    def __init__(self):
        self.calls = []

    def translate(self, captions):
        self.calls += captions
        return ["" if "empty" in text else "off" if "wrong" in text else text.upper() for text in captions]

    def faults(self, captions):
        return [next((fault for fault in ("empty", "wrong") if fault in text), None) for text in captions]


class Verifier:
    def __init__(self, path):
        self.path = path

    def similarity(self, en, bn):
        return np.array([0.9 if b == e.upper() else 0.5 if b else -1.0 for e, b in zip(en, bn, strict=True)])


def write_picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_coco(root, split, ids):
    """Two captions an image; every image whose id ends in 4 has only faulty ones."""
    images, annotations = [], []
    for i in ids:
        name = f"COCO_{split}_{i:012d}.jpg"
        write_picture(root / split / name, i)
        images.append({"id": i, "file_name": name})
        words = ("wrong", "empty") if i % 10 == 4 else ("good", "wrong" if i % 10 == 7 else "fine")
        annotations += [{"id": 2 * i + k, "image_id": i, "caption": f"{word} {i}"} for k, word in enumerate(words)]
    path = root / "annotations" / f"captions_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations}), "utf-8")


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = tmp_path / "data"
    write_coco(root, "train2014", range(10, 30))
    write_coco(root, "val2014", range(40, 46))
    rows = ["image_name| comment_number| comment"]
    for i in range(10, 14):  # ids that COCO has too, as in the real data
        write_picture(root / "flickr30k" / "flickr30k_images" / f"{i}.jpg", 100 + i)
        rows += [f"{i}.jpg| {k}| good flickr {i} {k}" for k in range(2)]
    (root / "flickr30k" / "results.csv").write_text("\n".join(rows) + "\n", "utf-8")
    monkeypatch.setenv("BNCAP_DATA", str(root))
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(tmp_path / "artifacts"))
    return root


@pytest.fixture
def translator(monkeypatch):
    translator = Translator()
    monkeypatch.setattr(corpus, "load_translator", lambda config: translator)
    monkeypatch.setattr(corpus, "Verifier", Verifier)
    return translator


def build(*overrides):
    return build_corpus(get_config("paper", (*SIZES, *overrides)))


def test_corpus_holds_the_accepted_pairs_of_every_split(root, translator):
    pairs = read_corpus(build())
    train = [pair for pair in pairs if pair.split == "train"]
    # of 20 images, 14 and 24 have no good caption, 17 and 27 have one
    assert len(train) == 16 * 2 + 2
    assert {pair.similarity for pair in pairs} == {0.9}
    image = "train2014/COCO_train2014_000000000010.jpg"
    assert train[0] == corpus.Pair(20, "10", image, "train", "good 10", "GOOD 10", 0.9)
    assert [pair.caption_id for pair in train] == sorted(pair.caption_id for pair in train)
    assert {pair.image.split("/")[0] for pair in pairs if pair.split in ("validation", "test")} == {"val2014"}
    assert {pair.image.split("/")[1] for pair in pairs if pair.split == "ood"} == {"flickr30k_images"}


def test_counts_say_what_was_accepted_and_which_images_lost_all_captions(root, translator):
    counts = artifacts.read_json(build("data.validation_images=6", "data.test_images=0") / "counts.json")
    assert counts["splits"]["train"] == {
        "captions": 40,
        "accepted": 34,
        "accepted_share": 0.85,
        "images": 20,
        "images_dropped": 2,
    }
    assert counts["threshold"] == 0.55
    assert counts["calibrated_threshold"] == pytest.approx(0.7, abs=0.011)  # between 0.5 (wrong) and 0.9 (good)
    assert (counts["splits"]["ood"]["images"], counts["splits"]["ood"]["accepted_share"]) == (3, 1.0)


def test_shards_are_contiguous_runs_that_hold_every_caption_once(root, translator):
    folder = build()
    shards = [artifacts.read_csv(folder / "shards" / f"shard_{n:02d}.csv") for n in range(3)]
    assert [len(shard) for shard in shards] == [13, 13, 14]
    assert [int(row["caption_id"]) for shard in shards for row in shard] == list(range(20, 60))
    assert not (folder / "shards" / "shard_03.csv").exists()


def test_valid_is_false_for_what_is_below_the_threshold_and_for_empty_text_at_any(root, translator):
    rows = artifacts.read_csv(build("data.threshold=-1") / "shards" / "shard_00.csv")
    by_text = {row["en"]: row for row in rows}
    assert by_text["wrong 14"]["valid"] == "1" and by_text["wrong 14"]["similarity"] == "0.500000"
    assert by_text["empty 14"]["valid"] == "0" and by_text["empty 14"]["bn"] == ""
    rows = artifacts.read_csv(build("data.threshold=0.9") / "shards" / "shard_00.csv")
    assert {row["en"].split()[0] for row in rows if row["valid"] == "1"} == {"good", "fine"}


def test_acceptance_and_quality_agree_with_a_count_by_hand(root, translator):
    folder = build()
    rows = artifacts.read_csv(folder / "acceptance.csv")
    share = {(row["split"], row["threshold"]): float(row["accepted"]) for row in rows}
    assert len(share) == 4 * 61
    assert share["train", "0.50"] == pytest.approx(38 / 40)  # all but the two empty ones
    assert share["train", "0.51"] == pytest.approx(34 / 40)
    quality = {(row["split"], row["threshold"]): row for row in artifacts.read_csv(folder / "filter_quality.csv")}
    assert float(quality["train", "0.5"]["precision"]) == pytest.approx(34 / 38, abs=1e-5)
    assert float(quality["train", "0.5"]["recall"]) == 1
    faults = artifacts.read_csv(folder / "faults.csv")
    assert sum(row["split"] == "train" for row in faults) == 6


def test_a_translator_that_does_not_know_its_faults_yields_no_quality(root, translator, monkeypatch):
    monkeypatch.delattr(Translator, "faults")
    folder = build()
    assert not (folder / "filter_quality.csv").exists() and not (folder / "faults.csv").exists()
    assert "calibrated_threshold" not in artifacts.read_json(folder / "counts.json")


def test_an_interrupted_build_goes_on_at_the_first_missing_shard_to_the_same_bytes(root, translator, monkeypatch):
    whole = build()
    expected = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*.csv")}
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(root.parent / "again"))
    translate = translator.translate

    def fail_on_the_second_shard(captions):
        if "good 17" in captions:
            raise KeyboardInterrupt
        return translate(captions)

    monkeypatch.setattr(translator, "translate", fail_on_the_second_shard)
    with pytest.raises(KeyboardInterrupt):
        build()
    (first,) = (root.parent / "again").rglob("shard_*.csv")
    assert first.name == "shard_00.csv"
    monkeypatch.setattr(translator, "translate", translate)
    translator.calls.clear()
    folder = build()
    assert "good 10" not in translator.calls and "good 17" in translator.calls
    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.csv")} == expected


def test_a_finished_corpus_is_not_made_again_until_a_setting_or_a_source_changes(root, translator, capsys):
    build()
    translator.calls.clear()
    build("data.triplets=5", "train.epochs=1")
    assert translator.calls == [] and "up to date" in capsys.readouterr().out
    build("data.threshold=0.6")
    assert len(translator.calls) == 40 + 10 + 6
    path = root / "flickr30k" / "results.csv"
    path.write_text(path.read_text("utf-8").replace("good flickr", "nice flickr"), "utf-8")
    assert any(pair.en.startswith("nice") for pair in read_corpus(build("data.threshold=0.6")))


def test_the_same_seed_draws_the_same_images_and_another_seed_others():
    captions = [Caption(i, str(i // 2), f"val2014/{i // 2:03d}.jpg", "text") for i in range(200)]
    draws = [draw_images(captions, {"validation": 10, "test": 20}, seed) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    images = {split: {caption.image for caption in chosen} for split, chosen in draws[0].items()}
    assert (len(images["validation"]), len(images["test"])) == (10, 20)
    assert not images["validation"] & images["test"]
    assert draws[0] == draw_images(captions[::-1], {"validation": 10, "test": 20}, 1) | {
        split: sorted(chosen, key=lambda caption: caption.caption_id) for split, chosen in draws[0].items()
    }


def test_asking_for_more_images_than_there_are_is_an_error_with_the_fields(root, translator):
    with pytest.raises(BncapError, match=r"val2014 has 6 captioned images, .*data.test_images asks for 7"):
        build("data.test_images=5")


def test_splits_that_share_the_bytes_of_a_picture_are_refused_by_name(root, translator):
    held_out = root / "val2014" / "COCO_val2014_000000000041.jpg"
    held_out.write_bytes((root / "train2014" / "COCO_train2014_000000000012.jpg").read_bytes())
    with pytest.raises(BncapError, match="the same file with the train split: .*000041.jpg and .*000012.jpg") as error:
        build("data.test_images=4")
    assert "data.seed" in str(error.value) and translator.calls == []


def test_splits_that_share_an_image_id_are_refused_though_the_files_differ(root, translator):
    write_coco(root, "val2014", [12, *range(40, 46)])
    with pytest.raises(BncapError, match="the image id 12 with the train split"):
        build("data.test_images=5")


def test_two_pictures_of_equal_size_but_different_bytes_may_stand_in_two_splits(tmp_path):
    for name, content in (("a.jpg", b"12"), ("b.jpg", b"21")):
        (tmp_path / name).write_bytes(content)
    splits = {"train": [Caption(1, "1", "a.jpg", "x")], "test": [Caption(2, "2", "b.jpg", "y")]}
    check_disjoint(splits, tmp_path)


def test_missing_and_broken_pictures_are_named_before_anything_is_translated(root, translator):
    picture = root / "flickr30k" / "flickr30k_images" / "11.jpg"
    picture.write_bytes(b"not a picture")
    with pytest.raises(BncapError, match="11.jpg cannot be decoded"):
        build("data.ood_images=4")
    (root / "train2014" / "COCO_train2014_000000000020.jpg").unlink()
    with pytest.raises(BncapError, match="COCO_train2014_000000000020.jpg is missing"):
        build("data.ood_images=4")
    assert translator.calls == []


def test_missing_annotations_are_named(root, translator):
    (root / "annotations" / "captions_val2014.json").unlink()
    with pytest.raises(BncapError, match="captions_val2014.json is missing"):
        build()


def test_references_gather_each_images_captions_and_leave_other_splits_out():
    def pair(i, image, split, bn):
        return corpus.Pair(i, image, f"{image}.jpg", split, "en", bn, 0.9)

    pairs = [pair(1, "b", "test", "খ"), pair(2, "a", "test", "ক"), pair(3, "b", "test", "গ"), pair(4, "c", "ood", "ঘ")]
    assert references(pairs, "test") == (["a.jpg", "b.jpg"], [["ক"], ["খ", "গ"]])
    assert references(pairs, "validation") == ([], [])


def test_the_figures_show_known_faults_and_come_to_the_same_bytes_each_time(root, translator, monkeypatch, tmp_path):
    folder = build()
    curve, again, histogram = (
        draw(folder, tmp_path / f"{n}").read_bytes()
        for n, draw in enumerate((acceptance_curve, acceptance_curve, similarity_histogram))
    )
    assert curve == again
    monkeypatch.delattr(Translator, "faults")
    (tmp_path / "artifacts" / "paper").rename(tmp_path / "aside")
    folder = build()
    assert acceptance_curve(folder, tmp_path / "plain").read_bytes() != curve
    assert similarity_histogram(folder, tmp_path / "plain").read_bytes() != histogram


def test_a_caption_left_in_english_is_refused_whatever_its_cosine(root, translator, monkeypatch):
    monkeypatch.setattr(translator, "translate", lambda captions: captions)  # copies all, to which Eq. 4 is blind
    monkeypatch.setattr(Verifier, "similarity", lambda self, en, bn: np.ones(len(en)))
    assert read_corpus(build("data.reject_copies=False"))
    with pytest.raises(BncapError, match="no pair of the train split"):
        build("data.reject_copies=True")


def test_a_split_without_any_accepted_pair_is_named_before_anything_is_drawn_or_trained(root, translator):
    with pytest.raises(BncapError, match=r"corpus\.csv has no pair of the train split: .*data\.threshold=0\.95; lower"):
        build("data.threshold=0.95")
    assert (root.parent / "artifacts/paper/01_data_build/corpus-s42/acceptance.csv").is_file()
