"""What holds for all corpora of files, shown with texts: splits, shards, skips, fingerprints."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from scipy import stats

from seqrecipes.data.corpora.corpus import BadRecord, all_documents, hold_out, texts
from seqrecipes.data.corpora.text_files import TextFiles
from seqrecipes.errors import UserError


def write(folder, **files):
    """Writes x='text' as x.txt."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder)


def read(corpus, split="train", language="en"):
    """The documents of every shard, bad records as their place."""
    return [
        [
            os.path.basename(d.where) if isinstance(d, BadRecord) else d
            for d in corpus.documents(language, split, shard)
        ]
        for shard in range(corpus.shards(language, split))
    ]


def test_a_part_of_a_small_text_is_held_out(tmp_path):
    folder = write(tmp_path, x="\n".join(map(str, range(10))))
    corpus = TextFiles({"en": folder}, validation_every=4)
    (held,), (trained,) = read(corpus, "validation"), read(corpus)
    assert len(held) == 2, "one in four, rounded down"
    assert [x for x in map(str, range(10)) if x not in held] == trained, "in their order"
    for documents, every, expected in ((2, 100, 1), (1, 2, 0), (99, 100, 1), (300, 100, 3)):
        folder = write(tmp_path / f"{documents}", x="\n".join(map(str, range(documents))))
        corpus = TextFiles({"en": folder}, validation_every=every)
        assert len(read(corpus, "validation")[0]) == expected
        assert len(read(corpus)[0]) == documents - expected


def test_a_part_of_a_large_text_is_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr("seqrecipes.data.corpora.file_corpus.SMALL_BYTES", 10)
    folder = write(tmp_path, x="\n".join(f"line {i}" for i in range(20_000)))
    (held,) = read(TextFiles({"en": folder}, validation_every=10), "validation")
    assert abs(len(held) - 2000) < 5 * (2000 * 0.9) ** 0.5
    places = [int(text.split()[1]) for text in held]
    assert stats.kstest(np.array(places) / 20_000, "uniform").pvalue > 1e-4
    assert stats.chisquare(np.bincount(np.array(places) % 10)).pvalue > 1e-4


@pytest.mark.parametrize("small", [True, False])
def test_the_same_text_is_on_one_side_wherever_it_stands(tmp_path, monkeypatch, small):
    """In other files, shards and languages, and however often; blank lines are on none."""
    if not small:
        monkeypatch.setattr("seqrecipes.data.corpora.file_corpus.SMALL_BYTES", 10)
    lines = [f"line {i}" for i in range(400)]
    for language in ("en", "de"):
        for name in "ab":
            write(tmp_path / language, **{name: "\n\n".join([*lines, *lines[::-1]])})
    files = {x: str(tmp_path / x) for x in ("en", "de")}
    corpus = TextFiles(files, validation_every=20, shard_bytes=1)
    for language in ("en", "de"):
        sides = {split: read(corpus, split, language) for split in ("train", "validation")}
        held = {text for shard in sides["validation"] for text in shard}
        assert 5 <= len(held) <= 50 and "" not in held
        assert not held & {text for shard in sides["train"] for text in shard}
        assert sides["validation"][0] == sides["validation"][1] != []
        assert all(shard.count(text) == 2 for shard in sides["validation"] for text in held)
    assert read(corpus, "validation", "en") == read(corpus, "validation", "de")


def test_documents_without_text_are_held_out_by_no_limit():
    documents = ["", "a", ("a", ""), ("", ""), ("a", "b")]
    assert list(hold_out(documents, "validation", 2**64)) == ["a", ("a", "b")]
    assert list(hold_out(documents, "train", 2**64)) == ["", ("a", ""), ("", "")]


@pytest.mark.parametrize("every", [2, 3, 4])
def test_titles_and_bodies_are_both_held_out(tmp_path, every):
    """Lines that alternate in any period; before, every so many lines were of one kind."""
    text = "".join(f"title {i}\n\nbody {i}\n" for i in range(200))
    (held,) = read(TextFiles({"en": write(tmp_path, x=text)}, validation_every=every), "validation")
    kinds = [text.split()[0] for text in held]
    assert len(held) == 400 // every
    assert stats.binomtest(kinds.count("title"), len(kinds)).pvalue > 1e-4


def test_shards_are_split_apart_from_each_other(tmp_path):
    folder = write(tmp_path, a="0\n1\n", b="2\n3\n4", c="5\n6\n", d="7\n")
    corpus = TextFiles({"en": folder}, validation_every=2, shard_bytes=5)
    train, validation = read(corpus), read(corpus, "validation")
    assert len(train) == len(validation) == 2
    assert [sorted(a + b) for a, b in zip(train, validation, strict=True)] == [
        list("01234"),
        list("567"),
    ]
    assert list(texts(corpus, "en", "validation")) == validation[0] + validation[1]
    assert len(validation[0] + validation[1]) == 4


