"""Reading lines and paragraphs: what is yielded of sound, damaged and enormous files."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqrecipes.data.corpora import lines
from seqrecipes.data.corpora.corpus import BadRecord
from seqrecipes.data.corpora.lines import CutOff, File, join_sentences, paragraphs, read_lines
from seqrecipes.errors import UserError

TEXT = "".join(f"line {i}, grün\n" for i in range(300)).encode()


def make(folder: Path, name: str, data: bytes) -> File:
    (folder / name).write_bytes(data)
    return File.at("TextFiles.files['en']", folder / name, name)


def read(file: File, max_bytes: int = 1000) -> tuple[list[str | BadRecord], BadRecord | None]:
    """What was yielded, and what cut it off."""
    found: list[str | BadRecord] = []
    try:
        for line in read_lines(file, max_bytes):
            found.append(line)
    except CutOff as cut:
        return found, cut.record
    return found, None


@pytest.mark.parametrize("ending", ["", ".gz"])
@given(data=st.lists(st.sampled_from([b"a", b"\xc3\xa9", b"\xff", b"\r", b"\n", b"\0"])))
def test_one_item_for_every_line(tmp_path_factory, ending, data):
    raw = b"".join(data)
    file = make(
        tmp_path_factory.mktemp("f"), f"x.txt{ending}", gzip.compress(raw) if ending else raw
    )
    found, cut = read(file, max_bytes=5)
    assert cut is None
    expected = raw.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert len(found) == len(expected)
    for number, (line, item) in enumerate(zip(expected, found, strict=True), start=1):
        if len(line) > 5:
            problem = f"has {len(line)} bytes, more than max_document_bytes = 5"
        elif b"\0" in line:
            problem = "holds the character NUL"
        elif b"\xff" in line:
            problem = "is not valid UTF-8"
        else:
            assert item in (line.decode(), line.decode() + "\n")
            continue
        assert isinstance(item, BadRecord)
        assert (item.field, item.where) == (file.field, f"{file.path}:{number}")
        assert problem in item.problem


def test_byte_order_mark_only_in_front(tmp_path):
    file = make(tmp_path, "x.txt", "one\ntwo".encode("utf-8-sig").replace(b"two", b"\xef\xbb\xbf2"))
    assert read(file) == (["one\n", "\ufeff2"], None)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_long_lines_are_never_held(tmp_path, ending):
    data = b"first\n" + b"a" * 6_000_000 + b"\nlast"
    file = make(tmp_path, f"x.txt{ending}", gzip.compress(data, 1) if ending else data)
    tracemalloc.start()
    found, _ = read(file, max_bytes=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert (found[0], found[2], len(found)) == ("first\n", "last", 3)
    assert "has 6,000,000 bytes" in found[1].problem


@pytest.mark.parametrize("cut", range(0, len(gzip.compress(TEXT, mtime=0)), 37))
def test_truncated_gzip_keeps_what_came_before(tmp_path, cut):
    file = make(tmp_path, "x.txt.gz", gzip.compress(TEXT, mtime=0)[:cut])
    found, record = read(file)
    assert found == TEXT.decode().splitlines(keepends=True)[: len(found)]
    assert record is not None and record.where == str(file.path)
    assert "cannot be decompressed" in record.problem
    assert f"cut off after line {len(found)}; fetch the file again." in record.problem


def test_bytes_after_gzip(tmp_path):
    file = make(tmp_path, "x.txt.gz", gzip.compress(TEXT) + random.Random(0).randbytes(99))
    found, record = read(file)
    assert "".join(found) == TEXT.decode()
    assert "cut off after line 300" in record.problem


def test_several_gzip_members(tmp_path):
    file = make(tmp_path, "x.txt.gz", gzip.compress(TEXT) + gzip.compress(b"more\n"))
    found, record = read(file)
    assert "".join(found) == TEXT.decode() + "more\n" and record is None


def test_any_damage_is_told_or_harmless(tmp_path):
    data, chance = gzip.compress(TEXT, mtime=0), random.Random(0)
    told = 0
    for _ in range(200):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        found, record = read(make(tmp_path, "x.txt.gz", bytes(damaged)))
        told += record is not None
        # Only the header has bits that decide nothing about the text (time, system, flags).
        assert record is not None or found == TEXT.decode().splitlines(keepends=True)
    assert told > 150


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    file = make(tmp_path, "x.txt", b"one\ntwo\n")
    file.path.unlink()
    found, record = read(file)
    assert found == [] and record == BadRecord(
        file.field, str(file.path), "cannot be read: No such file or directory."
    )

    class Failing(io.BytesIO):
        def readline(self, size=-1, /):
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().readline(size)

    file = make(tmp_path, "x.txt", b"one\ntwo\n")
    monkeypatch.setattr(lines, "_open", lambda path, raw: Failing(b"one\ntwo\n"))
    found, record = read(file)
    assert found == ["one\n"]
    assert record.problem == "cannot be read after line 1: Input/output error."


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-16", "latin-1"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_other_encodings_are_no_text(tmp_path, encoding, ending):
    """With and without a byte-order mark; every line of them that has letters."""
    data = "the river rises\nwhen the snow melts in März\n".encode(encoding)
    file = make(tmp_path, f"x.txt{ending}", gzip.compress(data) if ending else data)
    found, record = read(file)
    bad = [line for line in found if isinstance(line, BadRecord)]
    assert record is None and len(bad) >= (1 if encoding == "latin-1" else 2)
    for number, line in enumerate(found, start=1):
        assert isinstance(line, BadRecord) or line in ("the river rises\n",)
        if isinstance(line, BadRecord):
            assert line.where.endswith(f":{number}") and "UTF-8" in line.problem


def test_binary_files_are_no_text(tmp_path):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    samples = {"tar": archive.getvalue(), "zeros": bytes(100), "numbers": bytes(range(256))}
    samples["png"] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    for name, data in samples.items():
        found, _ = read(make(tmp_path, f"{name}.txt", data))
        assert any(isinstance(line, BadRecord) for line in found)
        assert not any("\0" in line for line in found if isinstance(line, str))


def test_only_files_are_accepted(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match="this is no file"):
        File.at("f", tmp_path / "pipe.txt", "pipe.txt")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        File.at("f", tmp_path / "x.txt", "x.txt")


def test_names_that_are_not_utf8_can_be_reported(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))
    path.write_bytes(b"\xff\n")
    (record,), _ = read(File.at("f", path, path.name))
    assert record.where.encode().endswith(b"/\\xff.txt:1")


BAD = BadRecord("f", "x.txt:1", "bad.")


@given(st.lists(st.sampled_from(["\n", " \n", "a\n", " bé\n", "cccc\n", BAD])))
def test_paragraphs(texts):
    limit = 8
    expected: list[object] = []
    for blank, group in itertools.groupby(texts, lambda x: isinstance(x, str) and not x.strip()):
        kept = [BAD if x is BAD else x.strip() for x in group]
        if not blank:
            damaged = BAD in kept or len(" ".join(kept).encode()) > limit
            expected.append("bad" if damaged else kept)
    found = list(paragraphs(texts, File("f", Path("x.txt"), "x.txt", 0, 0), limit))
    assert ["bad" if isinstance(x, BadRecord) else x for x in found] == expected


def test_a_paragraph_that_is_too_long_is_named_by_its_first_line(tmp_path):
    file = make(tmp_path, "x.txt", b"a\n\n\nb\nc\nd\n\ne\n")
    one, long, two = paragraphs(read_lines(file, 100), file, max_bytes=4)
    assert (one, two) == (["a"], ["e"])
    assert long.where == f"{file.path}:4"
    assert "this line begins a document of more than max_document_bytes = 4" in long.problem


def test_long_paragraphs_are_never_held(tmp_path):
    file = make(tmp_path, "x.txt", b"some words\n" * 300_000)
    tracemalloc.start()
    (record,) = paragraphs(read_lines(file, 10_000), file, 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(record, BadRecord) and peak < 1_000_000


@pytest.mark.parametrize(
    "language, text", [("en", "a b"), ("ja", "ab"), ("zh_Hant", "ab"), ("hi", "a b")]
)
def test_sentences_are_joined_as_the_language_does(language, text):
    assert join_sentences(["a", "b"], language) == text
