"""Prepared blocks: content, reuse, and what a killed run leaves behind."""

from __future__ import annotations

import json
import math
import os
from collections import Counter

import gin
import numpy as np
import pytest

from seqrecipes.data.blocks import Blocks, prepare_blocks
from seqrecipes.data.corpora import SampleCorpus, TextFiles
from seqrecipes.data.tasks import get_task
from seqrecipes.errors import UserError

PAYLOAD = 62


def expected_blocks(vocabulary, language, split):
    """Blocks of the sample, token by token."""
    tokens: list[int] = []
    for document in SampleCorpus().documents(language, split):
        if tokens and 0 < len(tokens) % PAYLOAD < PAYLOAD - 1:
            tokens.append(vocabulary.doc_id)
        tokens += vocabulary.encode(document)
    return [tokens[i : i + PAYLOAD] for i in range(0, len(tokens), PAYLOAD)]


def test_blocks_are_the_tokenized_sample(sample_blocks, vocabulary):
    specials, unigram = 0, Counter()
    for split in ("train", "validation"):
        counts = sample_blocks.counts(split)
        for i, language in enumerate(sample_blocks.languages):
            expected = expected_blocks(vocabulary, language, split)
            found = [sample_blocks.block(split, i, b) for b in range(counts[i])]
            assert [block.tolist() for block in found] == expected
            assert all(block.dtype == np.int32 for block in found)
            special_ids = {0, 1, 2, 3, vocabulary.mask_id, vocabulary.doc_id}
            specials = max(specials, *(sum(t in special_ids for t in b) for b in expected))
            if split == "train":
                unigram.update(token for block in expected for token in block)

            statistics = sample_blocks.manifest["splits"][split][language]
            documents = list(SampleCorpus().documents(language, split))
            assert statistics == {
                "documents": len(documents),
                "empty_documents": 0,
                "characters": sum(map(len, documents)),
                "tokens": sum(map(len, expected)),
                "unknown_tokens": sum(block.count(3) for block in expected),
                "blocks": len(expected),
                "last_block": len(expected[-1]),
            }
    assert sample_blocks.max_specials == specials
    assert sample_blocks.unigram.tolist() == [unigram[i] for i in range(2000)]
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
            for token in sample_blocks.block("validation", i, b):
                total -= math.log((train[token] + 1) / (sum(train) + 2000))
                tokens += 1
    assert sample_blocks.unigram_entropy() == pytest.approx(total / tokens)
    assert 4 < sample_blocks.unigram_entropy() < math.log(2000)


def test_blocks_are_made_once(sample_blocks, cache_dir, monkeypatch):
    for objective in ("mlm", "span_drop", "span_mask"):
        task = get_task("sample", objective)
        monkeypatch.setattr(task, "packed_blocks", None)  # not to be called
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


def test_a_killed_run_leaves_nothing_that_is_used(configured, tmp_path):
    task = get_task("sample", "mlm")

    class Killed(BaseException):
        pass

    def killed(split, payload, original=task.packed_blocks):
        for i, block in enumerate(original(split, payload)):
            if i == 20:
                raise Killed
            yield block

    task.packed_blocks = killed
    try:
        with pytest.raises(Killed):
            prepare_blocks(task, PAYLOAD, tmp_path)
    finally:
        del task.packed_blocks
    (leftover,) = tmp_path.glob("*.partial")
    (leftover / "stray").write_text("of another time")
    blocks = prepare_blocks(task, PAYLOAD, tmp_path)
    assert not (blocks.folder / "stray").exists()
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [blocks.folder.name]


def test_empty_documents_are_counted(configured, tmp_path):
    (tmp_path / "en.txt").write_text("one\n\n\ntwo\n\n")
    gin.bind_parameter("TextFiles.files", {"en": str(tmp_path / "en.txt")})
    blocks = prepare_blocks(get_task("text", "mlm"), 1000, tmp_path)
    statistics = blocks.manifest["splits"]["train"]["en"]
    assert (statistics["documents"], statistics["empty_documents"]) == (5, 3)
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
    manifest["specials"] |= {"mask": 250_000, "doc": 250_001, "vocab_size": 250_002}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    np.save(tmp_path / "unigram.npy", np.zeros(250_002, np.int64))
    ids.tofile(tmp_path / f"train-{sample_blocks.languages[0]}.tokens")
    assert Blocks(tmp_path).block("train", 0, 0).tolist() == ids.tolist()
    assert (
        os.path.getsize(next(sample_blocks.folder.glob("train-en.*")))
        == 2 * sample_blocks.manifest["splits"]["train"]["en"]["tokens"]
    )


def test_corpora_agree(configured, tmp_path, sample_blocks):
    """The sample read as somebody's own text gives the tokens of the sample."""
    for language in ("en", "ja"):
        documents = list(SampleCorpus().documents(language, "train"))
        (tmp_path / f"{language}.txt").write_text("\n".join(documents), "utf-8")
    gin.bind_parameter("TextFiles.files", {x: f"{tmp_path}/{x}.txt" for x in ("en", "ja")})
    blocks = prepare_blocks(get_task("text", "mlm"), PAYLOAD, tmp_path)
    assert TextFiles().languages == blocks.languages == ("en", "ja")
    for i, language in enumerate(blocks.languages):
        j = sample_blocks.languages.index(language)
        for b in range(blocks.counts("train")[i]):
            assert (blocks.block("train", i, b) == sample_blocks.block("train", j, b)).all()
