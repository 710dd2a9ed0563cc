"""Streams: padding, purity, and prefetching."""

from __future__ import annotations

import itertools
import threading
import time
import zlib
from collections import Counter

import gin
import numpy as np
import pytest

from seqrecipes.data.objectives import OBJECTIVES, Mlm, SpanDenoise
from seqrecipes.data.preparation import prepare_blocks
from seqrecipes.data.stream import prefetch, training_stream, validation_stream
from seqrecipes.data.tasks import get_task
from seqrecipes.errors import UserError


def originals(rows, specials):
    """The text of every example, with <s> and </s> around it, out of its features alone."""
    texts = []
    for row in range(len(next(iter(rows.values())))):
        features = {name: [t for t in ids[row].tolist() if t != 1] for name, ids in rows.items()}
        if "masked_targets" in features:
            names = [("encoder_input_tokens", "masked")]
        elif "first_input_tokens" in features:
            names = [(f"{side}_input_tokens", f"{side}_masked") for side in ("first", "second")]
        else:
            names = []
        text: list[int] = []
        for tokens, masked in names:
            segment = features[tokens]
            # A position 1 is no padding, so that these are read with their padding.
            targets = features[f"{masked}_targets"]
            positions = rows[f"{masked}_positions"][row].tolist()[: len(targets)]
            for position, target in zip(positions, targets, strict=True):
                segment[position] = target
            text += segment
        if not names:
            text = features["decoder_target_tokens"]
            if specials.sentinels and any(t >= specials.first_sentinel for t in text):
                spans: dict[int, list[int]] = {}
                for token in text[:-1]:
                    if token >= specials.first_sentinel:
                        span = spans.setdefault(token, [])
                    else:
                        span.append(token)
                source = features["encoder_input_tokens"]
                text = [t for token in source for t in spans.get(token, [token])]
        texts.append(tuple(text))
    return texts


def framed(name, record):
    """A record with <s> and </s> where its objective puts them."""
    if name in ("adjacent_mlm", "translation_mlm"):
        return tuple(t for part in record for t in (0, *part, 2))
    start = () if name.endswith("corruption") else (0,)
    return (*start, *(t for part in record for t in (*part, 2)))


def noise_by_hand(seed, epoch, language, shard, block):
    """NumPy's own Philox: 128 bits of key from the seed, a counter from what the example is."""
    counter = (0, shard, epoch, zlib.crc32(language.encode()) << 32 | block)
    key = np.array([seed, 0x6E6F697365], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array(counter, np.uint64)))


