import csv
import io
import json
import random

import pytest

from bncap.data.readers import Caption, read_boxes, read_captions
from bncap.errors import BncapError

COCO = {
    "info": {"description": "COCO 2014 Dataset", "url": "http://cocodataset.org", "version": "1.0", "year": 2014},
    "images": [
        {"license": 5, "file_name": "b.jpg", "coco_url": "http://c/b.jpg", "height": 480, "width": 640, "id": 7},
        {"license": 3, "file_name": "a.jpg", "coco_url": "http://c/a.jpg", "height": 360, "width": 640, "id": 3},
    ],
    "licenses": [{"url": "http://l", "id": 1, "name": "Attribution"}],
    "annotations": [
        {"image_id": 7, "id": 21, "caption": "A cat."},
        {"image_id": 3, "id": 4, "caption": " Two\n dogs  run. "},
        {"image_id": 7, "id": 5, "caption": "A cat sleeps."},
    ],
}
BARS = "image_name| comment_number| comment\n"
KAGGLE = """image,caption
1000268201_693b08cb0e.jpg,A child in a pink dress is climbing up a set of stairs in an entry way .
1012212859_01547e3f17.jpg,"A dog shakes its head near the shore , a red ball next to it ."
1012212859_01547e3f17.jpg,Dog with orange ball at feet , stands on shore , shaking off water
1303548017_47de590273.jpg,"A sign says ""stop "" , in red ."
1303548017_47de590273.jpg,A sign says "stop" .
1303548017_47de590273.jpg,"Stop" says a sign , in red .
1303548017_47de590273.jpg,"Stop says a sign .
2258277193_586949ec62.jpg.1,people waiting for the subway
"""
KAGGLE_TEXTS = [
    "A child in a pink dress is climbing up a set of stairs in an entry way .",
    "A dog shakes its head near the shore , a red ball next to it .",
    "Dog with orange ball at feet , stands on shore , shaking off water",
    'A sign says "stop " , in red .',
    'A sign says "stop" .',
    '"Stop" says a sign , in red .',
    '"Stop says a sign .',
    "people waiting for the subway",
]
BAN_CAP = """caption_id,english_caption,bengali_caption
1000268201_693b08cb0e.jpg#0,A girl going into a wooden building .,একটি মেয়ে কাঠের ঘরে ঢুকছে।
1000268201_693b08cb0e.jpg#1,"A girl , in pink .","একটি মেয়ে, গোলাপী পোশাকে।"
1001773457_577c3a7d70.jpg#0,Two dogs,দুটি কুকুর
"""


ONE_COCO = {
    "images": [{"id": 7, "file_name": "b.jpg"}],
    "annotations": [{"id": 21, "image_id": 7, "caption": "A cat."}],
}
ONE_KARPATHY = {"images": [{"sentences": [{"raw": "A cat.", "sentid": 0}], "split": "test", "filename": "b.jpg"}]}
FILES = {
    "COCO in one line": json.dumps(ONE_COCO),
    "COCO with its annotations first": json.dumps(dict(reversed(ONE_COCO.items()))),
    "COCO over many lines": json.dumps({"info": {}, **ONE_COCO}, indent=2),
    "Karpathy": json.dumps(ONE_KARPATHY),
    "token": "b.jpg#0\tA cat.\n",
    "Flickr30k": "image_name| comment_number| comment\nb.jpg| 0| A cat.\n",
    "Flickr8k of Kaggle": "image,caption\nb.jpg,A cat.\n",
    "plain, other order": 'lang,"caption",image\nen,A cat.,b.jpg\n',
    "plain lines": '{"image": "b.jpg", "caption": "A cat."}\n',
    "plain lines with the words of another format": r'{"image": "b.jpg", "caption": "A cat.", "x": "\"images\": 1"}',
}


