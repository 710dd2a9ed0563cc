"""Packed records and text that are not what they were: noticed when they are read."""

from __future__ import annotations

import os
import random
import shutil

import gin
import pytest

from seqrecipes.data.blocks import Blocks
from seqrecipes.data.corpora import contents
from seqrecipes.data.preparation import prepare_blocks
from seqrecipes.data.tasks import PretrainingTask, get_task
from seqrecipes.errors import UserError


@pytest.fixture
def broken(prepared, tmp_path):
    """Blocks of which a file may be damaged: of pairs, in a folder of their own."""
    shutil.copytree(prepared("tlm").folder, tmp_path / "copy")
    return tmp_path / "copy"


def read_all(folder):
    blocks = Blocks(folder)
    for split in ("train", "validation"):
        for language, count in enumerate(blocks.counts(split)):
            for number in range(count):
                blocks.record(split, language, number)


@pytest.mark.parametrize("objective", ["mlm", "tlm"])
@pytest.mark.parametrize("suffix", [".tokens", ".ends", ".crc32"])
def test_a_bit_that_flipped_is_noticed_when_its_record_is_read(
    prepared, tmp_path, objective, suffix
):
    """Wherever it is, ids that the vocabulary has included."""
    folder = shutil.copytree(prepared(objective).folder, tmp_path / "copy")
    files = sorted(folder.glob(f"*/*{suffix}"))
    assert bool(files) == (suffix != ".ends" or objective == "tlm")
    read_all(folder)
    chance = random.Random(0)
    for _ in range(4 if files else 0):
        path = chance.choice([file for file in files if file.stat().st_size])
        data = path.read_bytes()
        bit = chance.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=rf"{path.stem}.*; restore it, or run"):
            read_all(folder)
        path.write_bytes(data)


@pytest.mark.parametrize("name", ["manifest.json", "unigram.npy"])
def test_damage_to_the_other_files_is_one_line(broken, name):
    (broken / name).write_bytes((broken / name).read_bytes()[:-40])
    with pytest.raises(UserError, match=r"its manifest or unigram\.npy is damaged .*; restore it"):
        Blocks(broken)


def test_text_that_changes_while_it_is_packed_is_refused(configured, tmp_path, monkeypatch):
    """Between the two splits; what was packed of it is not taken for the new text."""
    path, original = tmp_path / "text" / "en.txt", PretrainingTask.records
    path.parent.mkdir()
    path.write_text("".join(f"the river rises {i}\n" for i in range(60)))
    gin.bind_parameter("TextFiles.files", {"en": str(path.parent)})
    task = get_task("text", "mlm")
    before = task.corpus.fingerprint()

    def records(self, split, *shard):
        if split == "validation":
            path.write_text("".join(f"the river falls {i}\n" for i in range(60)))
        return original(self, split, *shard)

    monkeypatch.setattr(PretrainingTask, "records", records)
    with pytest.raises(UserError, match=r"en\.txt': changed while it was read; leave the text"):
        prepare_blocks(task, 20, tmp_path)
    assert not list(tmp_path.glob("*/manifest.json"))
    monkeypatch.undo()
    blocks = prepare_blocks(task, 20, tmp_path)
    assert blocks.manifest["corpus_fingerprint"] != before
    assert blocks.manifest["corpus_fingerprint"] == task.corpus.fingerprint()
    rises = task.vocabulary.tokenizer.encode("rises")
    found = [blocks.record("train", 0, n)[1][0].tolist() for n in range(blocks.counts("train")[0])]
    assert not any(set(rises) <= set(ids) for ids in found)


def test_checksums_of_the_text_are_kept_beside_what_is_packed(configured, tmp_path, monkeypatch):
    path = tmp_path / "text" / "en.txt"
    path.parent.mkdir()
    path.write_text("".join(f"the river rises {i}\n" for i in range(60)))
    gin.bind_parameter("TextFiles.files", {"en": str(path.parent)})
    task = get_task("text", "mlm")
    folder = prepare_blocks(task, 20, tmp_path).folder
    fingerprint = task.corpus.fingerprint()

    monkeypatch.setattr(contents, "_KNOWN", {})  # as in another process
    monkeypatch.setattr(contents, "Hashing", None)  # not to be read
    assert prepare_blocks(task, 20, tmp_path).folder == folder
    assert task.corpus.fingerprint() == fingerprint
    monkeypatch.undo()
    monkeypatch.setattr(contents, "_KNOWN", {})
    os.utime(path, ns=(1, 1))  # read again, and the same
    assert prepare_blocks(task, 20, tmp_path).folder == folder
    monkeypatch.setattr(contents, "_KNOWN", {})
    (tmp_path / contents.MEMORY_FILE).write_text("[[damaged")
    assert prepare_blocks(task, 20, tmp_path).folder == folder
