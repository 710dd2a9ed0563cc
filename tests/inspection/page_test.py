"""The page and the picture: complete, self-contained, and safe to open."""

from __future__ import annotations

import base64
import html.parser
import struct

import pytest

from seqrecipes.data.objectives import Mlm, SpanDenoise
from seqrecipes.inspection.page import page
from seqrecipes.inspection.panes import show
from seqrecipes.inspection.plots import write_png
from seqrecipes.inspection.trace import KEPT, MASKED
from tests.inspection.findings_test import FakeExcerpt, look
from tests.inspection.harness import SPECIALS, Predict, Remove, piece, shown

VOID = {"meta", "input", "img", "br"}


class Reader(html.parser.HTMLParser):
    """The elements of a page, and the text in each pane."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.panes = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if ("class", "pane") in attributes:
            self.panes.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "p" in self.open and self.panes:
            self.panes[-1] += data


def read(*examples, objective=None, ids=False) -> Reader:
    findings = look(FakeExcerpt({"de": [19], "en": [19]}), objective or Mlm(), examples=0)
    findings.examples.extend(examples)
    reader = Reader(page(findings, ids=ids))
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def reader() -> Reader:
    odd = shown(Remove(((0, 1), (3, 5)), "sentinel"), "the river rises in spring")
    nasty = show(odd.trace, SPECIALS, lambda i: "<script>&\"'" if i == 5 else piece(i))
    arabic = show(odd.trace, SPECIALS, lambda i: "\u2581النهر" if i == 5 else piece(i))
    masked = shown(Predict({0: MASKED, 2: 9, 4: KEPT}), "the river rises in spring", language="ar")
    pairs = shown(Remove(((1, 3),), "sentinel"), "the river", "rises in", language="de-en")
    return read(nasty, arabic, masked, pairs, objective=SpanDenoise("drop"))


def test_the_text_is_there_letter_by_letter(reader):
    assert reader.panes == [
        "<sentinel_0><script>&\"' rises<sentinel_1></s>",
        "<sentinel_0> the<sentinel_1> in spring</s>",
        "<sentinel_0> النهر rises<sentinel_1></s>",
        "<sentinel_0> the<sentinel_1> in spring</s>",
        "<s><mask> river when in spring</s>",
        "<s> the river rises in spring</s>",
        " the<sentinel_0></s> in</s>",
        "<sentinel_0> river rises</s>",
    ]


def test_nothing_is_loaded_and_nothing_runs(reader):
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "link", "iframe", "object", "base"}
    for _, attributes in reader.elements:
        assert not any(name.startswith("on") or name == "href" for name in attributes)
        assert attributes.get("src", "data:").startswith("data:image/svg+xml;base64,") or (
            "src" not in attributes
        )
        assert "url(" not in attributes.get("style", "")


def test_direction_and_language_are_left_to_the_text(reader):
    paragraphs = [attributes for tag, attributes in reader.elements if tag == "p"]
    marked = [(p["dir"], p["lang"]) for p in paragraphs if "lang" in p]
    assert marked == [("auto", "en")] * 4 + [("auto", "ar")] * 2 + [
        *[("auto", "de"), ("auto", "en")] * 2
    ]
    names = [a["class"] for tag, a in reader.elements if tag == "bdi"]
    # Sentinels, </s> and what took the place of another token do not turn the text around them.
    assert {n.split()[0] for n in names} == {"sentinel", "special", "masked", "random", "kept"}


def test_sentinels_have_the_colour_of_their_spans(reader):
    classes = [a.get("class", "").split() for _, a in reader.elements]
    colours = {
        role: [c[1] for c in classes if c and c[0] == role] for role in ("sentinel", "removed")
    }
    # Legend first; then source and target of the first example.
    assert colours["sentinel"][1:5] == ["g0", "g1", "g0", "g1"]
    assert colours["removed"][1:3] == ["g0", "g1"]


def test_pictures_are_svg(reader):
    images = [a for tag, a in reader.elements if tag == "img"]
    assert len(images) >= 5
    for image in images:
        data = base64.b64decode(image["src"].partition(",")[2])
        assert data.startswith(b"<?xml") and b"</svg>" in data and image["alt"]


@pytest.mark.parametrize("ids", [True, False])
def test_ids_are_there_on_demand(ids):
    reader = read(shown(Remove(((0, 1),)), "the river"), ids=ids)
    (box,) = [a for tag, a in reader.elements if tag == "input"]
    assert ("checked" in box) == ids
    found = [a["data-id"] for _, a in reader.elements if "data-id" in a]
    assert found == ["0", "5", "2", "0", "4", "5", "2"]


def test_masked_tokens_tell_what_they_were():
    reader = read(shown(Predict({1: MASKED}), "the river rises"))
    assert [a["title"] for tag, a in reader.elements if tag == "i" and "title" in a] == [" river"]


def test_tables_are_whole():
    reader = read()
    cells = sum(tag == "td" for tag, _ in reader.elements)
    assert cells == 3 * 8 + 3 * 3 + 3 * 5 + 3 * 3


@pytest.mark.parametrize("objective", [Mlm(), SpanDenoise("mask")])
def test_a_picture_is_written(tmp_path, objective):
    findings = look(FakeExcerpt({"de": [19] * 5, "en": [9]}), objective)
    write_png(findings, tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000 and height > 500
