import json

import pytest
from PIL import Image

from bncap.captions import check_image, read_boxes, read_coco, read_flickr_csv
from bncap.errors import BncapError

COCO = {
    "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
    "annotations": [
        {"id": 21, "image_id": 7, "caption": "A cat."},
        {"id": 4, "image_id": 3, "caption": " Two\n dogs  run. "},
        {"id": 5, "image_id": 7, "caption": "A cat sleeps."},
    ],
}
HEADER = "image_name| comment_number| comment\n"


def coco_file(tmp_path, **changes):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(COCO | changes), "utf-8")
    return path


def annotation(**changes):
    return [COCO["annotations"][0], {"id": 22, "image_id": 3, "caption": "A dog."} | changes]


def test_coco_captions_come_in_the_order_of_their_ids_with_single_blanks(tmp_path):
    captions = read_coco(coco_file(tmp_path), "train2014")
    assert [(c.caption_id, c.image_id, c.image, c.text) for c in captions] == [
        (4, "3", "train2014/a.jpg", "Two dogs run."),
        (5, "7", "train2014/b.jpg", "A cat sleeps."),
        (21, "7", "train2014/b.jpg", "A cat."),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": annotation(id=21)}, r"annotations\[1\]: caption id 21 comes a second time"),
        ({"annotations": annotation(image_id=99)}, r"caption 22 is of image 99"),
        ({"annotations": annotation(caption=" \n")}, r"caption 22 is empty"),
        ({"annotations": annotation(caption=None)}, r"annotations\[1\]: 'caption' is missing, expected str"),
        ({"annotations": annotation(id="22")}, r"annotations\[1\]: 'id' is '22', expected int"),
        ({"annotations": ["text"]}, r"annotations\[0\]: 'id' is missing"),
        ({"annotations": None}, r"no list 'annotations'"),
        ({"images": [{"id": 7}]}, r"images\[0\]: 'file_name' is missing"),
        ({"images": COCO["images"] + COCO["images"][:1]}, r"images\[2\]: image id 7 comes a second time"),
    ],
)
def test_a_broken_coco_record_is_named_with_its_file(tmp_path, changes, message):
    path = coco_file(tmp_path, **changes)
    with pytest.raises(BncapError, match=message) as error:
        read_coco(path, "train2014")
    assert str(path) in str(error.value)


def test_truncated_json_and_a_missing_file_are_named(tmp_path):
    path = coco_file(tmp_path)
    path.write_text(path.read_text("utf-8")[:-10], "utf-8")
    with pytest.raises(BncapError, match="captions.json is not readable JSON"):
        read_coco(path, "train2014")
    with pytest.raises(BncapError, match="none.json is missing"):
        read_coco(tmp_path / "none.json", "train2014")


def test_flickr_captions_keep_their_order_bars_and_stem_ids(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(HEADER + "10.jpg| 0| A dog , runs .\n10.jpg| 1| A | bar\n009.jpg| 0| Cats\n\n", "utf-8")
    captions = read_flickr_csv(path, "flickr30k/flickr30k_images")
    assert [(c.caption_id, c.image_id, c.text) for c in captions] == [
        (0, "10", "A dog , runs ."),
        (1, "10", "A | bar"),
        (2, "009", "Cats"),
    ]
    assert captions[2].image == "flickr30k/flickr30k_images/009.jpg"


def test_the_row_that_flickr30k_publishes_without_its_bar_is_mended_and_reported(tmp_path, capsys):
    path = tmp_path / "results.csv"
    path.write_text(HEADER + "2199200615.jpg| 4   A dog runs across the grass .\n", "utf-8")
    (caption,) = read_flickr_csv(path, "images")
    assert (caption.image_id, caption.text) == ("2199200615", "A dog runs across the grass .")
    assert "line 2: mended" in capsys.readouterr().err


@pytest.mark.parametrize(
    "row", ["10.jpg A dog", "10.jpg| x| A dog", "10.jpg| 0|  ", "| 0| A dog", "10.jpg| 4", "10.jpg| A dog runs"]
)
def test_any_other_broken_flickr_row_is_an_error_with_its_line(tmp_path, row):
    path = tmp_path / "results.csv"
    path.write_text(f"{HEADER}9.jpg| 0| Cats\n{row}\n", "utf-8")
    with pytest.raises(BncapError, match="results.csv: line 3"):
        read_flickr_csv(path, "images")


def test_a_comment_that_comes_twice_and_a_foreign_header_are_errors(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(HEADER + "9.jpg| 0| Cats\n9.jpg| 0| Dogs\n", "utf-8")
    with pytest.raises(BncapError, match="line 3: 9.jpg has comment 0 a second time"):
        read_flickr_csv(path, "images")
    path.write_text("image,caption\n9.jpg,Cats\n", "utf-8")
    with pytest.raises(BncapError, match="line 1 is not"):
        read_flickr_csv(path, "images")


def test_boxes_come_by_file_name_with_the_name_of_their_category(tmp_path):
    path = tmp_path / "instances.json"
    content = {
        "images": COCO["images"],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 18, "bbox": [1, 2.5, 30, 40]}],
    }
    path.write_text(json.dumps(content), "utf-8")
    assert read_boxes(path) == {"a.jpg": [("dog", (1.0, 2.5, 30.0, 40.0))], "b.jpg": []}
    content["annotations"][0]["category_id"] = 5
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(BncapError, match=r"annotations\[0\]: image 3 or category 5 is not listed"):
        read_boxes(path)


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).save(whole)  # grey: convertible to RGB
    check_image(whole)
    for name, content in (("cut.jpg", whole.read_bytes()[:900]), ("text.jpg", b"not a picture")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BncapError, match=f"{name} cannot be decoded"):
            check_image(tmp_path / name)
    with pytest.raises(BncapError, match="none.jpg is missing"):
        check_image(tmp_path / "none.jpg")


def test_truncated_instances_and_a_folder_in_place_of_a_file_are_named(tmp_path):
    (tmp_path / "instances.json").write_text('{"images": [', "utf-8")
    with pytest.raises(BncapError, match=r"instances\.json is not readable JSON .*fetch it again"):
        read_boxes(tmp_path / "instances.json")
    with pytest.raises(BncapError, match=f"{tmp_path.name} cannot be read"):
        read_boxes(tmp_path)
