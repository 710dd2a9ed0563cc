"""Pairs of translations: which files go together, and that damage does not shift them."""

from __future__ import annotations

import gzip
import os

import pytest

from seqrecipes.data.corpora.corpus import BadRecord
from seqrecipes.data.corpora.parallel_files import ParallelFiles
from seqrecipes.errors import UserError


def write(folder, files):
    for name, text in files.items():
        data = text if isinstance(text, bytes) else text.encode()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def read(source, pair="de-en", split="train", **settings):
    """All pairs; bad records as (where, problem)."""
    defaults = {"on_bad_record": "skip", "validation_every": 10_000}
    corpus = ParallelFiles({pair: source}, **(defaults | settings))
    return [
        (os.path.basename(d.where), d.problem) if isinstance(d, BadRecord) else d
        for shard in range(corpus.shards(pair, split))
        for d in corpus.documents(pair, split, shard)
    ]


@pytest.fixture(autouse=True)
def nothing_held_out(monkeypatch):
    """Files alone are looked at; what is held out of them is shown in file_corpus_test.py."""
    monkeypatch.setattr("seqrecipes.data.corpora.file_corpus.exact_limit", lambda records, every: 0)


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz"])
def test_tab_separated(tmp_path, name):
    write(tmp_path, {name: "eins\tone\r\n zwei \t two\n\tthree\nvier\t\n"})
    pairs = [("eins", "one"), ("zwei", "two"), ("", "three"), ("vier", "")]
    for source in (tmp_path, tmp_path / name, f"{tmp_path}/*"):
        assert read(str(source)) == pairs
    assert read(str(tmp_path), "xx-yy") == pairs


def test_lines_with_other_fields_are_bad(tmp_path):
    write(tmp_path, {"x.tsv": b"a\tb\nc\nd\te\tf\n\n\xff\tg\nh\ti\n"})
    expected = "field(s); it should be a text, a tab, a translation."
    assert read(str(tmp_path)) == [
        ("a", "b"),
        ("x.tsv:2", f"this line has 1 {expected}"),
        ("x.tsv:3", f"this line has 3 {expected}"),
        ("x.tsv:4", f"this line has 1 {expected}"),
        ("x.tsv:5", "this line is not valid UTF-8; convert the file to UTF-8."),
        ("h", "i"),
    ]


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("stem", ["news", "de-en", "a/News-v1.de-en"])
def test_line_aligned(tmp_path, stem, gz):
    write(tmp_path, {f"{stem}.de{gz}": "eins\nzwei\n\n", f"{stem}.en{gz}": "one\n two\nthree"})
    pairs = [("eins", "one"), ("zwei", "two"), ("", "three")]
    german, english = (f"{tmp_path}/{stem}.{side}{gz}" for side in ("de", "en"))
    for source in (str(tmp_path), [german, english], german, english, f"{tmp_path}/**/*.de*"):
        assert read(source) == pairs
    assert read(str(tmp_path), "en-de") == [(b, a) for a, b in pairs]


def test_files_of_every_kind_in_order(tmp_path):
    write(
        tmp_path,
        {"b.tsv": "2\tb", "c.de": "3", "c.en": "c", "a.en.gz": "a", "a.de.gz": "1", "README": ""},
    )
    assert read(str(tmp_path)) == [("1", "a"), ("2", "b"), ("3", "c")]
    assert read([f"{tmp_path}/c.en", str(tmp_path)]) == [("3", "c"), ("1", "a"), ("2", "b")]


def test_one_folder_with_several_pairs(tmp_path):
    for pair in ("de-en", "fr-en", "de-fr"):
        write(tmp_path, {f"x.{pair}.{side}": f"{side} of {pair}" for side in pair.split("-")})
    corpus = ParallelFiles(dict.fromkeys(("de-en", "en-fr", "fr-de"), str(tmp_path)))
    found = {pair: list(corpus.documents(pair, "train", 0)) for pair in corpus.languages}
    assert found == {
        "de-en": [("de of de-en", "en of de-en")],
        "en-fr": [("en of fr-en", "fr of fr-en")],
        "fr-de": [("fr of de-fr", "de of de-fr")],
    }


def test_damage_does_not_shift_the_pairs(tmp_path):
    write(
        tmp_path, {"x.de": b"1\n\xff\n3\n" + b"4" * 99 + b"\n\xff\n6\n", "x.en": "a\nb\nc\nd\ne\nf"}
    )
    write(tmp_path, {"y.de": "1\n2\n3\n", "y.en": b"a\n\xff\nc\n"})
    names = [
        pair if len(pair[1]) == 1 else pair[0] for pair in read(str(tmp_path), max_document_bytes=9)
    ]
    assert names == [
        ("1", "a"),
        "x.de:2",
        ("3", "c"),
        "x.de:4",
        "x.de:5",
        ("6", "f"),
        ("1", "a"),
        "y.en:2",
        ("3", "c"),
    ]


def test_a_pair_with_two_bad_sides_is_one_bad_record(tmp_path):
    write(tmp_path, {"x.de": b"\xff\n2\n", "x.en": b"\xff\nb\n"})
    (bad, _), good = read(str(tmp_path))
    assert (bad, good) == ("x.de:1", ("2", "b"))


