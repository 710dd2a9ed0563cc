"""What holds for all corpora of files, shown with texts: splits, shards, skips, fingerprints."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil

import pytest

from seqrecipes.data.corpora.corpus import BadRecord, all_documents, texts
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


def test_every_so_many_documents_are_for_validation(tmp_path):
    folder = write(tmp_path, x="\n".join(map(str, range(10))))
    corpus = TextFiles({"en": folder}, validation_every=4)
    assert read(corpus, "validation") == [["3", "7"]]
    assert read(corpus) == [["0", "1", "2", "4", "5", "6", "8", "9"]]


def test_shards_are_split_apart_from_each_other(tmp_path):
    folder = write(tmp_path, a="0\n1\n", b="2\n3\n4", c="5\n6\n", d="7\n")
    corpus = TextFiles({"en": folder}, validation_every=2, shard_bytes=5)
    assert read(corpus) == [["0", "2", "4"], ["5", "7"]]
    assert read(corpus, "validation") == [["1", "3"], ["6"]]
    assert list(texts(corpus, "en", "validation")) == ["1", "3", "6"]


def test_validation_files(tmp_path):
    train, valid = write(tmp_path / "t", x="1\n2\n3"), write(tmp_path / "v", x="4\n5", y="6")
    corpus = TextFiles(
        {"en": train, "de": train},
        validation_every=2,
        validation_files={"en": valid},
        shard_bytes=1,
    )
    assert read(corpus) == [["1", "2", "3"]]
    assert read(corpus, "validation") == [["4", "5"], ["6"]]
    assert read(corpus, "validation", "de") == []


def test_languages_may_be_chosen(tmp_path):
    folder = write(tmp_path, x="text")
    files = {"en": folder, "de": folder, "gone": f"{tmp_path}/gone"}
    corpus = TextFiles(files, languages=["en", "de"], validation_files={"de": folder, "en": folder})
    assert corpus.languages == ("de", "en")
    with pytest.raises(UserError) as error:
        TextFiles(files, languages=["fr", "en"])
    message = "TextFiles.languages = ['fr']: not in TextFiles.files, which has de, en, gone."
    assert message in str(error.value)


def test_bad_records_are_skipped_once_and_in_place(tmp_path):
    folder = write(tmp_path, a=b"0\n\xff\n1\n2\n", b=b"\xff\n\xff\n", c="3\n4\n5\n")
    corpus = TextFiles({"en": folder}, validation_every=2, on_bad_record="skip")
    assert read(corpus) == [["0", "a.txt:2", "2", "b.txt:1", "b.txt:2", "4"]]
    assert read(corpus, "validation") == [["1", "3", "5"]]
    assert list(texts(corpus, "en", "train")) == ["0", "2", "4"]


def test_bad_records_of_validation_files_belong_to_validation(tmp_path):
    train, valid = write(tmp_path / "t", x="1"), write(tmp_path / "v", x=b"\xff\n2")
    corpus = TextFiles({"en": train}, validation_files={"en": valid}, on_bad_record="skip")
    assert (read(corpus), read(corpus, "validation")) == ([["1"]], [["x.txt:1", "2"]])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_bad_records_are_errors_unless_skipped(tmp_path, split):
    folder = write(tmp_path, x=b"1\n2\n\xff\n")
    documents = TextFiles({"en": folder}, validation_every=2).documents("en", split, 0)
    assert next(documents) == ("1" if split == "train" else "2")
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
    assert found[0] == "a" and found[-2:] == ["b.txt.gz", "c"] and "500" in found
    with pytest.raises(UserError, match=r"b\.txt\.gz': cannot be decompressed"):
        read(TextFiles({"en": folder}, document=document))


def test_a_file_that_vanished_keeps_the_shards_of_the_others(tmp_path):
    folder = write(tmp_path, a="0\n1\n", b="2\n3\n", c="4\n")
    raising = TextFiles({"en": folder}, shard_bytes=4)
    skipping = TextFiles({"en": folder}, shard_bytes=4, on_bad_record="skip")
    fingerprint = skipping.fingerprint()
    (tmp_path / "b.txt").unlink()
    assert read(skipping) == [["0", "1"], ["b.txt"], ["4"]]
    assert skipping.fingerprint() == fingerprint
    assert list(raising.documents("en", "train", 0)) == ["0", "1"]
    with pytest.raises(UserError, match=r"b\.txt': cannot be read: No such file or directory"):
        list(raising.documents("en", "train", 1))
    assert TextFiles({"en": folder}, shard_bytes=4).fingerprint() != raising.fingerprint()


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
    assert read(copy) == [["0"]]


def test_fingerprint_stays_when_the_text_moves(tmp_path):
    folder = tmp_path / "old"
    write(folder, a="1\n2\n3")
    write(folder / "sub", a="4")

    def fingerprints(folder):
        patterns = [str(folder), f"{folder}/**/*.txt", [f"{folder}/a.txt", f"{folder}/sub"]]
        return [TextFiles({"en": pattern}).fingerprint() for pattern in patterns]

    before = fingerprints(folder)
    shutil.copytree(folder, tmp_path / "copy")  # keeps times
    assert fingerprints(tmp_path / "copy") == before
    shutil.move(folder, tmp_path / "new")
    assert fingerprints(tmp_path / "new") == before


def test_fingerprint_changes_with_the_text_and_with_every_setting(tmp_path):
    folder = write(tmp_path / "x", a="1\n2\n3", b="4")
    files = {"en": folder, "de": folder}
    other = {
        "files": {"en": folder},
        "languages": ("en",),
        "validation_every": 7,
        "validation_files": {"en": folder},
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
    os.utime(f"{folder}/a.txt", ns=(1, 1))
    prints.append(TextFiles(files).fingerprint())
    write(tmp_path / "x", a="1\n2\n3\n")
    os.utime(f"{folder}/a.txt", ns=(1, 1))
    prints.append(TextFiles(files).fingerprint())
    os.rename(f"{folder}/a.txt", f"{folder}/aa.txt")
    prints.append(TextFiles(files).fingerprint())
    assert len(set(prints)) == len(prints) - 1


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
