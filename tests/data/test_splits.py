import json

import pytest
from small_data import config_for, write_coco, write_own, write_picture

from bncap.config import get_config
from bncap.data.readers import Caption, list_images
from bncap.data.splits import check_disjoint, draw_images, read_splits
from bncap.errors import BncapError


def own(path, *overrides):
    return read_splits(get_config("own", (f"data.captions={path}", "data.lang=hi_IN", *overrides)))


def sizes(found):
    return {split: len(list_images(captions)) for split, captions in found.items()}


def test_coco_trains_on_all_of_train2014_and_the_rest_is_drawn(root):
    found = read_splits(config_for(root))
    assert sizes(found) == {"train": 20, "validation": 2, "test": 3, "ood": 3}
    assert len(found["train"]) == 40 and found["train"][0].image == "train2014/COCO_train2014_000000000010.jpg"
    assert {c.image.split("/")[0] for split in ("validation", "test") for c in found[split]} == {"val2014"}
    assert {c.image.rpartition("/")[0] for c in found["ood"]} == {"flickr30k/flickr30k_images"}


def write_karpathy(path, splits_of):
    images = [
        {"filename": f"k{i}.jpg", "split": split, "sentences": [{"sentid": i, "raw": f"a sentence {i}"}]}
        for i, split in enumerate(splits_of)
    ]
    path.write_text(json.dumps({"images": images}), "utf-8")


def test_of_karpathys_flickr30k_only_the_test_split_is_drawn_from_and_it_goes_before_the_table(root):
    write_karpathy(root / "dataset_flickr30k.json", ["train", "test", "val", "test", "test", "train"])
    found = read_splits(config_for(root))
    assert [(c.image, c.split) for c in found["ood"]] == [
        (f"flickr30k/flickr30k_images/k{i}.jpg", "test") for i in (1, 3, 4)
    ]
    with pytest.raises(BncapError, match=r"has 3 captioned images, data.ood_images asks for 4"):
        read_splits(config_for(root, "data.ood_images=4"))
    named = read_splits(config_for(root, "data.ood=flickr30k/results.csv", "data.ood_images=4"))
    assert sizes(named)["ood"] == 4


@pytest.mark.parametrize("captions, folder", [
    ("flickr30k/results.csv", "flickr30k/images"),
    ("flickr30k_images/results.csv", "flickr30k_images/flickr30k_images"),
])  # fmt: skip
def test_flickr30ks_pictures_are_found_where_other_archives_put_them(captions, folder, root):
    (root / "flickr30k" / "flickr30k_images").rename(root / "loose")
    table = (root / "flickr30k" / "results.csv").rename(root / "results.csv")
    for path in (root / captions, root / folder):
        path.parent.mkdir(exist_ok=True)
    (root / "loose").rename(root / folder)
    table.rename(root / captions)
    assert {c.image.rpartition("/")[0] for c in read_splits(config_for(root))["ood"]} == {folder}


def test_without_flickr30k_there_may_be_no_out_of_domain_images(root):
    (root / "flickr30k" / "results.csv").unlink()
    with pytest.raises(BncapError, match=r"flickr30k/results\.csv is missing; .*BNCAP_DATA"):
        read_splits(config_for(root))
    assert read_splits(config_for(root, "data.ood_images=0"))["ood"] == []


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


def test_splits_that_share_an_image_id_are_refused_though_the_files_differ(root):
    write_coco(root, "val2014", [12, *range(40, 46)])
    with pytest.raises(BncapError, match="the image id 12 with the train split"):
        read_splits(config_for(root, "data.test_images=5"))


def test_splits_are_compared_by_the_bytes_of_the_pictures_where_these_are_known():
    found = {"train": [Caption(1, "1", "a.jpg", "x")], "test": [Caption(2, "2", "b.jpg", "y")]}
    check_disjoint(found, {"a.jpg": "12", "b.jpg": "21"})
    check_disjoint(found, {"a.jpg": "12"})
    with pytest.raises(BncapError, match="test split shares the same file with the train split: b.jpg and a.jpg"):
        check_disjoint(found, {"a.jpg": "12", "b.jpg": "12"})


def test_an_own_data_set_is_divided_by_picture_and_its_captions_are_in_the_target_language(tmp_path):
    path = write_own(tmp_path, 30)
    found = own(path)
    assert sizes(found) == {"train": 24, "validation": 3, "test": 3, "ood": 0}
    assert {c.lang for captions in found.values() for c in captions} == {"hi_IN"}
    images = [image for captions in found.values() for image in list_images(captions)]
    assert sorted(images) == [f"{i:03d}.png" for i in range(30)]
    assert all(len(captions) == 2 * sizes(found)[split] for split, captions in found.items())
    assert own(path) == found != own(path, "data.seed=43")
    assert sizes(own(path, "data.own_share=0.001")) == {"train": 28, "validation": 1, "test": 1, "ood": 0}


def test_own_pictures_of_equal_bytes_stay_in_one_split_whatever_the_draw(tmp_path):
    path = write_own(tmp_path, 12)
    for i in range(6):  # 006 to 011 are copies of 000 to 005
        write_picture(tmp_path / "images" / f"{i + 6:03d}.png", i)
    for seed in range(8):
        found = own(path, f"data.seed={seed}", "data.own_share=0.2")
        split_of = {c.image: split for split, captions in found.items() for c in captions}
        assert all(split_of[f"{i:03d}.png"] == split_of[f"{i + 6:03d}.png"] for i in range(6))
        assert set(split_of.values()) == {"train", "validation", "test"}


def test_an_own_data_set_of_too_few_different_pictures_is_refused(tmp_path):
    path = write_own(tmp_path, 3)
    write_picture(tmp_path / "images" / "002.png", 1)
    with pytest.raises(BncapError, match="captions of 2 different pictures; .* at least 3"):
        own(path)


def test_an_own_data_set_keeps_the_splits_that_it_brings(tmp_path):
    path = tmp_path / "dataset.json"
    write_karpathy(path, ["train", "val", "restval", "test"])
    found = own(path, "data.lang=en_XX")
    assert {split: [c.image for c in captions] for split, captions in found.items()} == {
        "train": ["k0.jpg", "k2.jpg"], "validation": ["k1.jpg"], "test": ["k3.jpg"], "ood": [],
    }  # fmt: skip
    write_karpathy(path, ["train", "attic"])
    with pytest.raises(BncapError, match=r"dataset.json: caption 1 \(k1.jpg\) is in the split 'attic'"):
        own(path, "data.lang=en_XX")


@pytest.mark.parametrize(("given", "lacking"), [(["test", "val"], "train"), (["train", "test"], "validation")])
def test_own_splits_need_something_to_learn_from_and_to_choose_by(tmp_path, given, lacking):
    write_karpathy(tmp_path / "dataset.json", given)
    with pytest.raises(BncapError, match=rf"dataset\.json: no caption is in the split {lacking}"):
        own(tmp_path / "dataset.json", "data.lang=en_XX")


def test_a_missing_file_of_own_captions_is_named_with_the_option(tmp_path):
    with pytest.raises(BncapError, match=r"none.csv is missing; .*--captions FILE"):
        own(tmp_path / "none.csv")


def test_captions_that_are_not_written_as_their_language_is_are_refused(tmp_path):
    path = write_own(tmp_path, 20, word="picture")
    with pytest.raises(BncapError, match="not written in Hindi.*--lang"):
        read_splits(get_config("own", (f"data.captions={path}", "data.lang=hi_IN")))
