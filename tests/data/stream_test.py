"""Streams: padding, purity, and prefetching."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from seqrecipes.data.objectives import OBJECTIVES, Mlm, SpanDenoise
from seqrecipes.data.objectives.base import example_index, generator
from seqrecipes.data.order import MixedOrder
from seqrecipes.data.stream import prefetch, training_stream, validation_stream
from seqrecipes.errors import UserError


@pytest.mark.parametrize("name", OBJECTIVES)
def test_examples_are_the_padded_examples_of_the_objective(prepared, name):
    blocks = prepared(name)
    stream = training_stream(blocks, OBJECTIVES[name], alpha=0.3, seed=5)
    indices = np.array([0, 17, 10**7, 3])
    rows = stream.examples(indices)
    assert {k: v.shape for k, v in rows.items()} == {k: (4, n) for k, n in stream.features.items()}
    assert all(v.dtype == np.int32 for v in rows.values())
    location = MixedOrder(blocks.counts("train"), 0.3, 5).locate(indices)
    for row, (language, epoch, block) in enumerate(np.stack(location, axis=1).tolist()):
        # The sample has one shard a language, so that numbers in shard and language are the same.
        noise = generator(5, epoch, example_index(blocks.languages[language], 0, block))
        _, segments = blocks.record("train", language, block)
        example = OBJECTIVES[name](*segments, noise, blocks.specials)
        for feature, ids in example.items():
            assert rows[feature][row, : ids.size].tolist() == ids.tolist()
            assert set(rows[feature][row, ids.size :].tolist()) <= {1}


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


def test_seed_changes_noise_and_order(sample_blocks):
    rows = [
        training_stream(sample_blocks, Mlm(), alpha=0.3, seed=seed).examples(np.arange(8))
        for seed in (0, 1)
    ]
    assert (rows[0]["encoder_input_tokens"] != rows[1]["encoder_input_tokens"]).any()


def test_index_minus_one_is_padding(sample_blocks):
    stream = validation_stream(sample_blocks, SpanDenoise("mask"), seed=0)
    rows = stream.examples(np.array([-1, 2, -1]))
    alone = stream.examples(np.array([2]))
    for name, values in rows.items():
        assert set(values[[0, 2]].ravel().tolist()) == {1}
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
