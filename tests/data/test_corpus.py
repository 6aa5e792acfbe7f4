import csv
import shutil

import numpy as np
import pytest
from small_data import Translator, Verifier, config_for, write_own, write_picture

from bncap.config import get_config
from bncap.data import corpus
from bncap.data import images as images_module
from bncap.data.corpus import build_corpus
from bncap.data.pairs import Pair, collect_references, read_corpus
from bncap.errors import BncapError, OutOfTime
from bncap.mini.models import MiniTranslator
from bncap.mini.world import build_world
from bncap.pipeline import artifacts, deadline, paths
from bncap.report import figures_data


def build(root, *overrides):
    return build_corpus(config_for(root, *overrides))


def step(name, profile="paper"):
    return paths.step_dir(profile, "01_data_build", name, 42)


def test_corpus_holds_the_accepted_pairs_of_every_split(root, translator):
    pairs = read_corpus(build(root))
    train = [pair for pair in pairs if pair.split == "train"]
    # of 20 images, 14 and 24 have no good caption, 17 and 27 have one
    assert len(train) == 16 * 2 + 2
    assert {pair.similarity for pair in pairs} == {0.9}
    image = "train2014/COCO_train2014_000000000010.jpg"
    assert train[0] == Pair(20, "10", image, "train", "good 10", "GOOD 10", 0.9)
    assert [pair.caption_id for pair in train] == sorted(pair.caption_id for pair in train)
    assert list(dict.fromkeys(pair.split for pair in pairs)) == ["train", "validation", "test", "ood"]
    assert {pair.image.split("/")[0] for pair in pairs if pair.split in ("validation", "test")} == {"val2014"}
    assert {pair.image.split("/")[1] for pair in pairs if pair.split == "ood"} == {"flickr30k_images"}


def test_counts_say_what_was_accepted_and_which_images_lost_all_captions(root, translator):
    counts = artifacts.read_json(build(root, "data.validation_images=6", "data.test_images=0") / "counts.json")
    assert counts["splits"]["train"] == {
        "captions": 40,
        "verified": 40,
        "accepted": 34,
        "accepted_share": 0.85,
        "without_picture": 0,
        "images": 20,
        "images_dropped": 2,
        "given_split": "",
    }
    assert (counts["threshold"], counts["lang"]) == (0.55, "bn_IN")
    assert counts["calibrated_threshold"] == pytest.approx(0.7, abs=0.011)  # between 0.5 (wrong) and 0.9 (good)
    assert (counts["splits"]["ood"]["images"], counts["splits"]["ood"]["accepted_share"]) == (3, 1.0)
    assert counts["files"]["ood"] == "results.csv"


