"""Texts: what a document is in each kind of file, and folders named after languages."""

from __future__ import annotations

import gzip
import json
import shutil

import gin
import pytest

from seqrecipes.data.corpora.corpus import BadRecord
from seqrecipes.data.corpora.text_files import TextFiles
from seqrecipes.errors import UserError


def train(corpus, language="en"):
    return list(corpus.documents(language, "train", 0))


@pytest.fixture(autouse=True)
def nothing_held_out(monkeypatch):
    """Files alone are looked at; what is held out of them is shown in file_corpus_test.py."""
    monkeypatch.setattr("seqrecipes.data.corpora.file_corpus.exact_limit", lambda records, every: 0)


def test_lines_of_several_files_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("three\n\nfour", "utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.txt").write_bytes("fünf\r\n".encode("utf-8-sig"))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\n  two \n"))
    (tmp_path / "notes.md").write_text("not text")
    assert train(TextFiles({"en": str(tmp_path)})) == ["one", "two", "three", "", "four", "fünf"]


def test_blank_lines_separate_documents(tmp_path):
    (tmp_path / "x.txt").write_text("\none\ntwo\n\n\n three\n", "utf-8")
    for language, documents in (("en", ["one two", "three"]), ("ja", ["onetwo", "three"])):
        corpus = TextFiles({language: str(tmp_path)}, document="blank_line")
        assert train(corpus, language) == documents


def test_a_document_with_a_bad_line_is_bad(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"one\n\ntwo\n\xff\n\xff\nthree\n\nfour\n\nlong long\nlong\n")
    corpus = TextFiles(
        {"en": str(tmp_path)}, document="blank_line", on_bad_record="skip", max_document_bytes=13
    )
    one, bad, four, long = train(corpus)
    assert (one, four) == ("one", "four")
    assert (bad.where, long.where) == (f"{tmp_path}/x.txt:4", f"{tmp_path}/x.txt:10")


def test_json_lines(tmp_path):
    lines = [{"text": "one", "body": "eins"}, {"text": " two\nlines", "body": "zwei"}]
    data = "\n\n".join(map(json.dumps, lines))
    (tmp_path / "x.jsonl").write_text(data)
    (tmp_path / "y.jsonl.gz").write_bytes(gzip.compress(data.encode()))
    (tmp_path / "y.json.gz").write_bytes(gzip.compress(data.encode()))
    (tmp_path / "z.jsonl.txt").write_text("{}")
    files = {"de": str(tmp_path)}
    corpus = TextFiles(files, document="blank_line")
    assert train(corpus, "de") == ["one", "two\nlines"] * 3 + ["{}"]
    corpus = TextFiles({"de": [f"{tmp_path}/x.*", f"{tmp_path}/y.*"]}, json_field="body")
    assert train(corpus, "de") == ["eins", "zwei"] * 3


@pytest.mark.parametrize(
    "line, problem",
    [
        (b"\xff", "is not valid UTF-8; convert the file to UTF-8."),
        (b'{"text": ', "is not valid JSON (Expecting value)."),
        (b'{"body": "a"}', "has no field 'text'; name the field with the text in TextFiles.json_"),
        (b"[1]", "has no field 'text'"),
        (b"null", "has no field 'text'"),
        (b'{"text": 3}', "has a field 'text' that is no string."),
        (b'{"text": null}', "has a field 'text' that is no string."),
        (b'{"text": "\\ud800"}', "has a field 'text' with half a character (a lone surrogate)."),
        (b'{"text": "a\\u0000b"}', "holds the character NUL"),
        (b'{"text": "a\0b"}', "holds the character NUL"),
        (b"[" * 200_000, "is not usable JSON"),
        (b'{"n": ' + b"1" * 9_999 + b', "text": ""}', "is not usable JSON"),
        (
            b'{"text": "' + b"a" * 300_000,
            "has 300,010 bytes, more than max_document_bytes = 300,000",
        ),
    ],
)
def test_bad_json_lines(tmp_path, line, problem):
    good = b'{"text": "a"}\n'
    (tmp_path / "x.jsonl").write_bytes(good + line + b"\n" + good)
    settings = {"files": {"en": str(tmp_path)}, "max_document_bytes": 300_000}
    before, bad, after = train(TextFiles(**settings, on_bad_record="skip"))
    assert before == after == "a" and isinstance(bad, BadRecord)
    assert (bad.field, bad.where) == ("TextFiles.files['en']", f"{tmp_path}/x.jsonl:2")
    assert f"this line {problem}" in bad.problem
    with pytest.raises(UserError, match=r"x\.jsonl:2': this line"):
        train(TextFiles(**settings))