@pytest.mark.parametrize("short, long", [("de", "en"), ("en", "de")])
def test_files_of_different_length(tmp_path, short, long):
    write(tmp_path, {f"x.{short}": "1\n2\n", f"x.{long}": "1\n2\n3\n4\n", "y.tsv": "5\t5"})
    problem = (
        f"{tmp_path}/x.{long} has more lines than this file, which ends after line 2; they should "
        "be translations line by line."
    )
    found = read(str(tmp_path))
    assert found == [("1", "1"), ("2", "2"), (f"x.{short}", problem), ("5", "5")]
    with pytest.raises(UserError, match=rf"x\.{short}': .*x\.{long} has more lines than"):
        read(str(tmp_path), on_bad_record="raise")


@pytest.mark.parametrize("side", ["de", "en"])
def test_a_side_that_is_cut_off(tmp_path, side):
    lines = [str(i * i) for i in range(3000)]
    text = "\n".join(lines)
    write(tmp_path, {"x.de.gz": text, "x.en.gz": text, "y.tsv": "last\tlast"})
    path = tmp_path / f"x.{side}.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    *pairs, cut, last = read(str(tmp_path))
    assert pairs == [(line, line) for line in lines[: len(pairs)]] and len(pairs) > 100
    assert cut[0] == f"x.{side}.gz" and f"cut off after line {len(pairs):,}" in cut[1]
    assert last == ("last", "last")


def test_a_side_that_vanished(tmp_path):
    write(tmp_path, {"x.de": "1", "x.en": "a", "y.tsv": "2\tb"})
    corpus = ParallelFiles({"de-en": str(tmp_path)}, on_bad_record="skip")
    (tmp_path / "x.en").unlink()
    bad, good = corpus.documents("de-en", "train", 0)
    assert bad.where == f"{tmp_path}/x.en" and good == ("2", "b")


def test_shards_and_validation(tmp_path, monkeypatch):
    monkeypatch.undo()  # something is held out
    for name in "abc":
        write(tmp_path, {f"{name}.de": "1\n2\n3\n4\n", f"{name}.en": "1\n2\n3\n\n"})
    settings = {"shard_bytes": 16, "validation_every": 2}
    corpus = ParallelFiles({"de-en": str(tmp_path)}, **settings)
    assert corpus.parallel and corpus.shards("de-en", "train") == 2
    (held,) = set(corpus.documents("de-en", "validation", 1))
    trained = [pair for pair in (("1", "1"), ("2", "2"), ("3", "3"), ("4", "")) if pair != held]
    assert held[1], "a pair with an empty side has nothing to be validated on"
    assert list(corpus.documents("de-en", "train", 1)) == trained
    assert list(corpus.documents("de-en", "train", 0)) == trained * 2
    assert read(str(tmp_path), split="validation", **settings) == [held] * 3


def test_fingerprint_follows_both_sides(tmp_path):
    write(tmp_path, {"a/x.de": "1", "a/x.en": "a"})

    def fingerprint(pair="de-en"):
        return ParallelFiles({pair: f"{tmp_path}/a"}).fingerprint()

    prints = [fingerprint(), fingerprint("en-de")]
    assert prints[0] == fingerprint()
    assert ParallelFiles({"de-en": f"{tmp_path}/a/x.en"}).fingerprint() == prints[0]
    for side in ("de", "en"):
        write(tmp_path, {f"a/x.{side}": "2"})
        prints.append(fingerprint())
    assert len(set(prints)) == 4


@pytest.mark.parametrize(
    "files, message",
    [
        ({"de-en": "{tmp}/lost"}, "lost/x.de': its translations are missing: no {tmp}/lost/x.en."),
        ({"en-de": "{tmp}/lost"}, "lost/x.de': its translations are missing: no {tmp}/lost/x.en."),
        (
            {"de-en": "{tmp}/mixed"},
            "mixed/x.de.gz': its translations are missing: no {tmp}/mixed/x.",
        ),
        ({"de-en": "{tmp}/same"}, "x.en-de.de': its translations are missing"),
        ({"de-en": "{tmp}/dash"}, "all-new.de': its translations are missing"),
        (
            {"de-en": "{tmp}/other"},
            "no pairs: it has no .tsv files and no .de files with .en files",
        ),
        ({"fr-en": "{tmp}/lost"}, "no .tsv, .tsv.gz, .fr, .fr.gz, .en, .en.gz file in this folder"),
        ({"de-en": "{tmp}/x.txt"}, "x.txt': files must end in .tsv, .tsv.gz, .de, .de.gz"),
        ({"de": "{tmp}"}, "ParallelFiles.files = 'de': name a pair by two languages"),
        ({"de-en-fr": "{tmp}"}, "name a pair by two languages of letters, digits and _"),
        ({"de-de": "{tmp}"}, "name a pair by two languages"),
        ({"../x-en": "{tmp}"}, "name a pair by two languages"),
        ("{tmp}", "set it to a folder or glob per pair, such as {'de-en': 'opus/de-en', 'fr-en': "),
        (None, "ParallelFiles.files = None: no text given; set it to a folder or glob per pair"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, files, message):
    write(tmp_path, {"lost/x.de": "1", "mixed/x.de.gz": "1", "mixed/x.en": "1", "x.txt": "1"})
    write(tmp_path, {"other/x.ar-en.en": "1", "same/x.en-de.de": "1", "dash/all-new.de": "1"})

    def fill(text):
        return text.replace("{tmp}", str(tmp_path))

    if isinstance(files, dict):
        files = {pair: fill(source) for pair, source in files.items()}
    with pytest.raises(UserError) as error:
        ParallelFiles(fill(files) if isinstance(files, str) else files)
    assert fill(message) in str(error.value)
