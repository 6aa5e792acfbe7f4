"""Attention over pictures: the grid of figures and the viewer, read back from its HTML."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bncap.decoders.decode import WordAttention
from bncap.errors import BncapError
from bncap.report import attention

VOID = {"br", "img", "input"}


class Page(HTMLParser):
    """All elements as (tag, attributes, open tags) and all texts; unbalanced tags are an error."""

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

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())

    def find(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


def make_shares(**named):
    """49 shares: what is named, such as p5=0.25, the rest spread evenly over the other patches."""
    given = {int(name[1:]): share for name, share in named.items()}
    values = np.full(49, (1 - sum(given.values())) / (49 - len(given)))
    values[list(given)] = list(given.values())
    return values


BOAT = (("নৌকা", make_shares(p23=0.5, p24=0.3)),)


def make_example(words=BOAT, caption="নৌকা", note="", reference=""):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    return attention.Example(picture.resize((112, 112)), caption, [WordAttention(*w) for w in words], note, reference)


def read_maps(page):
    sources = [image["src"] for image in page.find("img") if image.get("class") == "map"]
    return [
        ElementTree.fromstring(base64.b64decode(s.removeprefix("data:image/svg+xml;base64,")).decode()) for s in sources
    ]


def find_in(svg, tag):
    return svg.findall(f".//{{http://www.w3.org/2000/svg}}{tag}")


def test_a_words_patches_are_coloured_and_numbered_and_the_strongest_is_framed():
    (svg,) = read_maps(Page(attention.render_viewer([make_example()])))
    assert svg.get("viewBox") == "0 0 7 7"
    squares = {(r.get("x"), r.get("y")): (float(r.get("fill-opacity")), r.get("stroke")) for r in find_in(svg, "rect")}
    assert squares["2", "3"] == (0.85, "#000")  # patch 23 of rows of 7
    assert squares["3", "3"] == (pytest.approx(0.56, abs=0.01), None)
    assert [text.text for text in find_in(svg, "text")] == ["50", "30"]


def test_even_attention_colours_nothing():
    (svg,) = read_maps(Page(attention.render_viewer([make_example([("বল", np.full(49, 1 / 49))])])))
    assert find_in(svg, "rect") == []


def test_each_picture_is_a_form_of_its_own_with_its_buttons_in_labels_and_without_ids_or_scripts():
    words = [("একটি", make_shares(p0=0.2)), ("বল", make_shares(p1=0.2))]
    page = Page(attention.render_viewer([make_example(words), make_example(words[:1])]) * 2)
    assert len(page.find("form")) == 4
    buttons = [(attributes, above) for tag, attributes, above in page.elements if tag == "input"]
    assert len(buttons) == 2 * (3 + 2) and sum("checked" in a for a, _ in buttons) == 4
    assert all(a["type"] == "radio" and above[-1] == "label" and above.count("form") == 1 for a, above in buttons)
    assert not any("id" in attributes for _, attributes, _ in page.elements) and page.find("script") == []


def test_rules_of_the_style_sheet_stay_within_the_viewer_and_nothing_is_loaded_from_elsewhere():
    html = attention.render_viewer([make_example()])
    [style] = re.findall(r"<style>(.*?)</style>", html, re.S)
    rules = re.findall(r"([^{}]+)\{", style)
    assert len(rules) > 10
    assert all(part.strip().startswith(".bncap-attention") for rule in rules for part in rule.split(","))
    assert not re.search(r"https?:|src=\"(?!data:)|url\((?!data:)|@import", html)
    picture, _ = Page(html).find("img")
    read = Image.open(io.BytesIO(base64.b64decode(picture["src"].split(",")[1])))
    assert np.abs(np.asarray(read, dtype=float) - np.asarray(make_example().image, dtype=float)).mean() < 8


def test_html_in_captions_and_names_is_text():
    page = Page(attention.render_viewer([make_example([("<b>&", make_shares(p1=0.2))], "<b>&", "<i>.png", '"<u>')]))
    assert not {"b", "i", "u"} & {tag for tag, _, _ in page.elements}
    assert {"<b>&", "<i>.png", '"<u>'} <= set(page.texts)


def test_a_caption_without_words_says_so_and_no_picture_is_refused():
    page = Page(attention.render_viewer([make_example((), "")]))
    assert "(no words)" in page.texts and len(page.find("input")) == 1
    with pytest.raises(BncapError, match="not 0"):
        attention.render_viewer([])


def test_heat_is_0_at_an_even_share_and_1_at_the_strongest_patch_of_three_shares_or_more():
    assert attention.compute_heat([0.25] * 4).tolist() == [0, 0, 0, 0]
    assert attention.compute_heat([1, 0, 0, 0]).tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert attention.compute_heat([0.5, 0.25, 0.25, 0]).tolist() == pytest.approx([0.5, 0, 0, -0.5])  # diffuse


def test_no_picture_and_too_many_are_refused(tmp_path):
    for examples in ([], [make_example()] * (attention.MAX_PICTURES + 1)):
        with pytest.raises(BncapError, match="1 to 20"):
            attention.draw_examples(examples, tmp_path / "x.png")


def test_maps_are_drawn_beside_the_picture_with_the_boxes_in_each_panel(tmp_path):
    image = Image.new("RGB", (70, 70), "white")
    plain = attention.draw_maps(image, {"a": np.full(49, 1 / 49)}, tmp_path / "plain")
    boxed = attention.draw_maps(image, {"a": np.full(49, 1 / 49)}, tmp_path / "boxed", [(35, 0, 35, 35)])
    drawn = np.any(np.asarray(Image.open(plain)) != np.asarray(Image.open(boxed)), axis=2)
    width = drawn.shape[1] // 2
    for panel in (drawn[:, :width], drawn[:, width:]):
        rows, columns = panel.nonzero()
        assert rows.max() < 0.6 * panel.shape[0] and columns.min() > 0.4 * width  # the box is the upper right quarter
