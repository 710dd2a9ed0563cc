"""Prepared blocks: content, reuse, and what a killed run leaves behind."""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections import Counter

import gin
import numpy as np
import pytest

from seqrecipes.data.blocks import Blocks, find_prepared, wanted_records
from seqrecipes.data.corpora.sample import SampleCorpus, SampleParallel
from seqrecipes.data.corpora.text_files import TextFiles
from seqrecipes.data.objectives.base import example_index
from seqrecipes.data.preparation import prepare_blocks
from seqrecipes.data.tasks import PretrainingTask, get_task
from seqrecipes.errors import UserError

PAYLOAD = 62


def expected_blocks(vocabulary, language, split):
    """Blocks of the sample, token by token."""
    tokens: list[int] = []
    for document in SampleCorpus().documents(language, split, 0):
        if tokens and 0 < len(tokens) % PAYLOAD < PAYLOAD - 1:
            tokens.append(vocabulary.doc_id)
        tokens += vocabulary.tokenizer.encode(document)
    return [tokens[i : i + PAYLOAD] for i in range(0, len(tokens), PAYLOAD)]


def test_blocks_are_the_tokenized_sample(sample_blocks, vocabulary):
    specials, unigram = 0, Counter()
    for split in ("train", "validation"):
        counts = sample_blocks.counts(split)
        for i, language in enumerate(sample_blocks.languages):
            expected = expected_blocks(vocabulary, language, split)
            records = [sample_blocks.record(split, i, b) for b in range(counts[i])]
            assert [r[0] for r in records] == [
                example_index(language, 0, b) for b in range(counts[i])
            ]
            found = [block for _, (block,) in records]
            assert [block.tolist() for block in found] == expected
            assert all(block.dtype == np.int32 for block in found)
            special_ids = {0, 1, 2, 3, vocabulary.mask_id, vocabulary.doc_id}
            specials = max(specials, *(sum(t in special_ids for t in b) for b in expected))
            if split == "train":
                unigram.update(token for block in expected for token in block)

            statistics = sample_blocks.manifest["splits"][split][language]
            documents = list(SampleCorpus().documents(language, split, 0))
            assert statistics == {
                "documents": len(documents),
                "empty_documents": 0,
                "characters": sum(map(len, documents)),
                "tokens": sum(map(len, expected)),
                "unknown_tokens": sum(block.count(3) for block in expected),
                "blocks": len(expected),
                "cut_documents": 0,
                "bad_records": 0,
            }
    assert sample_blocks.max_specials == specials
    assert sample_blocks.unigram.tolist() == [unigram[i] for i in range(vocabulary.size)]
    assert sample_blocks.tokens("train") == sum(unigram.values())


def test_manifest_names_what_the_blocks_were_made_of(sample_blocks, vocabulary):
    assert sample_blocks.languages == SampleCorpus().languages
    assert sample_blocks.payload == PAYLOAD
    assert sample_blocks.specials == vocabulary.specials
    assert sample_blocks.vocabulary_checksum == vocabulary.checksum
    assert sample_blocks.manifest["corpus_fingerprint"] == SampleCorpus().fingerprint()


def test_unigram_entropy_by_hand(sample_blocks):
    train, total, tokens = sample_blocks.unigram, 0.0, 0
    for i, count in enumerate(sample_blocks.counts("validation")):
        for b in range(count):
            for token in sample_blocks.record("validation", i, b)[1][0]:
                total -= math.log((train[token] + 1) / (sum(train) + len(train)))
                tokens += 1
    assert sample_blocks.unigram_entropy() == pytest.approx(total / tokens)
    assert 4 < sample_blocks.unigram_entropy() < math.log(2000)


def test_blocks_are_made_once(sample_blocks, cache_dir, monkeypatch):
    monkeypatch.setattr(PretrainingTask, "records", None)  # not to be called
    for objective in ("mlm", "span_drop", "span_mask"):
        task = get_task("sample", objective)
        assert prepare_blocks(task, PAYLOAD, cache_dir).folder == sample_blocks.folder