def test_the_tables_hold_every_caption_with_its_flag(root, translator):
    folder = build(root, "data.threshold=-1")
    tables = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*/*.csv"))
    assert tables == ["evaluation/heldout.csv", "evaluation/ood.csv", *(f"shards/shard_0{n}.csv" for n in range(3)),
                      *(f"splits/{split}.csv" for split in ("ood", "test", "train", "validation"))]  # fmt: skip
    by_text = {row["en"]: row for row in artifacts.read_csv(folder / "shards" / "shard_00.csv")}
    assert by_text["wrong 14"]["valid"] == "1" and by_text["wrong 14"]["similarity"] == "0.500000"
    assert by_text["empty 14"]["valid"] == "0" and by_text["empty 14"]["target"] == ""
    rows = artifacts.read_csv(build(root, "data.threshold=0.9") / "shards" / "shard_00.csv")
    assert {row["en"].split()[0] for row in rows if row["valid"] == "1"} == {"good", "fine"}


def test_acceptance_and_quality_agree_with_a_count_by_hand(root, translator):
    folder = build(root)
    rows = artifacts.read_csv(folder / "acceptance.csv")
    share = {(row["split"], row["threshold"]): float(row["accepted"]) for row in rows}
    assert len(share) == 4 * 61 and {threshold for _, threshold in share} >= {"0.30", "0.55", "0.90"}
    assert share["train", "0.50"] == pytest.approx(38 / 40)  # all but the two empty ones
    assert share["train", "0.51"] == pytest.approx(34 / 40)
    quality = {(row["split"], row["threshold"]): row for row in artifacts.read_csv(folder / "filter_quality.csv")}
    assert float(quality["train", "0.5"]["precision"]) == pytest.approx(34 / 38, abs=1e-5)
    assert float(quality["train", "0.5"]["recall"]) == 1
    faults = artifacts.read_csv(folder / "faults.csv")
    assert sum(row["split"] == "train" for row in faults) == 6


def test_a_translator_that_does_not_know_its_faults_yields_no_quality(root, translator):
    folder = build(root, "components.translator=identity")
    assert not (folder / "filter_quality.csv").exists() and not (folder / "faults.csv").exists()
    assert "calibrated_threshold" not in artifacts.read_json(folder / "counts.json")


def test_another_threshold_neither_translates_nor_decodes_anything_again(root, translator, monkeypatch, capsys):
    build(root)
    translator.calls.clear()
    monkeypatch.setattr(images_module, "inspect_files", None)
    build(root, "data.triplets=5", "train.epochs=1")
    assert "corpus-s42: up to date" in capsys.readouterr().out
    folder = build(root, "data.threshold=0.4")
    assert translator.calls == [] and Verifier.loaded == 1
    assert any(pair.similarity == 0.5 for pair in read_corpus(folder))


def test_what_changes_in_a_source_changes_the_corpus(root, translator):
    build(root)
    path = root / "flickr30k" / "results.csv"
    path.write_text(path.read_text("utf-8").replace("good flickr", "nice flickr"), "utf-8")
    assert any(pair.en.startswith("nice") for pair in read_corpus(build(root)))
    swapped = build(root, "data.validation_images=3", "data.test_images=2")  # the same captions, parted otherwise
    lists = [artifacts.read_csv(swapped / "splits" / f"{split}.csv") for split in ("validation", "test")]
    assert [len(rows) for rows in lists] == [3, 2]


def test_the_ids_of_each_split_are_listed_with_hashes(root, translator):
    folder = build(root)
    rows = artifacts.read_csv(folder / "splits" / "test.csv")
    assert len(rows) == 3 and [row["image"] for row in rows] == sorted(row["image"] for row in rows)
    for row in rows:
        assert row["image_id"] == str(int(row["image"][-10:-4]))
        assert row["sha256"] == artifacts.file_hash(root / row["image"])
    seen = {row["image"]: row for row in artifacts.read_csv(step("pictures") / "images.csv")}
    assert len(seen) == 20 + 2 + 3 + 3
    picture = seen[rows[0]["image"]]
    assert (picture["width"], picture["height"]) == ("32", "32")
    assert int(picture["bytes"]) == (root / rows[0]["image"]).stat().st_size


def test_splits_that_share_the_bytes_of_a_picture_are_refused_before_anything_is_translated(root, translator):
    held_out = root / "val2014" / "COCO_val2014_000000000041.jpg"
    held_out.write_bytes((root / "train2014" / "COCO_train2014_000000000012.jpg").read_bytes())
    with pytest.raises(BncapError, match="the same file with the train split: .*000041.jpg and .*000012.jpg") as error:
        build(root, "data.test_images=4")
    assert "data.seed" in str(error.value) and translator.calls == []
    build(root, "data.test_images=4", "data.check_images=False")  # compared by ids alone


def test_a_share_of_unusable_pictures_stops_the_build_and_a_word_allows_it(root, translator):
    (root / "train2014" / "COCO_train2014_000000000010.jpg").write_bytes(b"not a picture")
    (root / "train2014" / "COCO_train2014_000000000011.jpg").unlink()
    write_picture(root / "train2014" / "COCO_train2014_000000000012.jpg", 1, side=31)
    with pytest.raises(
        BncapError, match=r"3 of 28 pictures .*data\.max_rejected=0\.01 .*rejected\.csv.*=0\.11"
    ) as stop:
        build(root)
    assert str(step("pictures") / "rejected.csv") in str(stop.value) and translator.calls == []
    reasons = {row["image"][-6:-4]: row["reason"] for row in artifacts.read_csv(step("pictures") / "rejected.csv")}
    assert reasons["11"] == "missing" and "decoded" in reasons["10"] and "31 px" in reasons["12"]
    folder = build(root, "data.max_rejected=0.11")
    pairs = [pair for pair in read_corpus(folder) if pair.split == "train"]
    assert min(pair.caption_id for pair in pairs) == 26 and len(pairs) == 34 - 6
    counts = artifacts.read_json(folder / "counts.json")["splits"]["train"]
    assert (counts["accepted"], counts["without_picture"], counts["images_dropped"]) == (34, 6, 5)
    assert not {"10", "11", "12"} & {row["image_id"] for row in artifacts.read_csv(folder / "splits" / "train.csv")}


def test_a_split_without_a_usable_picture_is_named_before_anything_is_translated(root, translator):
    for picture in (root / "flickr30k" / "flickr30k_images").iterdir():
        picture.unlink()
    with pytest.raises(BncapError, match=r"no picture of the ood split .*flickr30k_images/.*rejected\.csv"):
        build_corpus(config_for(root, "data.max_rejected=0.5"))
    assert not translator.calls


def test_the_pictures_go_on_after_the_last_block_when_time_was_up(root, translator, monkeypatch):
    expected = build(root) and (step("pictures") / "images.csv").read_bytes()
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(root.parent / "again"))
    monkeypatch.setattr(images_module, "BLOCK", 10)
    sizes, inspect_files = [], images_module.inspect_files
    monkeypatch.setattr(images_module, "inspect_files", lambda paths: sizes.append(len(paths)) or inspect_files(paths))
    monkeypatch.setenv(deadline.VARIABLE, "1")
    with pytest.raises(OutOfTime, match="the pictures, 10 of 28"):
        build(root)
    monkeypatch.delenv(deadline.VARIABLE)
    build(root)
    assert sizes == [10, 10, 8]
    assert (step("pictures") / "images.csv").read_bytes() == expected
    assert not [path for path in step("pictures").iterdir() if "block" in path.name]


def test_without_inspection_the_corpus_is_the_same_but_for_the_hashes(root, translator, capsys):
    looked = read_corpus(build(root))
    shutil.rmtree(root / "train2014")
    folder = build(root, "data.check_images=False")
    assert "data.check_images=False" in capsys.readouterr().out
    assert read_corpus(folder) == looked
    assert {row["sha256"] for row in artifacts.read_csv(folder / "splits" / "train.csv")} == {""}


def test_references_gather_each_images_captions_and_leave_other_splits_out():
    def pair(i, image, split, target):
        return Pair(i, image, f"{image}.jpg", split, "en", target, 0.9)

    pairs = [pair(1, "b", "test", "খ"), pair(2, "a", "test", "ক"), pair(3, "b", "test", "গ"), pair(4, "c", "ood", "ঘ")]
    assert collect_references(pairs, "test") == (["a.jpg", "b.jpg"], [["ক"], ["খ", "গ"]])
    assert collect_references(pairs, "validation") == ([], [])


def test_a_caption_left_in_english_is_refused_whatever_its_cosine(root, translator, monkeypatch):
    monkeypatch.setattr(Translator, "translate", lambda self, captions: captions)  # copies all: Eq. 4 is blind to it
    monkeypatch.setattr(Verifier, "similarity", lambda self, en, target: np.ones(len(en)))
    assert read_corpus(build(root, "data.reject_copies=False"))
    with pytest.raises(BncapError, match="no pair of the train split"):
        build(root, "data.reject_copies=True")


def test_a_split_without_any_accepted_pair_is_named_before_anything_is_drawn_or_trained(root, translator):
    with pytest.raises(BncapError, match=r"corpus\.csv has no pair of the train split: .*data\.threshold=0\.95; lower"):
        build(root, "data.threshold=0.95")
    assert (step("corpus") / "acceptance.csv").is_file()


def own(folder, monkeypatch, *overrides):
    monkeypatch.setenv("BNCAP_ARTIFACTS", str(folder / "artifacts"))
    return build_corpus(get_config("own", (f"data.captions={folder / 'captions.csv'}", *overrides)))


def test_captions_in_the_target_language_are_valid_without_a_cosine(tmp_path, monkeypatch):
    write_own(tmp_path, 12)
    folder = own(tmp_path, monkeypatch, "data.lang=hi_IN")
    pairs = read_corpus(folder)
    assert len(pairs) == 24 and {(pair.similarity, pair.en) for pair in pairs} == {(None, "")}
    counts = artifacts.read_json(folder / "counts.json")
    assert {split: count["captions"] for split, count in counts["splits"].items()} == {
        "train": 20, "validation": 2, "test": 2, "ood": 0,
    }  # fmt: skip
    assert counts["splits"]["train"]["verified"] == 0 and counts["splits"]["train"]["accepted"] == 20
    assert artifacts.read_csv(folder / "acceptance.csv") == []
    for draw in (figures_data.draw_acceptance, figures_data.draw_cosines):
        assert draw(folder, tmp_path / draw.__name__).stat().st_size > 0


def test_an_english_data_set_of_ones_own_is_its_own_english_side(tmp_path, monkeypatch):
    write_own(tmp_path, 12, word="own")
    pairs = read_corpus(own(tmp_path, monkeypatch, "data.lang=en_XX"))
    assert all(pair.en == pair.target for pair in pairs)


def test_synthetic_pictures_that_a_data_set_brings_are_inspected_and_stay_with_their_pairs(tmp_path, monkeypatch):
    path = write_own(tmp_path, 12, captions=1)
    rows = [*csv.reader(path.open())][1:]
    write_picture(tmp_path / "images" / "syn.png", 99)
    listed = [[*rows[0], "syn.png"], [*rows[1], "gone.png"], *([*row, ""] for row in rows[2:])]
    artifacts.write_csv(path, ("image", "caption", "synthetic"), listed)
    pairs = {
        pair.image: pair for pair in read_corpus(own(tmp_path, monkeypatch, "data.lang=hi_IN", "data.max_rejected=0.1"))
    }
    assert len(pairs) == 12
    assert [pairs[f"00{i}.png"].synthetic for i in range(3)] == ["syn.png", "", ""]


def test_the_mini_worlds_corpus_is_what_its_translator_says_of_every_caption(tmp_path, monkeypatch, artifacts_dir):
    monkeypatch.setattr(corpus, "Verifier", Verifier)
    (tmp_path / "verifier").mkdir()
    config = get_config(
        "smoke", (f"components.verifier={tmp_path / 'verifier'}", "data.threshold=-1.0", "data.shards=4")
    )
    build_world(config)
    folder = build_corpus(config)
    tables = [*(f"shards/shard_0{n}" for n in range(4)), "evaluation/heldout", "evaluation/ood"]
    rows = [row for table in tables for row in artifacts.read_csv(folder / f"{table}.csv")]
    assert len(rows) == 5 * (48 + 8 + 16 + 16)
    translator = MiniTranslator(config.world.fault_rate, config.data.seed)
    assert [row["target"] for row in rows] == translator.translate([row["en"] for row in rows])
    faults = translator.faults([row["en"] for row in rows])
    refused = [fault in ("empty", "left in English") for fault in faults]
    assert [row["valid"] == "0" for row in rows] == refused and any(refused)
    listed = [row["fault"] for row in artifacts.read_csv(folder / "faults.csv")]
    assert sorted(listed) == sorted(filter(None, faults))
    assert len(read_corpus(folder)) == len(rows) - sum(refused)