def test_nothing_is_held_out_of_files_with_files_for_validation(tmp_path):
    train, valid = write(tmp_path / "t", x="1\n2\n3"), write(tmp_path / "v", x="3\n")
    corpus = TextFiles({"en": train}, validation_every=2, validation_files={"en": valid})
    assert (read(corpus), read(corpus, "validation")) == ([["1", "2", "3"]], [["3"]])


LINKS = {
    "the same folder": lambda folder: str(folder),
    "a glob into it": lambda folder: f"{folder}/*.txt",
    "a file of it": lambda folder: f"{folder}/x.txt",
    "a roundabout path": lambda folder: f"{folder}/../{folder.name}",
    "a link to it": lambda folder: link(folder.parent / "link", folder),
    "a link to a file of it": lambda folder: link(folder.parent / "y.txt", folder / "x.txt"),
    "a hard link": lambda folder: link(folder.parent / "z.txt", folder / "x.txt", hard=True),
}


def link(path, target, hard=False):
    path.hardlink_to(target) if hard else path.symlink_to(target)
    return str(path)


@pytest.mark.parametrize("way", LINKS)
def test_text_that_is_trained_on_is_not_validated_on(tmp_path, way):
    write(tmp_path / "t", x="1\n2", y="3")
    again = LINKS[way](tmp_path / "t")
    with pytest.raises(UserError, match=r"validation_files\['en'\] = .*: is trained on too; take"):
        TextFiles({"en": str(tmp_path / "t")}, validation_files={"en": again})
    with pytest.raises(UserError, match=r"is (trained on|read as en) too"):
        files = {"en": str(tmp_path / "t"), "de": write(tmp_path / "d", x="1")}
        TextFiles(files, validation_files={"de": again})


@pytest.mark.parametrize("way", LINKS)
def test_text_is_of_one_language(tmp_path, way):
    write(tmp_path / "t", x="1\n2", y="3")
    again = LINKS[way](tmp_path / "t")
    with pytest.raises(UserError, match=r"files\['en'\] = .*: is read as de too; name it for one"):
        TextFiles({"de": again, "en": str(tmp_path / "t")})
    TextFiles({"de": again, "en": str(tmp_path / "t")}, languages=("en",))


def test_a_file_with_several_names_is_read_once(tmp_path):
    write(tmp_path / "t", x="1\n2")
    link(tmp_path / "t" / "soft.txt", tmp_path / "t" / "x.txt")
    link(tmp_path / "t" / "zhard.txt", tmp_path / "t" / "x.txt", hard=True)
    corpus = TextFiles({"en": [str(tmp_path / "t"), f"{tmp_path}/t/*.txt"]}, validation_every=2)
    assert sorted(read(corpus)[0] + read(corpus, "validation")[0]) == ["1", "2"]


def test_validation_files(tmp_path):
    train, valid = write(tmp_path / "t", x="1\n2\n3"), write(tmp_path / "v", x="4\n5", y="6")
    corpus = TextFiles(
        {"en": train, "de": write(tmp_path / "d", x="1")},
        validation_every=2,
        validation_files={"en": valid},
        shard_bytes=1,
    )
    assert read(corpus) == [["1", "2", "3"]]
    assert read(corpus, "validation") == [["4", "5"], ["6"]]
    assert read(corpus, "validation", "de") == []


def test_languages_may_be_chosen(tmp_path):
    folder, other, valid = (write(tmp_path / name, x="text") for name in "abc")
    files = {"en": folder, "de": other, "gone": f"{tmp_path}/gone"}
    corpus = TextFiles(files, languages=["en", "de"], validation_files={"de": valid})
    assert corpus.languages == ("de", "en")
    with pytest.raises(UserError) as error:
        TextFiles(files, languages=["fr", "en"])
    message = "TextFiles.languages = ['fr']: not in TextFiles.files, which has de, en, gone."
    assert message in str(error.value)


def test_bad_records_are_skipped_once_and_in_place(tmp_path):
    folder = write(tmp_path, a=b"0\n\xff\n1\n2\n", b=b"\xff\n\xff\n", c="3\n4\n5\n")
    corpus = TextFiles({"en": folder}, validation_every=2, on_bad_record="skip")
    (trained,), (held,) = read(corpus), read(corpus, "validation")
    bad = ["a.txt:2", "b.txt:1", "b.txt:2"]
    assert [x for x in trained if ":" in x] == bad and not any(":" in x for x in held)
    assert sorted([x for x in trained if ":" not in x] + held) == list("012345")
    before = [x for x in "0" if x not in held]
    assert trained[: len(before) + 1] == [*before, "a.txt:2"], "in the place of its line"
    assert list(texts(corpus, "en", "train")) == [x for x in trained if ":" not in x]