def test_payload_vocabulary_and_text_each_make_new_blocks(configured, tmp_path):
    gin.bind_parameter("TextFiles.files", {"en": str(tmp_path / "text")})
    (tmp_path / "text").mkdir()
    path = tmp_path / "text" / "x.txt"
    path.write_text("one two\nthree four\n" * 60)
    task = get_task("text", "mlm")
    folders = [prepare_blocks(task, n, tmp_path).folder for n in (10, 12, 10)]
    assert folders[0] == folders[2] != folders[1]
    path.write_text("one two\nthree four\n" * 61)
    assert prepare_blocks(task, 10, tmp_path).folder not in folders
    gin.bind_parameter("TextFiles.validation_every", 5)
    assert len({prepare_blocks(task, 10, tmp_path).folder, *folders}) == 3


def test_work_that_was_cut_off_goes_on(configured, tmp_path, monkeypatch, sample_blocks):
    task, original = get_task("sample", "mlm"), PretrainingTask.records

    class Killed(BaseException):
        pass

    def killed(self, split, language, shard, seen):
        for number, record in enumerate(original(self, split, language, shard, seen)):
            if (language, shard, number) == ("es", 0, 20):
                raise Killed
            yield record

    monkeypatch.setattr(PretrainingTask, "records", killed)
    with pytest.raises(Killed):
        prepare_blocks(task, PAYLOAD, tmp_path)
    (folder,) = (p for p in tmp_path.iterdir() if p.is_dir())
    with pytest.raises(UserError, match="is not complete"):
        Blocks(folder)
    assert not list(folder.rglob("*.partial"))
    (folder / "train" / "es-00000.tokens.0.partial").write_text("of a process that was killed")

    redone = []
    monkeypatch.setattr(
        PretrainingTask,
        "records",
        lambda self, *shard: redone.append(shard[1]) or original(self, *shard),
    )
    blocks = prepare_blocks(task, PAYLOAD, tmp_path)
    assert redone == [*SampleCorpus.languages[3:], *SampleCorpus.languages]
    assert not list(folder.rglob("*.partial"))
    assert blocks.manifest == sample_blocks.manifest
    assert list(blocks.verify()) == list(sample_blocks.verify())


def test_empty_documents_are_counted(configured, tmp_path):
    (tmp_path / "en.txt").write_text("one\n\n\ntwo\n\n")
    gin.bind_parameter("TextFiles.files", {"en": str(tmp_path / "en.txt")})
    blocks = prepare_blocks(get_task("text", "mlm"), 1000, tmp_path)
    splits = blocks.manifest["splits"]
    counts = [(s["en"]["documents"], s["en"]["empty_documents"]) for s in splits.values()]
    assert counts == [(4, 3), (1, 0)], "of two with text, one is for validation"
    (tmp_path / "en.txt").write_text("one\n\n\none\n\n")
    blocks = prepare_blocks(get_task("text", "mlm"), 1000, tmp_path)
    assert blocks.counts("validation").tolist() == [0]
    with pytest.raises(UserError, match="no validation text"):
        blocks.unigram_entropy()


def test_what_is_wrong_with_a_file_comes_through(configured, tmp_path):
    (tmp_path / "en.txt").write_bytes(b"good\n" * 700 + b"\xff\n")
    gin.bind_parameter("TextFiles.files", {"en": str(tmp_path / "en.txt")})
    with pytest.raises(UserError, match=r"en\.txt:701': this line is not valid UTF-8"):
        prepare_blocks(get_task("text", "mlm"), 20, tmp_path)


def test_a_missing_vocabulary_is_told_before_reading(configured, tmp_path):
    gin.bind_parameter("pretraining_vocabulary.path", str(tmp_path / "none.model"))
    with pytest.raises(UserError, match=r"none\.model': the file cannot be read; train one"):
        prepare_blocks(get_task("sample", "mlm"), 20, tmp_path)
    gin.clear_config()
    with pytest.raises(UserError, match=r"pretraining_vocabulary\.path = None: set it to"):
        prepare_blocks(get_task("sample", "mlm"), 20, tmp_path)
    with pytest.raises(UserError, match=r"TextFiles\.files = None"):
        prepare_blocks(get_task("text", "mlm"), 20, tmp_path)