def test_a_folder_named_after_each_language(tmp_path):
    for name in ("de/a.txt", "de/b/c.txt", "pt_BR/a.txt", "en.txt.gz", "en.txt", ".git/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        data = name.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    (tmp_path / "README.md").write_text("not text")
    corpus = TextFiles(str(tmp_path))
    assert corpus.languages == ("de", "en", "pt_BR")
    assert train(corpus, "de") == ["de/a.txt", "de/b/c.txt"]
    assert train(corpus, "en") == ["en.txt", "en.txt.gz"]
    assert TextFiles(str(tmp_path), languages=["pt_BR"]).languages == ("pt_BR",)
    one_by_one = {
        "de": f"{tmp_path}/de",
        "en": [f"{tmp_path}/en.txt", f"{tmp_path}/en.txt.gz"],
        "pt_BR": f"{tmp_path}/pt_BR",
    }
    assert TextFiles(one_by_one).fingerprint() == corpus.fingerprint()
    shutil.copytree(tmp_path / "de", tmp_path / "v" / "de")
    held_out = TextFiles(one_by_one, validation_files=f"{tmp_path}/v")
    assert list(held_out.documents("de", "validation", 0)) == ["de/a.txt", "de/b/c.txt"]


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "notes/a.pdf",
            "unknown language folder: no .txt, .txt.gz, .jsonl, .jsonl.gz, .json.gz file in this",
        ),
        ("notes/a.pdf", "it holds a.pdf. Name the languages to read in TextFiles.languages, or"),
        ("zh-old/a.txt", "TextFiles.files = 'zh-old': unknown language: its name may have letters"),
        ("en.old.txt", "TextFiles.files = 'en.old': unknown language"),
        ("2/a.txt", "TextFiles.files = '2': unknown language"),
    ],
)
def test_folders_of_no_language(tmp_path, name, message):
    (tmp_path / "en.txt").write_text("text")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("text")
    with pytest.raises(UserError) as error:
        TextFiles(str(tmp_path))
    assert message in str(error.value)
    assert TextFiles(str(tmp_path), languages=("en",)).languages == ("en",)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"files": "{tmp}/gone"}, "no such folder; set it to a folder or glob per language"),
        ({"files": "{tmp}/en.txt"}, "no such folder"),
        ({"files": "{tmp}/empty"}, "this folder has no folder or text file named by a language"),
        (
            {"languages": ["de"]},
            "TextFiles.languages = ['de']: not in TextFiles.files, which has e",
        ),
        ({"files": {"e/n": "{tmp}"}}, "TextFiles.files = 'e/n': unknown language"),
        ({"document": "page"}, "TextFiles.document = 'page': choose one of line, blank_line"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    (tmp_path / "en.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    settings = {
        "files": "{tmp}",
        "languages": ["en"] if not settings.get("files") else [],
    } | settings
    for key, value in settings.items():
        if isinstance(value, str):
            settings[key] = value.replace("{tmp}", str(tmp_path))
    with pytest.raises(UserError) as error:
        TextFiles(**settings)
    assert message in str(error.value)


def test_settings_come_from_gin(tmp_path):
    (tmp_path / "en.txt").write_bytes(b"\xff")
    (tmp_path / "de.txt").write_bytes(b"x")
    gin.parse_config(
        f"TextFiles.files = '{tmp_path}'\nTextFiles.languages = ['en']\n"
        "TextFiles.on_bad_record = 'skip'"
    )
    try:
        (record,) = train(TextFiles())
    finally:
        gin.clear_config()
    assert record.where == f"{tmp_path}/en.txt:1"