def written(tmp_path, content, name="captions.dat"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def coco_file(tmp_path, **changes):
    return written(tmp_path, json.dumps(COCO | changes), "captions.json")


def annotation(**changes):
    return [COCO["annotations"][0], {"id": 22, "image_id": 3, "caption": "A dog."} | changes]


def karpathy(**changes):
    def sentences(*numbers):
        return [{"tokens": ["a", "dog"], "raw": f"A dog {n}. ", "imgid": 0, "sentid": n} for n in numbers]

    first = {
        "filepath": "val2014", "sentids": [770, 771], "filename": "COCO_val2014_000000391895.jpg", "imgid": 0,
        "split": "test", "sentences": sentences(770, 771), "cocoid": 391895,
    }  # fmt: skip
    second = {
        "sentids": [3], "filename": "1000092795.jpg", "imgid": 1, "split": "train", "sentences": sentences(3),
    }  # fmt: skip
    return {"images": [first, second | changes], "dataset": "coco"}


# COCO -----------------------------------------------------------------------------------------------------------------


def test_coco_captions_come_in_the_order_of_their_ids_with_single_blanks(tmp_path):
    assert read_captions(coco_file(tmp_path), "train2014") == [
        Caption(4, "3", "train2014/a.jpg", "Two dogs run."),
        Caption(5, "7", "train2014/b.jpg", "A cat sleeps."),
        Caption(21, "7", "train2014/b.jpg", "A cat."),
    ]


# Karpathy -------------------------------------------------------------------------------------------------------------


def test_karpathy_captions_have_their_split_and_the_ids_of_coco_and_flickr(tmp_path):
    assert read_captions(written(tmp_path, json.dumps(karpathy())), "pictures") == [
        Caption(770, "391895", "pictures/val2014/COCO_val2014_000000391895.jpg", "A dog 770.", split="test"),
        Caption(771, "391895", "pictures/val2014/COCO_val2014_000000391895.jpg", "A dog 771.", split="test"),
        Caption(3, "1000092795", "pictures/1000092795.jpg", "A dog 3.", split="train"),
    ]


# Flickr's token files and CSV with bars -------------------------------------------------------------------------------


def test_token_files_keep_their_order_and_whole_names(tmp_path):
    content = (
        "1000092795.jpg#0\tTwo young guys with shaggy hair , outside .\r\n"
        "1000092795.jpg#1\tTwo\tmen .\r\n\r\n"
        "2258277193_586949ec62.jpg.1#0\tpeople waiting for the subway\r\n"
    )
    assert read_captions(written(tmp_path, content), "flickr30k_images") == [
        Caption(0, "1000092795", "flickr30k_images/1000092795.jpg", "Two young guys with shaggy hair , outside ."),
        Caption(1, "1000092795", "flickr30k_images/1000092795.jpg", "Two men ."),
        Caption(
            2,
            "2258277193_586949ec62.jpg",
            "flickr30k_images/2258277193_586949ec62.jpg.1",
            "people waiting for the subway",
        ),
    ]


def test_flickr_captions_keep_their_order_bars_and_stem_ids(tmp_path):
    content = BARS + "10.jpg| 0| A dog , runs .\n10.jpg| 1| A | bar\n009.jpg| 0| Cats\n\n"
    captions = read_captions(written(tmp_path, content), "flickr30k/flickr30k_images")
    assert [(c.caption_id, c.image_id, c.text) for c in captions] == [
        (0, "10", "A dog , runs ."),
        (1, "10", "A | bar"),
        (2, "009", "Cats"),
    ]
    assert captions[2].image == "flickr30k/flickr30k_images/009.jpg"


def test_the_row_that_flickr30k_publishes_without_its_bar_is_mended_and_reported(tmp_path, capsys):
    path = written(tmp_path, BARS + "2199200615.jpg| 4   A dog runs across the grass .\n")
    (caption,) = read_captions(path, "images")
    assert (caption.image_id, caption.text) == ("2199200615", "A dog runs across the grass .")
    assert "line 2: mended" in capsys.readouterr().err


# CSV and JSON lines with a column a value -----------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_kaggles_flickr8k_rows_keep_their_commas_and_quotes_quoted_or_not(tmp_path, end):
    captions = read_captions(written(tmp_path, KAGGLE.replace("\n", end)), "Images")
    assert [caption.text for caption in captions] == KAGGLE_TEXTS
    assert [caption.caption_id for caption in captions] == list(range(8))
    assert captions[1].image == captions[2].image == "Images/1012212859_01547e3f17.jpg"
    assert captions[1].image_id == captions[2].image_id == "1012212859_01547e3f17"


def test_commas_of_a_caption_that_stands_before_its_image_are_its_own(tmp_path):
    (caption,) = read_captions(written(tmp_path, "caption,image\nA dog , two cats , a cow,b.jpg\n"))
    assert (caption.text, caption.image) == ("A dog , two cats , a cow", "b.jpg")


def test_ban_cap_has_both_languages_and_the_captions_of_a_picture_together(tmp_path):
    captions = read_captions(written(tmp_path, "\ufeff" + BAN_CAP), "Images")
    picture = ("1000268201_693b08cb0e", "Images/1000268201_693b08cb0e.jpg")
    assert captions[:2] == [
        Caption(0, *picture, "একটি মেয়ে কাঠের ঘরে ঢুকছে।", "bn_IN", "A girl going into a wooden building ."),
        Caption(1, *picture, "একটি মেয়ে, গোলাপী পোশাকে।", "bn_IN", "A girl , in pink ."),
    ]
    assert captions[2].image_id == "1001773457_577c3a7d70"


def test_plain_csv_has_its_columns_in_any_order_and_cells_of_several_lines(tmp_path, capsys):
    content = (
        'Synthetic, lang ,Caption,author,English,IMAGE\r\n'
        ',hi_IN,"दो ""कुत्ते"",\r\nदौड़ते हैं।",me,"Two dogs, running.",a/1.png\r\n'
        "fake/1.png,bn,দুটি কুকুর,me,,./a//1.png\r\n\r\n"
        ",,Two dogs,me,,b\\2.png\r\n"
    )  # fmt: skip
    assert read_captions(written(tmp_path, content), "own", "en") == [
        Caption(0, "a/1", "own/a/1.png", 'दो "कुत्ते", दौड़ते हैं।', "hi_IN", "Two dogs, running."),
        Caption(1, "a/1", "own/a/1.png", "দুটি কুকুর", "bn_IN", synthetic="own/fake/1.png"),
        Caption(2, "b/2", "own/b/2.png", "Two dogs"),
    ]
    assert capsys.readouterr().err == "captions.dat: not used: author\n"


def test_plain_lines_have_the_same_keys(tmp_path, capsys):
    lines = [
        {"caption": "दो\nकुत्ते", "image": "a/1.png", "english": "Two dogs", "lang": "hi", "likes": 3},
        {"image": "a/2.png", "caption": "Cats", "lang": None, "synthetic": "fake/2.png"},
    ]
    content = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    assert read_captions(written(tmp_path, content), "own") == [
        Caption(0, "a/1", "own/a/1.png", "दो कुत्ते", "hi_IN", "Two dogs"),
        Caption(1, "a/2", "own/a/2.png", "Cats", synthetic="own/fake/2.png"),
    ]
    assert capsys.readouterr().err == "captions.dat: not used: likes\n"


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("columns", [("image", "caption"), ("caption", "image"), ("lang", "caption", "image")])
def test_whatever_pythons_csv_module_writes_is_read_back(tmp_path, columns, quoting):
    rng = random.Random(0)
    texts = ["x" + "".join(rng.choices('ab," \n\u09a4|#', k=12)) for _ in range(300)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, quoting=quoting)
    writer.writeheader()
    for n, text in enumerate(texts):
        writer.writerow({name: {"image": f"{n}.png", "caption": text, "lang": "bn"}[name] for name in columns})
    captions = read_captions(written(tmp_path, stream.getvalue()), lang="bn_IN")
    assert [(c.image, c.text) for c in captions] == [(f"{n}.png", " ".join(t.split())) for n, t in enumerate(texts)]


def test_pictures_that_share_their_name_but_for_the_suffix_keep_it_in_their_id(tmp_path):
    names = ["1.png", "1.jpg", "2.png", "1.png.gif", "a/1.png", "1.png"]
    captions = read_captions(written(tmp_path, "image,caption\n" + "".join(f"{name},A dog\n" for name in names)))
    assert [caption.image_id for caption in captions] == ["1.png", "1.jpg", "2", "1.png.gif", "a/1", "1.png"]


@pytest.mark.parametrize("header", ["image,caption,caption", "image,caption,lang,LANG"])
def test_a_header_that_names_a_column_twice_is_an_error(tmp_path, header):
    with pytest.raises(BncapError, match=r"captions\.dat: line 1 names a column twice"):
        read_captions(written(tmp_path, f"{header}\na.png,A dog\n"))


def test_files_of_old_macs_end_their_lines_with_a_carriage_return(tmp_path):
    captions = read_captions(written(tmp_path, "image,caption\ra.png,A dog\rb.png,A cat\r"))
    assert [caption.image for caption in captions] == ["a.png", "b.png"]


# Broken records -------------------------------------------------------------------------------------------------------

BROKEN_LINES = {  # lines before the broken one -> its place, and broken ones with what is wrong
    "1.jpg#0\tA cat .\n1.jpg#1\tCats .\n": (3, [
        ("2.jpg#0 A dog .", "is not name.jpg#0<TAB>caption"), ("#0\tA dog .", "'#0' is not name.jpg#0"),
        ("2.jpg#0\t ", "the caption is empty"), ("1.jpg#0\tA dog .", "1.jpg#0 comes a second time"),
    ]),
    BARS + "9.jpg| 0| Cats\n": (3, [
        *((row, "mend or delete it") for row in ("10.jpg A dog", "10.jpg| x| A dog", "10.jpg| ²| A", "10.jpg| 0|  ")),
        *((row, "mend or delete it") for row in ("| 0| A dog", "10.jpg| 4", "9.jpg| A dog")),
        ("9.jpg| 0| Dogs", "comes a second time"),
    ]),
    BAN_CAP: (5, [
        ("1.jpg,A dog,কুকুর", "'1.jpg' is not name.jpg#0"), ("1.jpg#0,,কুকুর", "the english_caption is empty"),
        ("1001773457_577c3a7d70.jpg#0,A dog,কুকুর", "comes a second time"),
        ("1.jpg#0,A dog, a cat,কুকুর", "has 4 of the header's 3 cells; put cells that hold commas in double quotes"),
        ('1.jpg#0,"A dog,কুকুর', "a double quote is out of place or never closed"),
    ]),
    'image,caption,lang\na.png,"A\ncat",en\n': (4, [
        ("b.png,A dog,xx_XX", "unknown language 'xx_XX'"), ("b.png, ,en", "the caption is empty"),
        (",A dog,en", "the picture has no name"), ("/data/b.png,A dog,en", "'/data/b.png' is no path below the folder"),
        ("C:\\data\\b.png,A dog,en", "is no path below the folder"),
        ("a/../../b.png,A dog,en", "is no path below the folder"),
        ("b.png,A dog", "has 2 of the header's 3 cells"), ("b.png,A dog, a cat,en", "has 4 of the header's 3 cells"),
        ('b.png,"A dog,en\nc.png,A "cat",en', "a double quote is out of place or never closed"),
        ('b.png,"A dog,en\nc.png,A cat of 5",en', "a double quote is out of place or never closed"),
    ]),
    '{"image": "a.png", "caption": "A cat"}\n': (2, [
        ('{"image": "b.png", "caption": "A dog"', "is not readable JSON"), ('["b.png", "A dog"]', "is no JSON object"),
        ('{"image": "b.png"}', "'caption' is missing"), ('{"image": 3, "caption": "A"}', "'image' is 3, expected text"),
        ('{"image": "b.png", "caption": "\\ud83d"}', "expected text"),
        ('{"image": "b.png", "caption": "A dog", "lang": "xx"}', "unknown language 'xx'"),
        ('{"image": "b.png", "caption": "A dog", "synthetic": "../b.png"}', "is no path below the folder"),
        ('{"image": "b\\u0000.png", "caption": "A dog"}', "is no path below the folder"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("start", "line", "row", "fault"),
    [(start, line, *broken) for start, (line, rows) in BROKEN_LINES.items() for broken in rows],
)
def test_a_broken_line_is_named_with_its_file_and_fault(tmp_path, start, line, row, fault):
    with pytest.raises(BncapError, match=f"captions.dat: line {line}") as error:
        read_captions(written(tmp_path, f"{start}{row}\n"))
    assert fault in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (COCO | {"annotations": annotation(id=21)}, r"annotations\[1\]: .*21 comes a second time"),
        (COCO | {"annotations": annotation(image_id=99)}, r"caption 22 is of image 99"),
        (COCO | {"annotations": annotation(caption=" \n")}, r"annotations\[1\]: the caption is empty"),
        (COCO | {"annotations": annotation(caption="A \ud83d")}, r"\[1\]: 'caption' holds half of a surrogate"),
        (COCO | {"annotations": annotation(id="22")}, r"annotations\[1\]: 'id' is '22', expected int"),
        (COCO | {"annotations": None}, r"no list 'annotations'"),
        (COCO | {"images": [{"id": 7, "file_name": "../b.jpg"}]}, r"images\[0\]: '\.\./b\.jpg' is no path below"),
        (COCO | {"images": COCO["images"] * 2}, r"images\[2\]: image id 7 comes a second time"),
        (karpathy(filename="val2014/COCO_val2014_000000391895.jpg"), r"images\[1\]: val2014/.*comes a second time"),
        (karpathy(sentences={}), r"images\[1\]: 'sentences' is \{\}, expected list"),
        (karpathy(sentences=["A dog"]), r"images\[1\]\.sentences\[0\]: 'sentid' is missing"),
        (karpathy(sentences=[{"raw": " ", "sentid": 4}]), r"images\[1\]\.sentences\[0\]: the caption is empty"),
        (karpathy(sentences=[{"raw": "A", "sentid": 771}]), r"sentences\[0\]: caption 771 comes a second time"),
    ],
)
def test_a_broken_record_is_named_with_its_file(tmp_path, content, message):
    path = written(tmp_path, json.dumps(content))
    with pytest.raises(BncapError, match=message) as error:
        read_captions(path, "train2014")
    assert str(path) in str(error.value)


# Any format -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["plain", "byte-order mark", "CRLF"])
def test_a_format_is_known_by_its_content(tmp_path, name, form):
    text = {"plain": "", "byte-order mark": "\ufeff", "CRLF": ""}[form] + FILES[name]
    path = written(tmp_path, text.replace("\n", "\r\n") if form == "CRLF" else text)
    (caption,) = read_captions(path, "train2014")
    assert (caption.image, caption.text, caption.lang) == ("train2014/b.jpg", "A cat.", "en_XX")


@pytest.mark.parametrize("name", FILES)
def test_the_language_asked_for_is_that_of_a_file_that_does_not_say(tmp_path, name):
    (caption,) = read_captions(written(tmp_path, FILES[name]), lang="hi")
    assert caption.lang == ("en_XX" if name == "plain, other order" else "hi_IN")


@pytest.mark.parametrize(
    "content", ["a cat\n", "image,text\nb.jpg,A cat.\n", "image;caption\nb.jpg;A cat.\n", '{"a": 1}', "[]", "[1, 2]"]
)
def test_a_file_in_no_known_format_is_an_error_that_lists_those_that_are(tmp_path, content):
    path = written(tmp_path, content)
    with pytest.raises(BncapError) as error:
        read_captions(path)
    known = ("COCO", "Karpathy", "token", "Flickr30k", "BAN-Cap", "CSV", "JSON lines")
    assert all(part in str(error.value) for part in (str(path), content.splitlines()[0], *known))


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff \n"])
def test_an_empty_file_is_an_error(tmp_path, content):
    with pytest.raises(BncapError, match=r"captions\.dat is empty"):
        read_captions(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "offset", "line"),
    [
        ("image,caption\nb.jpg,A cat.\n".encode("utf-16-le"), 1, 1),
        (b"image,caption\nb.jpg,A \0cat.\n", 22, 2),
        (bytes(500), 0, 1),
        ("image,caption\nb.jpg,A cat.\n".encode("utf-16"), 0, 1),
    ],
)
def test_text_with_zero_bytes_is_taken_for_another_encoding(tmp_path, content, offset, line):
    with pytest.raises(BncapError, match=rf"no UTF-8 text: byte 0x.. at offset {offset} \(line {line}\); .*UTF-16"):
        read_captions(written(tmp_path, content))


@pytest.mark.parametrize(
    "content", ["image,caption\n", "image_name| comment_number| comment\n", '{"images": [], "annotations": []}']
)
def test_a_file_without_captions_is_an_error(tmp_path, content):
    with pytest.raises(BncapError, match=r"captions\.dat has no captions"):
        read_captions(written(tmp_path, content))


@pytest.mark.parametrize("name", FILES)
def test_text_in_another_encoding_is_an_error_with_offset_line_and_remedy(tmp_path, name):
    content = FILES[name].replace("A cat", "A café").encode("latin-1").replace(b"\\u00e9", b"\xe9")
    line, offset = content[: content.index(b"\xe9")].count(b"\n") + 1, content.index(b"\xe9")
    path = written(tmp_path, content)
    with pytest.raises(
        BncapError, match=rf"no UTF-8 text: byte 0xe9 at offset {offset} \(line {line}\); save it as UTF-8"
    ):
        read_captions(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(BncapError, match="none.csv is missing"):
        read_captions(tmp_path / "none.csv")
    with pytest.raises(BncapError, match=f"{tmp_path.name} cannot be read"):
        read_captions(tmp_path)


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