def test_wide_vocabularies_use_wide_files(sample_blocks, tmp_path):
    """Ids above 65535 are stored whole (a folder written by hand)."""
    ids = np.array([70_000, 4, 250_001], np.uint32)
    manifest = json.loads((sample_blocks.folder / "manifest.json").read_text())
    manifest["specials"] |= {"mask": 250_000, "doc": 250_001, "vocab_size": 250_002, "sentinels": 0}
    manifest["languages"] = ["en"]
    manifest["shards"] = {"train": {"en": [{"tokens": 3, "blocks": 1}]}, "validation": {"en": []}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    np.save(tmp_path / "unigram.npy", np.zeros(250_002, np.int64))
    (tmp_path / "train").mkdir()
    ids.tofile(tmp_path / "train" / "en-00000.tokens")
    crc32 = zlib.crc32(ids.tobytes(), 3)  # of the ids as stored, begun with their number
    (tmp_path / "train" / "en-00000.crc32").write_bytes(crc32.to_bytes(4, "little"))
    assert Blocks(tmp_path).record("train", 0, 0)[1][0].tolist() == ids.tolist()
    assert (
        os.path.getsize(sample_blocks.folder / "train" / "en-00000.tokens")
        == 2 * sample_blocks.manifest["splits"]["train"]["en"]["tokens"]
    )


@pytest.fixture
def broken(prepared, tmp_path):
    """Blocks of which a file may be damaged: of pairs, in a folder of their own."""
    shutil.copytree(prepared("tlm").folder, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("name", ["de-en-00000.tokens", "de-en-00000.ends"])
def test_files_that_are_not_what_they_were_are_named(broken, name):
    path = broken / "train" / name
    data = path.read_bytes()
    blocks = Blocks(broken)
    path.write_bytes(data[:-8])
    with pytest.raises(UserError, match=f"{name}.*: is cut off; restore it"):
        for block in range(blocks.counts("train")[1]):
            blocks.record("train", 1, block)
    with pytest.raises(UserError, match=f"{name}.*{len(data) - 8} bytes in place of {len(data)}"):
        Blocks(broken)
    path.unlink()
    with pytest.raises(UserError, match=f"{name}.*is missing"):
        Blocks(broken)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match=r"de-en-00000\.tokens.*its checksum is not what it was"):
        list(Blocks(broken).verify())
    path.write_bytes(data)
    assert len(list(Blocks(broken).verify())) == 22


def test_a_file_that_vanishes_before_it_was_read_is_named(broken):
    blocks = Blocks(broken)
    (broken / "train" / "de-en-00000.tokens").unlink()
    with pytest.raises(UserError, match=r"de-en-00000\.tokens.*cannot be read \(No such file"):
        blocks.record("train", 1, 0)


def test_a_file_that_vanishes_is_made_again(configured, tmp_path, sample_blocks):
    task = get_task("sample", "mlm")
    folder = prepare_blocks(task, PAYLOAD, tmp_path).folder
    (folder / "train" / "de-00000.tokens").unlink()
    assert prepare_blocks(task, PAYLOAD, tmp_path).manifest == sample_blocks.manifest


def test_few_files_are_open_at_a_time(sample_blocks, monkeypatch):
    monkeypatch.setattr("seqrecipes.data.blocks._OPEN_FILES", 3)
    blocks = Blocks(sample_blocks.folder)
    before = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
    for language in [*range(12), *range(12)]:
        (tokens,) = blocks.record("train", language, 2)[1]
        assert (tokens == sample_blocks.record("train", language, 2)[1][0]).all()
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 12 + 3


def test_translations_are_pairs_of_sentences(prepared, vocabulary):
    blocks = prepared("tlm")
    assert blocks.pairs and blocks.languages == SampleParallel().languages
    for i, language in enumerate(blocks.languages):
        documents = SampleParallel().documents(language, "train", 0)
        expected = [tuple(vocabulary.tokenizer.encode(side) for side in pair) for pair in documents]
        found = [blocks.record("train", i, b)[1] for b in range(blocks.counts("train")[i])]
        cut = [tuple(side[: blocks.payload] for side in pair) for pair in expected]
        assert [tuple(side.tolist() for side in pair) for pair in found] == cut
        statistics = blocks.manifest["splits"]["train"][language]
        assert statistics["cut_documents"] == sum(
            a != b for a, b in zip(cut, expected, strict=True)
        )


def test_adjacent_segments_are_halves_of_documents(prepared, vocabulary):
    blocks = prepared("adjacent_mlm")
    for i, language in enumerate(blocks.languages):
        expected = []
        for document in SampleCorpus().documents(language, "validation", 0):
            tokens = vocabulary.tokenizer.encode(document)
            for start in range(0, len(tokens), 2 * blocks.payload):
                piece = tokens[start : start + 2 * blocks.payload]
                half = (len(piece) + 1) // 2
                if len(piece) > 1:
                    expected.append([piece[:half], piece[half:]])
        counts = blocks.counts("validation")
        found = [blocks.record("validation", i, b)[1] for b in range(counts[i])]
        assert [[side.tolist() for side in pair] for pair in found] == expected


def test_bad_records_are_counted_named_and_said(configured, tmp_path, caplog):
    good = b"".join(b"line %d\n" % i for i in range(30))
    (tmp_path / "en.txt").write_bytes(good + b"\xff\n" * 25 + b"fine\n")
    gin.bind_parameter("TextFiles.files", {"en": str(tmp_path / "en.txt")})
    gin.bind_parameter("TextFiles.on_bad_record", "skip")
    blocks = prepare_blocks(get_task("text", "mlm"), 20, tmp_path)
    statistics = blocks.manifest["splits"]["train"]["en"]
    assert (statistics["documents"], statistics["bad_records"]) == (30, 25)
    statistics = blocks.manifest["splits"]["validation"]["en"]
    assert (statistics["documents"], statistics["bad_records"]) == (1, 0)
    problems = blocks.manifest["shards"]["train"]["en"][0]["problems"]
    assert len(problems) == 20 and "en.txt:31: " in problems[0]
    assert "skipped 25 bad records" in caplog.text and "en.txt:31: " in caplog.text


def test_prepared_text_is_found_by_what_it_suits(prepared, vocabulary, cache_dir):
    blocks = prepared("mlm")
    prepared("tlm")
    wanted = {"corpus": "sample", "reads": "blocks", "payload": PAYLOAD, "join_pairs": False}
    wanted["vocabulary_checksum"] = vocabulary.checksum
    assert wanted == wanted_records(get_task("sample", "mlm"), PAYLOAD)
    found = find_prepared(cache_dir, wanted)
    assert found.folder == blocks.folder
    with pytest.raises(UserError, match="has corpus sample_parallel, reads translations"):
        find_prepared(cache_dir, wanted | {"payload": 7})
    with pytest.raises(UserError, match="has join_pairs False"):
        find_prepared(cache_dir, wanted | {"join_pairs": True})
    with pytest.raises(UserError, match="nothing complete is there"):
        find_prepared(cache_dir / "none", wanted)
    shutil.copytree(blocks.folder, cache_dir / "blocks-twin")
    try:
        with pytest.raises(UserError, match="blocks-twin all have corpus sample"):
            find_prepared(cache_dir, wanted)
    finally:
        shutil.rmtree(cache_dir / "blocks-twin")


def test_corpora_agree(configured, tmp_path, sample_blocks):
    """The sample read as somebody's own text gives the tokens of the sample."""
    for language in ("en", "ja"):
        for split in ("train", "validation"):
            documents = list(SampleCorpus().documents(language, split, 0))
            (tmp_path / f"{split}.{language}.txt").write_text("\n".join(documents), "utf-8")
    for name, split in (("files", "train"), ("validation_files", "validation")):
        files = {x: f"{tmp_path}/{split}.{x}.txt" for x in ("en", "ja")}
        gin.bind_parameter(f"TextFiles.{name}", files)
    blocks = prepare_blocks(get_task("text", "mlm"), PAYLOAD, tmp_path)
    assert TextFiles().languages == blocks.languages == ("en", "ja")
    for i, language in enumerate(blocks.languages):
        j = sample_blocks.languages.index(language)
        for b in range(blocks.counts("train")[i]):
            assert (
                blocks.record("train", i, b)[1][0] == sample_blocks.record("train", j, b)[1][0]
            ).all()