def packed_by_hand(task, payload, language):
    """The segments of the records of a language, from its text; the sample has one shard each."""
    vocabulary, records = task.vocabulary, []
    documents = list(task.corpus.documents(language, "train", 0))
    if task.objective.reads == "translations":
        return [
            tuple(vocabulary.tokenizer.encode(side)[:payload] for side in pair)
            for pair in documents
        ]
    if task.objective.reads == "adjacent":
        for tokens in map(vocabulary.tokenizer.encode, documents):
            pieces = [tokens[i : i + 2 * payload] for i in range(0, len(tokens), 2 * payload)]
            halves = [(p[: (len(p) + 1) // 2], p[(len(p) + 1) // 2 :]) for p in pieces]
            records += [pair for pair in halves if pair[1]]
        return records
    joined: list[int] = []
    for tokens in map(vocabulary.tokenizer.encode, documents):
        if joined and 0 < len(joined) % payload < payload - 1:
            joined.append(vocabulary.doc_id)
        joined += tokens
    return [(joined[i : i + payload],) for i in range(0, len(joined), payload)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_examples_are_those_of_the_text_in_an_order_seen_from_outside(prepared, sample_task, name):
    """Text packed by hand, noise from NumPy's Philox; which block a row is, its tokens say.

    An epoch is how often the same tokens came before. Of the code under test only the objective is
    used to say what is expected, which has oracles of its own.
    """
    blocks, objective, task = prepared(name), OBJECTIVES[name], sample_task(name)
    stream = training_stream(blocks, objective, alpha=0.3, seed=5)
    known: dict[tuple, list] = {}
    for language in blocks.languages:
        for number, record in enumerate(packed_by_hand(task, blocks.payload, language)):
            text = framed(name, record)
            known.setdefault(text, []).append((language, number, record))
    rows = stream.examples(np.arange(2 * stream.size))
    assert all(v.dtype == np.int32 for v in rows.values())
    counted = rows.pop("original_tokens")
    assert {k: v.shape[1] for k, v in rows.items()} == stream.features
    seen: Counter = Counter()
    checked = 0
    for row, text in enumerate(originals(rows, blocks.specials)):
        assert text in known, "every row is a record of the text"
        if len(known[text]) > 1:
            continue  # the same sentence twice: its tokens do not say which
        ((language, number, record),) = known[text]
        assert counted[row].tolist() == [len(text)], "every token of the text, ends included"
        noise = noise_by_hand(5, seen[text], language, 0, number)
        seen[text] += 1
        segments = [np.array(part, np.int32) for part in record]
        for feature, ids in objective(*segments, noise, blocks.specials).items():
            assert rows[feature][row, : ids.size].tolist() == ids.tolist()
            assert set(rows[feature][row, ids.size :].tolist()) <= {1}
        checked += 1
    assert checked > stream.size and max(seen.values()) > 1


def test_examples_do_not_depend_on_batches_or_on_where_one_starts(sample_blocks):
    def stream():
        return training_stream(sample_blocks, SpanDenoise("drop"), alpha=0.3, seed=5)

    whole = stream().examples(np.arange(64))
    shuffled = np.random.default_rng(0).permutation(64)
    parts = [stream().examples(part) for part in np.split(shuffled, 8)]
    for name, rows in whole.items():
        assert (np.concatenate([part[name] for part in parts]) == rows[shuffled]).all()


def test_noise_changes_from_epoch_to_epoch(sample_blocks):
    stream = training_stream(sample_blocks, Mlm(), alpha=1.0, seed=5)
    location = stream.order.locate(np.arange(2 * stream.size))
    where = {}
    for i, key in enumerate(zip(*(a.tolist() for a in location), strict=True)):
        where[key] = i
    pairs = [(where[key], where[key[0], 1, key[2]]) for key in where if key[1] == 0][:20]
    for first, second in pairs:
        rows = stream.examples(np.array([first, second]))
        assert (rows["masked_positions"][0] != rows["masked_positions"][1]).any()


def test_another_seed_is_another_order(sample_blocks):
    """Of span denoising the target is the text itself, without noise."""
    rows = [
        training_stream(sample_blocks, SpanDenoise("drop"), alpha=1.0, seed=seed).examples(
            np.arange(200)
        )["decoder_target_tokens"]
        for seed in (0, 1)
    ]
    assert (rows[0] == rows[1]).all(axis=1).mean() < 0.05


def test_another_seed_is_another_noise(sample_blocks):
    """The same blocks in the order of their numbers: validation has no other."""
    rows = [
        validation_stream(sample_blocks, SpanDenoise("drop"), seed=seed).examples(np.arange(20))
        for seed in (0, 1)
    ]
    assert (rows[0]["decoder_target_tokens"] == rows[1]["decoder_target_tokens"]).all()
    same = (rows[0]["encoder_input_tokens"] == rows[1]["encoder_input_tokens"]).all(axis=1)
    assert same.mean() < 0.2


def test_the_same_text_in_another_shard_or_language_has_other_noise(configured, tmp_path):
    """Two shards of two languages with the very same lines."""
    for language in ("en", "de"):
        for shard in range(2):
            path = tmp_path / language / f"{shard}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text("the river rises every spring when the snow melts in May\n" * 40)
    gin.bind_parameter("TextFiles.files", {x: str(tmp_path / x) for x in ("en", "de")})
    gin.bind_parameter("TextFiles.shard_bytes", 1)
    blocks = prepare_blocks(get_task("text", "span_drop"), 30, tmp_path / "data")
    objective = SpanDenoise("drop")
    stream = training_stream(blocks, objective, alpha=1.0, seed=5)
    rows = stream.examples(np.arange(stream.size))
    found = {tuple(row) for row in rows["encoder_input_tokens"].tolist()}
    assert len(found) > 0.9 * stream.size > 20, "next to no two examples lose the same tokens"
    expected = set()
    for i, language in enumerate(blocks.languages):
        shards = blocks.manifest["shards"]["train"][language]
        assert len(shards) == 2
        number = 0
        for shard, written in enumerate(shards):
            for block in range(written["blocks"]):
                (ids,) = blocks.record("train", i, number)[1]
                noise = noise_by_hand(5, 0, language, shard, block)
                source = objective(ids, noise, blocks.specials)["encoder_input_tokens"]
                expected.add(
                    (
                        *source.tolist(),
                        *[1] * (stream.features["encoder_input_tokens"] - source.size),
                    )
                )
                number += 1
    assert found == expected


def test_index_minus_one_is_padding(sample_blocks):
    stream = validation_stream(sample_blocks, SpanDenoise("mask"), seed=0)
    rows = stream.examples(np.array([-1, 2, -1]))
    alone = stream.examples(np.array([2]))
    for name, values in rows.items():
        filler = 0 if name == "original_tokens" else 1
        assert set(values[[0, 2]].ravel().tolist()) == {filler}
        assert (values[1] == alone[name][0]).all()


def test_validation_reads_every_block_once(sample_blocks):
    stream = validation_stream(sample_blocks, SpanDenoise("drop"), seed=0)
    assert stream.size == sample_blocks.counts("validation").sum()
    targets = stream.examples(np.arange(stream.size))["decoder_target_tokens"]
    tokens = np.count_nonzero(targets != stream.pad_id) - 2 * stream.size
    assert tokens == sample_blocks.tokens("validation")
    assert validation_stream(sample_blocks, Mlm(), seed=0, max_examples=5).size == 5


def test_training_has_next_to_no_padding(sample_blocks):
    """Only the last block of a language can be short: 12 of about a thousand blocks."""
    stream = training_stream(sample_blocks, SpanDenoise("drop"), alpha=1.0, seed=0)
    targets = stream.examples(np.arange(stream.size))["decoder_target_tokens"]
    assert np.mean(targets == stream.pad_id) < 0.01


def test_validation_needs_text(sample_blocks, monkeypatch):
    monkeypatch.setattr(sample_blocks, "counts", lambda split: np.zeros(12, np.int64))
    with pytest.raises(UserError, match=r"no validation text; lower TextFiles\.validation_every"):
        validation_stream(sample_blocks, Mlm(), seed=0)


def test_validation_without_anything_to_predict_is_refused(sample_blocks, monkeypatch):
    """Texts of a few tokens may have none that is masked, and all of them none."""
    validation_stream(sample_blocks, Mlm(), seed=0).check_targets()
    rare = validation_stream(sample_blocks, Mlm(rate=1e-9), seed=0)
    with pytest.raises(UserError, match=r"none of its \d+ validation example\(s\) is long enough"):
        rare.check_targets()

    asked = []
    last = rare.size - 1

    def at_last(indices):
        asked.extend(indices.tolist())
        targets = np.where(indices == last, 7, 1)[:, None]
        return {"masked_targets": targets, "encoder_input_tokens": np.full((indices.size, 9), 7)}

    monkeypatch.setattr(rare, "examples", at_last)
    rare.check_targets()
    assert asked == list(range(rare.size)), "the very last one has one"


def test_prefetch_keeps_order_and_stays_ahead():
    made: list[int] = []

    def squares():
        for number in range(3, 9):
            made.append(number)
            yield number * number

    batches = prefetch(squares(), depth=2)
    assert next(batches) == 9
    deadline = time.monotonic() + 60
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [3, 4, 5, 6]  # one used, two ready, one in hand
    assert list(batches) == [16, 25, 36, 49, 64]


def test_prefetch_hands_over_errors_in_their_place():
    def numbers():
        yield from (0, 1)
        raise OSError("disk gone")

    batches = prefetch(numbers())
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)


def test_prefetch_ends_its_thread_when_closed():
    before = threading.active_count()
    batches = prefetch(itertools.count())
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before
