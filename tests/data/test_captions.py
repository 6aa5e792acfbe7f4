import json
import tracemalloc

import pytest

from bncap.data.readers import Caption, list_images, read_boxes, read_captions
from bncap.errors import BncapError

COCO = {
    "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
    "annotations": [{"id": 21, "image_id": 7, "caption": "A cat."}],
}
KARPATHY = {
    "images": [
        {
            "sentids": [0],
            "imgid": 0,
            "sentences": [{"tokens": ["a", "cat"], "raw": "A cat.", "imgid": 0, "sentid": 0}],
            "split": "test",
            "filename": "b.jpg",
        }
    ],
    "dataset": "flickr8k",
}
FILES = {
    "COCO in one line": json.dumps(COCO),
    "COCO with its annotations first": json.dumps(dict(reversed(COCO.items()))),
    "COCO over many lines": json.dumps({"info": {}, **COCO}, indent=2),
    "Karpathy": json.dumps(KARPATHY),
    "token": "b.jpg#0\tA cat.\n",
    "Flickr30k": "image_name| comment_number| comment\nb.jpg| 0| A cat.\n",
    "Flickr8k of Kaggle": "image,caption\nb.jpg,A cat.\n",
    "plain, other order": 'lang,"caption",image\nen,A cat.,b.jpg\n',
    "plain lines": '{"image": "b.jpg", "caption": "A cat."}\n',
    "plain lines with the words of another format": r'{"image": "b.jpg", "caption": "A cat.", "x": "\"images\": 1"}',
}


def written(tmp_path, content):
    path = tmp_path / "captions.dat"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["plain", "byte-order mark", "CRLF"])
def test_a_format_is_known_by_its_content(tmp_path, name, form):
    text = {"plain": "", "byte-order mark": "\ufeff", "CRLF": ""}[form] + FILES[name]
    path = written(tmp_path, text.replace("\n", "\r\n") if form == "CRLF" else text)
    (caption,) = read_captions(path, "train2014")
    assert (caption.image, caption.text, caption.lang) == ("train2014/b.jpg", "A cat.", "en_XX")


def test_ban_cap_is_known_by_its_header_and_says_its_language_itself(tmp_path):
    path = written(tmp_path, "caption_id,english_caption,bengali_caption\nb.jpg#0,A cat.,একটি বিড়াল।\n")
    assert read_captions(path, lang="hi_IN") == [Caption(0, "b", "b.jpg", "একটি বিড়াল।", "bn_IN", "A cat.")]


@pytest.mark.parametrize("name", FILES)
def test_the_language_asked_for_is_that_of_a_file_that_does_not_say(tmp_path, name):
    (caption,) = read_captions(written(tmp_path, FILES[name]), lang="hi")
    assert caption.lang == ("en_XX" if name == "plain, other order" else "hi_IN")


@pytest.mark.parametrize(
    "content",
    ["a cat\n", "name;text\nb.jpg;A cat.\n", "image;caption\nb.jpg;A cat.\n", '{"a": 1}', "[]", "[1, 2]"],
)
def test_a_file_in_no_known_format_is_an_error_that_says_which_are_known(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(BncapError, match="COCO .*Karpathy .*token .*Flickr30k .*BAN-Cap .*CSV .*JSON lines") as error:
        read_captions(path)
    assert str(path) in str(error.value) and f"its first line is {content.strip()[:4]!r}"[:-1] in str(error.value)


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff \n"])
def test_an_empty_file_is_said_to_be_empty(tmp_path, content):
    with pytest.raises(BncapError, match=r"captions\.dat is empty"):
        read_captions(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "offset", "line"),
    [
        ("image,caption\nb.jpg,A cat.\n".encode("utf-16-le"), 1, 1),
        (b"image,caption\nb.jpg,A \0cat.\n", 22, 2),
        (bytes(500), 0, 1),
    ],
)
def test_text_with_zero_bytes_is_taken_for_another_encoding(tmp_path, content, offset, line):
    with pytest.raises(BncapError, match=rf"no UTF-8 text: byte 0x00 at offset {offset} \(line {line}\); .*UTF-16"):
        read_captions(written(tmp_path, content))


