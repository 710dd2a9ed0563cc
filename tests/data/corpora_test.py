"""Corpora: what is read, how it is split, and what is said when it cannot be."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from seqrecipes.data.corpora import SampleCorpus, TextFiles
from seqrecipes.errors import UserError

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "mr", "pt", "ta", "te")


def test_sample_is_parallel():
    corpus = SampleCorpus()
    assert corpus.languages == LANGUAGES
    for language in LANGUAGES:
        train = list(corpus.documents(language, "train"))
        validation = list(corpus.documents(language, "validation"))
        assert (len(train), len(validation)) == (24, 2)
        assert all(train) and not set(train) & set(validation)


def test_sample_joins_sentences_as_the_language_does():
    first = next(SampleCorpus().documents("en", "train"))
    assert first.startswith(
        "The river rises every spring when the snow melts in the mountains. Farm"
    )
    assert " " not in next(SampleCorpus().documents("ja", "train"))


def test_lines_of_several_files_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("three\n\nfour", "utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.txt").write_bytes("fünf\r\n".encode("utf-8-sig"))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\n  two \n"))
    (tmp_path / "notes.md").write_text("not text")
    corpus = TextFiles({"en": str(tmp_path)})
    assert list(corpus.documents("en", "train")) == ["one", "two", "three", "", "four", "fünf"]


def test_globs_and_lists_name_a_file_once(tmp_path):
    for name in ("a1.txt", "a2.txt", "b1.txt"):
        (tmp_path / name).write_text(name)
    patterns = [f"{tmp_path}/a*.txt", f"{tmp_path}/*1.txt"]
    corpus = TextFiles({"en": patterns})
    assert list(corpus.documents("en", "train")) == ["a1.txt", "a2.txt", "b1.txt"]


def test_blank_lines_separate_documents(tmp_path):
    (tmp_path / "x.txt").write_text("\none\ntwo\n\n\n three\n", "utf-8")
    for language, documents in (("en", ["one two", "three"]), ("ja", ["onetwo", "three"])):
        corpus = TextFiles({language: str(tmp_path)}, document="blank_line")
        assert list(corpus.documents(language, "train")) == documents


def test_json_lines(tmp_path):
    lines = [{"text": "one", "body": "eins"}, {"text": "two\nlines", "body": "zwei"}]
    data = "\n\n".join(map(json.dumps, lines))
    (tmp_path / "x.jsonl").write_text(data)
    (tmp_path / "y.jsonl.gz").write_bytes(gzip.compress(data.encode()))
    files = {"de": str(tmp_path)}
    assert list(TextFiles(files).documents("de", "train")) == ["one", "two\nlines"] * 2
    corpus = TextFiles(files, json_field="body")
    assert list(corpus.documents("de", "train")) == ["eins", "zwei"] * 2


def test_every_so_many_documents_are_for_validation(tmp_path):
    (tmp_path / "x.txt").write_text("\n".join(map(str, range(10))))
    corpus = TextFiles({"en": str(tmp_path)}, validation_every=4)
    assert list(corpus.documents("en", "validation")) == ["3", "7"]
    assert list(corpus.documents("en", "train")) == ["0", "1", "2", "4", "5", "6", "8", "9"]


def test_validation_files(tmp_path):
    (tmp_path / "train.txt").write_text("1\n2\n3")
    (tmp_path / "valid.txt").write_text("4\n5")
    corpus = TextFiles(
        {"en": f"{tmp_path}/train.txt", "de": f"{tmp_path}/train.txt"},
        validation_every=2,
        validation_files={"en": f"{tmp_path}/valid.txt"},
    )
    assert list(corpus.documents("en", "train")) == ["1", "2", "3"]
    assert list(corpus.documents("en", "validation")) == ["4", "5"]
    assert list(corpus.documents("de", "validation")) == []


def test_fingerprint_follows_files_and_settings(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("1\n2\n3")
    files = {"en": str(tmp_path)}
    prints = [TextFiles(files).fingerprint(), TextFiles(files, validation_every=7).fingerprint()]
    assert TextFiles(files).fingerprint() == prints[0]
    os.utime(path, ns=(1, 1))
    prints.append(TextFiles(files).fingerprint())
    path.write_text("1\n2\n3\n4")
    prints.append(TextFiles(files).fingerprint())
    assert len(set(prints)) == 4
    assert SampleCorpus().fingerprint() == SampleCorpus().fingerprint()


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("x.txt", b"good\n\xff\xfe bad\n", "x.txt:2': this line is not valid UTF-8"),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', "x.jsonl:2': this line is not valid JSON"),
        ("x.jsonl", b'{"body": "a"}\n', "x.jsonl:1': this line has no field 'text'"),
        ("x.jsonl", b"[1]\n", "x.jsonl:1': this line has no field 'text'"),
        ("x.jsonl", b'{"text": 3}\n', "x.jsonl:1': this line has a field 'text' that is no string"),
        ("x.txt.gz", gzip.compress(b"a\nb\n" * 99)[:-9], "cannot be decompressed"),
        ("x.txt.gz", b"no gzip at all", "x.txt.gz:1': this line cannot be decompressed"),
        ("x.txt", b"\n \n\n", "there is no text in 1 file(s) (x.txt)"),
        ("x.txt", b"", "there is no text in 1 file(s) (x.txt)"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        list(TextFiles({"en": str(tmp_path)}).documents("en", "train"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"files": None}, "TextFiles.files = None: no text given"),
        ({"files": {"en": "{tmp}/nothing/*.txt"}}, "no such file or folder"),
        ({"files": {"en": "{tmp}/pdf"}}, "no .txt, .txt.gz, .jsonl, .jsonl.gz file in this folder"),
        ({"files": {"en": "{tmp}/pdf"}}, "it holds a.pdf, b.pdf"),
        ({"files": {"en": "{tmp}/empty"}}, "it holds nothing"),
        ({"files": {"en": "{tmp}/pdf/a.pdf"}}, "files must end in .txt"),
        ({"files": {"en": []}}, "name a folder or a glob"),
        ({"files": {"en": "{tmp}"}, "document": "page"}, "choose line or blank_line"),
        ({"files": {"en": "{tmp}"}, "validation_every": 1}, "TextFiles.validation_every = 1"),
        (
            {"files": {"en": "{tmp}"}, "validation_files": {"de": "{tmp}"}},
            "these languages have no training files; TextFiles.files has en",
        ),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    (tmp_path / "good.txt").write_text("text")
    for name in ("pdf", "empty"):
        (tmp_path / name).mkdir()
    for name in ("a.pdf", "b.pdf"):
        (tmp_path / "pdf" / name).write_text("")
    for key in ("files", "validation_files"):
        if settings.get(key):
            settings = settings | {
                key: {
                    language: p.replace("{tmp}", str(tmp_path)) if isinstance(p, str) else p
                    for language, p in settings[key].items()
                }
            }
    with pytest.raises(UserError) as error:
        TextFiles(**settings)
    assert message in str(error.value)
