"""Layouts: what is read of well-formed files, and what is said of others."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from seqrecipes.data.corpora.lines import File
from seqrecipes.data.labelled import layouts
from seqrecipes.data.labelled.records import Record
from seqrecipes.errors import UserError

PARSE = "7\tIN:CALL\t0:4:SL:X\tCall Anna\tcalling\ten_XX\t[IN:CALL [SL:X Anna ] ]\t"


def read(layout, *paths: Path) -> list[Record]:
    return list(layout(tuple(File.at("folder", path, path.name) for path in paths)))


def lines(tmp_path: Path, layout, text: str | bytes) -> list[Record]:
    path = tmp_path / "file"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read(layout, path)


def test_a_word_a_line(tmp_path):
    text = "Anna\tB-PER\nruft\tO\n\n\n \nja\u00a0nein\tX\r\n\u200b\tO\n"
    first, second = lines(tmp_path, layouts.word_lines, text)
    assert (first.words, first.tags) == (("Anna", "ruft"), ("B-PER", "O"))
    assert (second.words, second.tags) == (("ja\u00a0nein", "\u200b"), ("X", "O"))
    assert first.where.endswith("file:1") and second.where.endswith("file:6")


def test_blank_lines_at_the_ends_make_no_sentences(tmp_path):
    assert [r.words for r in lines(tmp_path, layouts.word_lines, "\n\na\tO\n\n\n")] == [("a",)]
    assert lines(tmp_path, layouts.word_lines, "") == []


def test_pairs_with_and_without_a_header(tmp_path):
    body = "A man.\tA person.\tentailment\nlabel\tb\tneutral\n"
    for header in ("", "sentence1\tsentence2\tgold_label\n"):
        records = lines(tmp_path, layouts.pair_lines, header + body)
        assert [r.texts for r in records] == [("A man.", "A person."), ("label", "b")]
        assert [r.label for r in records] == ["entailment", "neutral"]
    assert records[0].where.endswith(":2")


def test_slots(tmp_path):
    text = "id\tutterance\tslot_labels\tintent\n3\tfly  to Rome\tO O B-city\tflight\n"
    (record,) = lines(tmp_path, layouts.slot_lines, text)
    assert record.words == ("fly", "to", "Rome") and record.tags == ("O", "O", "B-city")
    assert record.label == "flight" and record.where.endswith(":2")


def test_a_no_break_space_separates_no_words(tmp_path):
    (record,) = lines(tmp_path, layouts.slot_lines, "3\t10\u00a0000 euro\tB-sum O\tpay\n")
    assert record.words == ("10\u00a0000", "euro")


def test_parses(tmp_path):
    text = PARSE + '{"tokens": ["Call", "Anna"], "other": 1}\n'
    (record,) = lines(tmp_path, layouts.parse_lines, text)
    assert record.words == ("Call", "Anna") and record.label == "IN:CALL"
    assert record.targets == ("[IN:CALL [SL:X Anna ] ]",) and not record.several


def test_summaries(tmp_path):
    one = '{"document": "long", "summary": "short", "id": 3}\n'
    many = '{"document": "long\\nwinded", "summaries": ["a", "b"]}\n'
    first, second = lines(tmp_path, layouts.summary_lines, one + many)
    assert (first.texts, first.targets, first.several) == (("long",), ("short",), False)
    assert (second.texts, second.targets, second.several) == (("long\nwinded",), ("a", "b"), True)


def test_translations_and_compression(tmp_path):
    one, two = tmp_path / "t.en.txt.gz", tmp_path / "t.de.txt"
    one.write_bytes(gzip.compress(b"one \n\ntwo"))
    two.write_text("eins\nleer\n zwei\n")
    records = read(layouts.aligned_lines, one, two)
    assert [(r.texts, r.targets) for r in records] == [
        (("one",), ("eins",)),
        (("",), ("leer",)),
        (("two",), ("zwei",)),
    ]


@pytest.mark.parametrize("short", ["one", "two"])
def test_translations_of_unequal_length(tmp_path, short):
    paths = {name: tmp_path / name for name in ("one", "two")}
    for name, path in paths.items():
        path.write_text("x\n" * (2 if name == short else 3))
    other = "two" if short == "one" else "one"
    with pytest.raises(UserError, match=rf"/{short}': ends before line 3 of .*/{other}; they"):
        read(layouts.aligned_lines, paths["one"], paths["two"])


@pytest.mark.parametrize(
    ("layout", "text", "line", "message"),
    [
        (layouts.word_lines, "a\tO\nb O\n", 2, r"has 1 field\(s\) .* expected 2: word, tag"),
        (layouts.word_lines, "a\tO\tx\n", 1, r"has 3 field\(s\)"),
        (layouts.word_lines, "a\tO\n\tO\n", 2, "has an empty field; expected a word"),
        (layouts.word_lines, b"a\tO\n\xff\tO\n", 2, "is not valid UTF-8"),
        (layouts.word_lines, "a\tNOUN\nb\tNOUN \n", 2, "has the label 'NOUN '; expected 'NOUN'"),
        (layouts.word_lines, "a\tO\nb\t\u00a0O\n", 2, r"has the label '\\xa0O'; expected 'O'"),
        (layouts.word_lines, "a\tO\u200b\n", 1, r"has the label 'O\\u200b'; expected 'O'"),
        (layouts.word_lines, "a\t \n", 1, "has an empty field"),
        (layouts.pair_lines, "a\tb\tyes\na\tb\t yes\n", 2, "has the label ' yes'; expected 'yes'"),
        (layouts.pair_lines, "a\tb\tyes\u3000\n", 1, r"label 'yes\\u3000'; expected 'yes'"),
        (layouts.pair_lines, "a\tb\tyes\ufeff\n", 1, r"label 'yes\\ufeff'; expected 'yes'"),
        (layouts.slot_lines, "0\ta b\tO B-x\u00a0\tgo\n", 1, r"label 'B-x\\xa0'; expected 'B-x'"),
        (layouts.slot_lines, "0\ta\tO\tgo \n", 1, "has the label 'go '; expected 'go'"),
        (
            layouts.parse_lines,
            PARSE.replace("\tIN:CALL", "\tIN:CALL ", 1) + '{"tokens": ["Call"]}\n',
            1,
            "has the label 'IN:CALL '; expected 'IN:CALL'",
        ),
        (layouts.word_lines, b"a\0\tO\0\n", 1, "holds the character NUL"),
        (layouts.pair_lines, "a\tb\n", 1, "expected 3: premise, hypothesis, label"),
        (layouts.pair_lines, "a\tb\tc\na\tb\t\n", 2, "has no label"),
        (
            layouts.slot_lines,
            "0\ta b\tO\tx\n",
            1,
            r"has 2 word\(s\) and 1 slot label\(s\); expected words separated by spaces",
        ),
        (layouts.slot_lines, "0\t \t \tx\n", 1, r"has 0 word\(s\)"),
        (layouts.slot_lines, "0\ta\tO\t\n", 1, "has no intent"),
        (layouts.slot_lines, "0\ta\tO\n", 1, "expected 4: id, utterance, slot_labels, intent"),
        (layouts.parse_lines, PARSE + "{\n", 1, "is not valid JSON"),
        (layouts.parse_lines, PARSE + "[1]\n", 1, "holds a JSON list; expected a JSON object"),
        (layouts.parse_lines, PARSE + "{}\n", 1, "has no list of tokens; expected JSON such as"),
        (layouts.parse_lines, PARSE + '{"tokens": "ab"}\n', 1, "has no list of tokens"),
        (layouts.parse_lines, PARSE + '{"tokens": [1]}\n', 1, "has no list of tokens"),
        (layouts.parse_lines, "a;b;c\n", 1, "expected 8: id, intent, slots, utterance"),
        (
            layouts.parse_lines,
            PARSE.replace("[IN:CALL [", "(IN:CALL [") + '{"tokens": ["Call"]}\n',
            1,
            r"decoupled form; expected a form such as \[IN:",
        ),
        (layouts.summary_lines, '{"document": "a"}\n', 1, "has the fields document; expected"),
        (layouts.summary_lines, '{"document": "a", "summaries": []}\n', 1, "expected the strings"),
        (layouts.summary_lines, '{"document": 3, "summary": "a"}\n', 1, "expected the strings"),
        (layouts.summary_lines, '{"document": "\\ud800", "summary": ""}\n', 1, "expected"),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_line(tmp_path, layout, text, line, message):
    with pytest.raises(UserError, match=rf"folder = '.*/file:{line}': this line .*{message}"):
        lines(tmp_path, layout, text)


def test_a_damaged_archive_is_named(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(b"a\tO\n" * 1000)[:-20])
    with pytest.raises(UserError, match=r"file.gz': cannot be decompressed"):
        read(layouts.word_lines, path)