@pytest.mark.parametrize(
    "content", ["image,caption\n", "image_name| comment_number| comment\n", '{"images": [], "annotations": []}']
)
def test_a_file_without_captions_is_an_error(tmp_path, content):
    with pytest.raises(BncapError, match=r"captions\.dat has no captions"):
        read_captions(written(tmp_path, content))


@pytest.mark.parametrize("name", FILES)
def test_text_in_another_encoding_is_named_with_offset_line_and_remedy(tmp_path, name):
    content = FILES[name].replace("A cat", "A café").encode("latin-1").replace(b"\\u00e9", b"\xe9")
    line, offset = content[: content.index(b"\xe9")].count(b"\n") + 1, content.index(b"\xe9")
    path = written(tmp_path, content)
    with pytest.raises(BncapError, match=rf"not UTF-8: byte 0xe9 at offset {offset} \(line {line}\); save it as UTF-8"):
        read_captions(path)


def test_sixteen_bit_text_and_other_binary_files_are_told_as_such(tmp_path):
    path = written(tmp_path, "image,caption\nb.jpg,A cat.\n".encode("utf-16"))
    with pytest.raises(BncapError, match="byte 0xff at offset 0 .* iconv -f UTF-16"):
        read_captions(path)
    with pytest.raises(BncapError, match="is not UTF-8"):
        read_captions(written(tmp_path, b"\x89PNG\r\n\x1a\n"))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(BncapError, match="none.csv is missing"):
        read_captions(tmp_path / "none.csv")
    with pytest.raises(BncapError, match=f"{tmp_path.name} cannot be read"):
        read_captions(tmp_path)


def test_an_unknown_language_is_an_error_with_a_suggestion(tmp_path):
    for name, content in FILES.items():
        if name != "plain, other order":
            with pytest.raises(BncapError, match=r"captions\.dat.*unknown language 'hi_IM'; did you mean hi_IN"):
                read_captions(written(tmp_path, content), lang="hi_IM")


def test_images_come_once_and_sorted():
    captions = [Caption(n, image, image, "text") for n, image in enumerate(["b", "a", "b"])]
    assert list_images(captions) == ["a", "b"]


def test_boxes_come_by_file_name_with_the_name_of_their_category(tmp_path):
    content = {
        "images": COCO["images"],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 3, "category_id": 18, "bbox": [1, 2.5, 30, 40], "segmentation": [[1]]}],
    }
    path = written(tmp_path, json.dumps(content))
    assert read_boxes(path) == {"a.jpg": [("dog", (1.0, 2.5, 30.0, 40.0))], "b.jpg": []}
    content["annotations"][0]["category_id"] = 5
    with pytest.raises(BncapError, match=r"annotations\[0\]: image 3 or category 5 is not listed"):
        read_boxes(written(tmp_path, json.dumps(content)))
    with pytest.raises(BncapError, match=r"captions\.dat is not readable JSON .*fetch it again"):
        read_boxes(written(tmp_path, '{"images": ['))
    with pytest.raises(BncapError, match=f"{tmp_path.name} cannot be read"):
        read_boxes(tmp_path)


def test_a_large_coco_file_takes_no_more_memory_than_its_captions_and_its_text(tmp_path):
    text = "A man and a woman stand beside a large brown dog in the street ."
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(2_000)]
    annotations = [
        {"id": n, "image_id": n % 2_000, "caption": f"{text} {n}", "tokens": text.split()} for n in range(10_000)
    ]
    path = written(tmp_path, json.dumps({"images": images, "annotations": annotations}))
    tracemalloc.start()
    count = len(read_captions(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the text once or twice, and half a kilobyte a caption; with the tokens it would be more than a kilobyte
    assert count == 10_000
    assert peak < 2 * path.stat().st_size + 500 * count
