"""The view of words and their patches, read back from its HTML: what is drawn and said, and that it needs no more."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from bncap.decoders.decode import WordAttention
from bncap.errors import BncapError
from bncap.pipeline.artifacts import run_step
from bncap.report import attention_view
from bncap.report.plot_attention import Example

VOID = {"br", "img", "input"}


class Page(HTMLParser):
    """All elements as (tag, attributes, depth), all text by the path of its tags; unbalanced tags are an error."""

    def __init__(self, html):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def of(self, tag):
        return [attributes for found, attributes, _ in self.elements if found == tag]

    def said(self, tag):
        return [data for found, data in self.texts if found == tag]


def shares(**of_patches):
    """49 shares: what is named, such as p5=0.25, the rest spread evenly over the other patches."""
    named = {int(name[1:]): share for name, share in of_patches.items()}
    values = np.full(49, (1 - sum(named.values())) / (49 - len(named)))
    values[list(named)] = list(named.values())
    return values


BOAT = (("নৌকা", shares(p23=0.5, p24=0.3)),)
LONG = "একটি বড় লাল ল্যাম্প আছে তার বাঁ দিকে একটি কালো ছোট টুপি"


def example(words=BOAT, caption="নৌকা", note="", reference=""):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    return Example(picture.resize((112, 112)), caption, [WordAttention(*w) for w in words], note, reference)


def drawings(page):
    """The drawing that each word lays over the picture, read back from its address."""
    addresses = [image["src"] for image in page.of("img") if image.get("class") == "map"]
    return [Page(base64.b64decode(a.removeprefix("data:image/svg+xml;base64,")).decode()) for a in addresses]


def cells(drawing):
    """(column, row) of each coloured patch -> its opacity, without the frame."""
    drawn = [path for path in drawing.of("path") if "opacity" in path]
    return {tuple(int(n) for n in re.findall(r"\d+", p["d"])[:2]): float(p["opacity"]) for p in drawn}


def test_a_word_has_its_patches_coloured_numbered_and_said():
    page = Page(attention_view.view([example()]))
    (drawing,) = drawings(page)
    assert drawing.of("svg")[0]["viewbox"] == "0 0 700 700"
    assert cells(drawing) == {(2, 3): 0.85, (3, 3): pytest.approx(0.56, abs=0.01)}  # patches 23 and 24 of rows of 7
    assert drawing.said("text") == ["50", "30"]
    assert [(text["x"], text["y"]) for text in drawing.of("text")] == [("250", "362"), ("350", "362")]
    assert [path["d"][:4] for path in drawing.of("path") if path.get("fill") == "none"] == ["M2 3"]
    told = (
        "50% of its attention is on one patch, row 4, column 3; 80% on the 2 patches that have more than an even share"
    )
    assert told in " ".join(page.said("span"))


def test_attention_that_is_even_colours_nothing():
    page = Page(attention_view.view([example([("বল", np.full(49, 1 / 49))])]))
    (drawing,) = drawings(page)
    assert cells(drawing) == {} and drawing.said("text") == []
    assert "0% on the 0 patches" in " ".join(page.said("span"))


def test_each_picture_is_a_form_of_its_own_whose_buttons_are_in_their_labels_and_without_ids():
    words = [("একটি", shares(p0=0.2)), ("বল", shares(p1=0.2))]
    page = Page(attention_view.view([example(words), example(words[:1])]) * 2)
    assert len(page.of("form")) == 4 and all(form["method"] == "dialog" for form in page.of("form"))
    buttons = [(attributes, above) for tag, attributes, above in page.elements if tag == "input"]
    assert len(buttons) == 2 * (3 + 2)
    assert all(a["type"] == "radio" and above[-1] == "label" and above.count("form") == 1 for a, above in buttons)
    assert sum("checked" in a for a, _ in buttons) == 4  # the picture alone, once in each form
    assert not any("id" in attributes or "for" in attributes for _, attributes, _ in page.elements)
    assert all(attributes["data-lm-suppress-shortcuts"] for attributes, _ in buttons)  # on the element with the focus
    assert page.of("script") == []


def test_every_rule_of_the_style_sheet_stays_within_the_view():
    rules = re.findall(r"([^{}]+)\{", attention_view.STYLE)
    assert len(rules) > 10
    assert all(part.strip().startswith(".bncap-attention") for rule in rules for part in rule.split(","))


def test_nothing_is_loaded_from_elsewhere_and_pictures_are_what_was_given():
    html = attention_view.view([example()])
    assert not re.search(r"https?:|src=\"(?!data:)|url\((?!data:)|@import", html)
    picture, _ = Page(html).of("img")
    again = Image.open(io.BytesIO(base64.b64decode(picture["src"].split(",")[1])))
    assert np.abs(np.asarray(again, dtype=float) - np.asarray(example().image, dtype=float)).mean() < 8


def embedded_fonts(html):
    from fontTools.ttLib import TTFont

    found = re.findall(r"font-family: (bncap-\w+); src: url\(data:font/woff;base64,([^)]+)\)", html)
    return {name: TTFont(io.BytesIO(base64.b64decode(data))) for name, data in found}


def test_the_font_has_every_letter_the_parts_of_vowel_signs_and_the_shaping_of_conjuncts():
    html = attention_view.view([example(reference="যাচ্ছে ল্যাম্প বাঁ")])
    (name, font), *others = embedded_fonts(html).items()
    assert not others and f"--bncap-letters:{name}," in html
    # a browser sets the sign au of the boat as e and the length mark
    assert {ord(c) for c in "নৌকাযাচ্ছেল্যাম্পবাঁ"} | {0x9C7, 0x9D7} <= set(font.getBestCmap())
    assert {"akhn", "blwf", "pstf"} & {r.FeatureTag for r in font["GSUB"].table.FeatureList.FeatureRecord}


def test_other_scripts_bring_their_own_font_and_latin_needs_none():
    assert len(embedded_fonts(attention_view.view([example([("नाव", shares(p1=0.2))], "नाव")], "hi"))) == 1
    assert embedded_fonts(attention_view.view([example([("boat", shares(p1=0.2))], "a boat")], "en")) == {}


def test_eight_photographs_with_twelve_words_stay_under_400_kb_and_the_bytes_are_the_same_each_time():
    rng = np.random.default_rng(1)
    photographs = [Image.fromarray(image).resize((224, 224)) for image in load_sample_images().images]
    words = [WordAttention(word, rng.dirichlet(np.full(49, 0.3))) for word in LONG.split()]
    eight = [Example(photographs[i % 2], LONG, words, "rank 1 of 9", "একটি টুপি") for i in range(8)]
    html = attention_view.view(eight)
    assert len(html.encode()) < 400_000
    assert html == attention_view.view(eight)


def test_marks_of_html_in_captions_and_names_are_text():
    page = Page(attention_view.view([example([("<b>&", shares(p1=0.2))], "<b>&", "<i>.png", '"<u>')]))
    assert not {"b", "i", "u"} & {tag for tag, _, _ in page.elements}
    assert {"<b>&", "<i>.png", '"<u>'} <= {text for _, text in page.texts}


def test_a_caption_without_words_says_so_and_a_view_of_nothing_is_refused():
    page = Page(attention_view.view([example((), "")]))
    assert "(no words)" in page.said("span") and len(page.of("input")) == 1
    with pytest.raises(BncapError, match="not 0"):
        attention_view.view([])


def test_saved_samples_are_shown_in_their_language_with_rank_and_reference(artifacts_dir):
    from test_plots import BENGALI, write_samples

    folder = run_step(
        artifacts_dir / "smoke" / "04_training" / "samples-s42", settings={}, build=write_samples, quiet=True
    )
    page = Page(attention_view.from_samples(folder))
    assert len([image for image in page.of("img") if image["src"].startswith("data:image/jpeg")]) == 4
    assert page.said("p").count("a reference:") == 4 and page.said("span").count(BENGALI) == 4
    assert "out of domain, rank 9 of 9, METEOR 41.5" in page.said("p")
    assert {attributes["lang"] for attributes in page.of("div") if "lang" in attributes} == {"bn"}
