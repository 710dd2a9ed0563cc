"""What is said of a task: numbers, tables, notes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seqrecipes.data.objectives import Mlm, PairMlm, SpanDenoise
from seqrecipes.data.order import language_shares
from seqrecipes.inspection.excerpt import TextCounts
from seqrecipes.inspection.findings import Settings, collect
from seqrecipes.inspection.plots import panels
from seqrecipes.inspection.tables import Table, span_histogram, span_rows, tables
from seqrecipes.inspection.terminal import Terminal
from seqrecipes.inspection.trace import Place
from tests.inspection.harness import SPECIALS, piece


@dataclasses.dataclass
class FakeExcerpt:
    """Records of given sizes by language: so many ordinary tokens, one [DOC] in the middle."""

    sizes: dict[str, list[int]]
    pairs: bool = False
    join_pairs: bool = False
    scope = "some text"
    specials = SPECIALS

    def __post_init__(self):
        self.languages = tuple(self.sizes)
        self.texts = {
            name: TextCounts(
                documents=2 * len(sizes),
                characters=3 * sum(sizes),
                tokens=sum(sizes),
                unknown_tokens=len(sizes),
                all_records=len(sizes),
            )
            for name, sizes in self.sizes.items()
        }

    def max_specials(self, seen):
        return seen

    def records(self, language, count):
        for block, size in enumerate(self.sizes[language][:count]):
            tokens = np.full(size + 1, 10, np.int32)
            tokens[size // 2] = SPECIALS.doc
            place = Place(language, 0, block, block)
            yield place, (tokens[:3], tokens[3:]) if self.pairs else (tokens,)


def look(excerpt, objective, *, payload=20, records=100, examples=2, languages=None):
    settings = Settings(payload, records, examples)
    languages = languages or excerpt.languages
    return collect("a.task", {"fact": "x"}, objective, excerpt, languages, piece, settings)


def rows(table: Table) -> dict[str, list[str]]:
    return {name: cells for name, *cells in table.rows}


def test_tables_by_hand():
    excerpt = FakeExcerpt({"de": [19, 19, 9], "en": [19]})
    findings = look(excerpt, Mlm(rate=0.5))
    text, lengths, noise, fates = tables(findings)
    shares = language_shares([3, 1], 0.3)
    assert rows(text) == {
        "all": ["8", "3.00", "6.061%", "0", "0", "0", ""],
        "de": ["6", "3.00", "6.383%", "0", "0", "0", f"{shares[0]:.2%}"],
        "en": ["2", "3.00", "5.263%", "0", "0", "0", f"{shares[1]:.2%}"],
    }
    # Records have 20, 20, 10 and 20 tokens, wrapped in two more.
    assert lengths.header[1] == "encoder_input_tokens\nof 22"
    assert lengths.header[2] == "masked_positions\nmasked_targets\nof 11"
    assert rows(lengths)["de"][0] == f"{(22 + 22 + 12) / 3:.1f}    22  {1 - 56 / 66:>6.1%}"
    assert rows(lengths)["all"][0] == f"{78 / 4:.1f}    22  {1 - 78 / 88:>6.1%}"
    targets = [len(t) for t in (findings.total.lengths["masked_targets"],)]
    assert targets == [4]
    corrupted = sum(findings.counts["de"].lengths["masked_targets"])
    assert rows(noise)["de"] == ["3", f"{50 / 3:.1f}", "1.00", f"{corrupted / 47:.2%}"]
    assert sum(int(row[1]) for row in fates.rows) == findings.total.corrupted


def test_one_language_has_no_total():
    findings = look(FakeExcerpt({"de": [19]}), Mlm())
    assert all(list(rows(table)) == ["de"] for table in tables(findings)[:3])


def test_some_of_the_languages():
    excerpt = FakeExcerpt({"de": [19], "en": [19] * 3, "fr": [19]})
    findings = look(excerpt, Mlm(), languages=["en"], records=2)
    assert list(findings.counts) == list(findings.texts) == ["en"]
    assert findings.total.records == 2 and not findings.notes
    assert list(findings.shares) == ["de", "en", "fr"]
    excerpt.texts["fr"].all_records = None
    assert look(excerpt, Mlm()).shares == {}


def test_examples_come_from_languages_far_apart():
    excerpt = FakeExcerpt({name: [19, 19, 19] for name in "abcdef"})
    for count, expected in [(3, "ace"), (1, "a"), (0, ""), (8, "aabbcdef")]:
        findings = look(excerpt, Mlm(), examples=count)
        assert "".join(e.trace.place.language for e in findings.examples) == expected
    assert [e.trace.place.block for e in findings.examples][:4] == [0, 1, 0, 1]
    few = look(excerpt, Mlm(), examples=8, records=6)
    assert len(few.examples) == few.total.records == 8


def test_too_few_records_are_said():
    excerpt = FakeExcerpt({"de": [19] * 2, "en": [19] * 50})
    (note,) = look(excerpt, Mlm(), records=60).notes
    assert note == "60 records were asked for and 32 are there; too few in de."
    (note,) = look(excerpt, Mlm(), records=200).notes
    assert note.endswith("52 are there; too few in every language.")


def test_much_padding_comes_with_what_helps():
    pairs = FakeExcerpt({"de-en": [9] * 4}, pairs=True)
    (note,) = look(pairs, PairMlm("translations"), payload=60, records=4).notes
    assert note.startswith("Padding is 92% of first_input_tokens (the longest has 5 of 62), ")
    assert "join_pairs=True in tasks/pretrain.py" in note and "shorter --sequence_length" in note
    pairs.join_pairs = True
    (note,) = look(pairs, PairMlm("translations"), payload=60, records=4).notes
    assert "join_pairs" not in note and "shorter --sequence_length" in note
    assert not look(FakeExcerpt({"de": [19] * 4}), Mlm(rate=0.9), records=4).notes


def test_skipped_records_are_said():
    excerpt = FakeExcerpt({"de": [19]})
    excerpt.texts["de"].bad_records, excerpt.texts["de"].problems = 1200, ["a.txt:3: odd"]
    (note,) = look(excerpt, Mlm(), records=1).notes
    assert note == "de: 1,200 bad records were skipped, such as a.txt:3: odd"


def test_span_histogram_counts_long_ones_together():
    findings = look(FakeExcerpt({"de": [19]}), SpanDenoise("drop"))
    findings.total.spans.clear()
    findings.total.spans.update({1: 6, 3: 1, 12: 1, 40: 2})
    found = span_rows(findings)
    assert [name for name, _, _ in found] == [*map(str, range(1, 12)), "12+"]
    assert {n: share for n, share, _ in found if share} == {"1": 0.6, "3": 0.1, "12+": 0.3}
    assert sum(expected for _, _, expected in found) == pytest.approx(1)
    bars = span_histogram(findings).splitlines()
    assert bars[0] == "Lengths of removed spans; | marks Poisson(3) given > 0, untrimmed"
    assert bars[1].count("#") in (39, 40) and bars[2].count("#") == 0
    assert span_histogram(look(FakeExcerpt({"de": [19]}), Mlm())) == ""


def test_pictures_are_drawn_of_what_there_is():
    mlm = panels(look(FakeExcerpt({"de": [19]}), Mlm()))
    spans = panels(look(FakeExcerpt({"de": [19]}), SpanDenoise("drop")))
    assert "What stands where a token is to be predicted" in mlm
    assert "Lengths of removed spans" in spans and "Lengths of removed spans" not in mlm


def test_a_terminal_gets_everything():
    findings = look(FakeExcerpt({"de": [19], "en": [19]}), SpanDenoise("mask"))
    text = Terminal(80, colour=False, ids=False).findings(findings)
    parts = ["a.task\n  fact: x", "stands for a removed span", "── de, ", "── en, ", "Text (some"]
    parts += ["Lengths (mean", "Examples (noise", "Lengths of removed spans", "note: 100 records"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