def test_bad_records_of_validation_files_belong_to_validation(tmp_path):
    train, valid = write(tmp_path / "t", x="1"), write(tmp_path / "v", x=b"\xff\n2")
    corpus = TextFiles({"en": train}, validation_files={"en": valid}, on_bad_record="skip")
    assert (read(corpus), read(corpus, "validation")) == ([["1"]], [["x.txt:1", "2"]])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_bad_records_are_errors_unless_skipped(tmp_path, split):
    folder = write(tmp_path, x=b"1\n2\n\xff\n")
    documents = TextFiles({"en": folder}, validation_every=2).documents("en", split, 0)
    assert next(documents) in ("1", "2")
    with pytest.raises(UserError) as error:
        next(documents)
    assert str(error.value) == (
        f"TextFiles.files['en'] = '{folder}/x.txt:3': this line is not valid UTF-8; convert the "
        "file to UTF-8. Or skip such records: TextFiles.on_bad_record = 'skip'."
    )


@pytest.mark.parametrize("document", ["line", "blank_line"])
def test_a_file_that_is_cut_off_does_not_end_the_shard(tmp_path, document):
    data = gzip.compress("".join(f"{i}\n\n" for i in range(3000)).encode())
    (tmp_path / "b.txt.gz").write_bytes(data[: len(data) // 2])
    folder = write(tmp_path, a="a", c="c")
    corpus = TextFiles({"en": folder}, document=document, on_bad_record="skip")
    (found,) = read(corpus)
    places = {name: found.index(name) for name in ("b.txt.gz", "500")}
    assert places["500"] < places["b.txt.gz"] >= len(found) - 2
    with pytest.raises(UserError, match=r"b\.txt\.gz': cannot be decompressed"):
        read(TextFiles({"en": folder}, document=document))


def test_a_file_that_vanished_keeps_the_shards_of_the_others(tmp_path):
    folder = write(tmp_path, a="0\n1\n", b="2\n3\n", c="4\n")
    valid = {"en": write(tmp_path / "v", x="5")}
    raising = TextFiles({"en": f"{folder}/*.txt"}, shard_bytes=4, validation_files=valid)
    skipping = dataclasses.replace(raising, on_bad_record="skip")
    fingerprint = skipping.fingerprint()
    (tmp_path / "b.txt").unlink()
    assert read(skipping) == [["0", "1"], ["b.txt"], ["4"]]
    assert skipping.fingerprint() == fingerprint
    assert list(raising.documents("en", "train", 0)) == ["0", "1"]
    with pytest.raises(UserError, match=r"b\.txt': cannot be read: No such file or directory"):
        list(raising.documents("en", "train", 1))
    again = TextFiles({"en": f"{folder}/*.txt"}, shard_bytes=4, validation_files=valid)
    assert again.fingerprint() != raising.fingerprint()


def test_files_without_text_are_no_errors(tmp_path):
    folder = write(tmp_path, a="", b="\n \n")
    assert read(TextFiles({"en": folder}, shard_bytes=1)) == [["", ""]]
    assert (
        list(all_documents(TextFiles({"en": folder}, document="blank_line"), "en", "train")) == []
    )


def test_other_processes_see_the_same_corpus(tmp_path):
    corpus = TextFiles({"en": write(tmp_path, a="0\n1\n")}, validation_every=2)
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy == corpus and copy.fingerprint() == corpus.fingerprint()
    assert read(copy) == read(corpus) and len(read(copy)[0]) == 1


def test_fingerprint_stays_when_the_text_moves_or_is_touched(tmp_path):
    folder = tmp_path / "old"
    write(folder, a="1\n2\n3")
    write(folder / "sub", a="4")

    def fingerprints(folder):
        patterns = [str(folder), f"{folder}/**/*.txt", [f"{folder}/a.txt", f"{folder}/sub"]]
        return [TextFiles({"en": pattern}).fingerprint() for pattern in patterns]

    before = fingerprints(folder)
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)  # with new times
    assert fingerprints(tmp_path / "copy") == before
    for path in folder.rglob("*.txt"):
        os.utime(path, ns=(1, 1))
    assert fingerprints(folder) == before
    shutil.move(folder, tmp_path / "new")
    assert fingerprints(tmp_path / "new") == before


def test_fingerprint_changes_with_the_text_and_with_every_setting(tmp_path):
    folder = write(tmp_path / "x", a="1\n2\n3", b="4")
    files = {"en": folder, "de": write(tmp_path / "d", a="5")}
    other = {
        "files": {"en": folder},
        "languages": ("en",),
        "validation_every": 7,
        "validation_files": {"en": write(tmp_path / "v", a="6")},
        "on_bad_record": "skip",
        "max_document_bytes": 9,
        "shard_bytes": 1,
        "document": "blank_line",
        "json_field": "body",
    }
    changed = [TextFiles(**({"files": files} | {name: value})) for name, value in other.items()]
    prints = [corpus.fingerprint() for corpus in (TextFiles(files), *changed)]
    assert prints[0] == TextFiles(files).fingerprint()
    assert prints[1] == prints[2], "languages that are not read do not matter"
    write(tmp_path / "x", a="1\n9\n3")  # as long as before
    prints.append(TextFiles(files).fingerprint())
    os.rename(f"{folder}/a.txt", f"{folder}/aa.txt")
    prints.append(TextFiles(files).fingerprint())
    os.rename(f"{folder}/aa.txt", f"{folder}/c.txt")  # behind b.txt
    prints.append(TextFiles(files).fingerprint())
    assert len(set(prints)) == len(prints) - 1


def test_contents_name_files_and_settings(tmp_path):
    write(tmp_path / "a", x="1\n")
    write(tmp_path / "b", x="2\n")
    corpus = TextFiles({"en": [str(tmp_path / "a"), str(tmp_path / "b")]})
    contents = corpus.contents()
    assert list(contents) == ["train/en/x.txt", "train/en/x.txt (2)", "settings"]
    assert contents["train/en/x.txt (2)"] == hashlib.sha256(b"2\n").hexdigest()
    assert json.loads(contents["settings"])["validation_every"] == 100


@pytest.mark.parametrize("when", ["between the splits", "while it is read", "before it is read"])
def test_text_that_changes_between_two_readings_is_noticed(tmp_path, when):
    """Same size; what counts is what was read."""
    folder = write(tmp_path, x="aaa\nbbb\nccc\n" * 30_000)
    corpus = TextFiles({"en": folder}, validation_every=2)
    if when == "before it is read":
        corpus.fingerprint()
        write(tmp_path, x="aaa\nddd\nccc\n" * 30_000)
    if when == "between the splits":
        list(corpus.documents("en", "train", 0))
        write(tmp_path, x="aaa\nddd\nccc\n" * 30_000)
    documents = corpus.documents("en", "validation", 0)
    if when == "while it is read":
        next(documents)
        write(tmp_path, x="aaa\nddd\nccc\n" * 30_000)
    with pytest.raises(
        UserError, match=r"x\.txt': changed while it was read; leave the text alone"
    ):
        list(documents)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"files": None}, "TextFiles.files = None: no text given; set it to a folder or glob per"),
        ({"files": ["{tmp}"]}, "set it to a folder or glob per language, such as {'en': "),
        ({"files": {"en": []}}, "TextFiles.files['en'] = []: name a folder or a glob."),
        ({"files": {"en": "{tmp}/gone"}}, "gone': no such file or folder; check the path or glob."),
        ({"validation_every": 1}, "TextFiles.validation_every = 1: must be at least 2"),
        (
            {"on_bad_record": "ignore"},
            "TextFiles.on_bad_record = 'ignore': choose one of raise, skip",
        ),
        ({"max_document_bytes": 0}, "TextFiles.max_document_bytes = 0: must be at least 1"),
        ({"shard_bytes": 0}, "TextFiles.shard_bytes = 0: must be at least 1"),
        ({"languages": "en"}, "TextFiles.languages = 'en': write a list: ['en']"),
        (
            {"validation_files": {"en": "{tmp}/gone"}},
            "TextFiles.validation_files['en'] = '{tmp}/gone': no such file or folder",
        ),
        (
            {"validation_files": {"de": "{tmp}"}},
            "TextFiles.validation_files = ['de']: these languages have no training files; "
            "TextFiles.files has en.",
        ),
    ],
)
def test_wrong_settings_are_refused(tmp_path, settings, message):
    write(tmp_path, good="text")

    def fill(value):
        if isinstance(value, dict):
            return {key: fill(inner) for key, inner in value.items()}
        return value.replace("{tmp}", str(tmp_path)) if isinstance(value, str) else value

    with pytest.raises(UserError) as error:
        TextFiles(**fill({"files": {"en": "{tmp}"}} | settings))
    assert fill(message) in str(error.value)
