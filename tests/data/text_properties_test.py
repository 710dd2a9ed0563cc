"""What must hold of every example, on text that people wrote.

It is the bundled sample, or your own: SEQRECIPES_TEXT names a folder with a folder per language,
and SEQRECIPES_VOCABULARY a vocabulary with sentinels.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections import Counter, defaultdict

import gin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from seqrecipes.data.corpora.corpus import all_documents
from seqrecipes.data.objectives import OBJECTIVES, SpanCorruption, SpanDenoise
from seqrecipes.data.objectives.base import generator
from seqrecipes.data.order import MixedOrder, language_shares
from seqrecipes.data.preparation import prepare_blocks
from seqrecipes.data.stream import training_stream
from seqrecipes.data.tasks import get_task

LENGTH = 128
BOS, PAD, EOS, UNK = range(4)
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(scope="session")
def text_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


@pytest.fixture
def prepared_text(configured, text_cache):
    """(task, blocks) of an objective that reads blocks, for sequences of LENGTH tokens."""
    corpus = "sample"
    if folder := os.environ.get("SEQRECIPES_TEXT"):
        gin.bind_parameter("TextFiles.files", folder)
        path = os.environ["SEQRECIPES_VOCABULARY"]
        gin.bind_parameter("pretraining_vocabulary.path", path)
        corpus = "text"

    def prepare(objective):
        task = get_task(corpus, objective)
        return task, prepare_blocks(task, task.objective.payload(LENGTH), text_cache)

    return prepare


def payload_of(blocks, stream, index):
    """The block that example `index` was made of, as a list."""
    language, _, block = (int(numbers[0]) for numbers in stream.order.locate(np.array([index])))
    return blocks.record("train", language, block)[1][0].tolist()


def unpadded(rows, name):
    return [token for token in rows[name][0].tolist() if token != PAD]


def runs_of(flags):
    """(start, length) of every stretch of True."""
    position = 0
    for flag, stretch in itertools.groupby(flags):
        length = len(list(stretch))
        if flag:
            yield position, length
        position += length


def test_mlm_selects_and_replaces_as_bert_does(prepared_text):
    task, blocks = prepared_text("mlm")
    stream, specials = training_stream(blocks, task.objective, alpha=1.0, seed=11), blocks.specials
    special = {BOS, PAD, EOS, UNK, specials.mask, specials.doc}
    eligible = selected = masked = kept = 0
    for first in itertools.count(0, 256):
        if eligible > 1_000_000:
            break
        indices = np.arange(first, first + 256)
        rows = stream.examples(indices)
        tokens, positions = rows["encoder_input_tokens"], rows["masked_positions"]
        targets = rows["masked_targets"]
        real = targets != PAD
        at = np.take_along_axis(tokens, positions, axis=1)
        original = tokens.copy()
        for row in range(256):
            original[row, positions[row][real[row]]] = targets[row][real[row]]
        for row, index in enumerate(indices.tolist()):
            payload = payload_of(blocks, stream, index)
            assert [t for t in original[row].tolist() if t != PAD] == [BOS, *payload, EOS]
        assert not np.isin(targets[real], list(special)).any()
        replaced = at[real]
        assert not np.isin(replaced, list(special - {specials.mask})).any()
        eligible += int(np.count_nonzero(~np.isin(original, list(special))))
        selected += int(real.sum())
        masked += int(np.count_nonzero(replaced == specials.mask))
        kept += int(np.count_nonzero(replaced == targets[real]))
    assert abs(selected / eligible - 0.15) < 5 * 0.00036
    for count, share in ((masked, 0.8), (kept, 0.1), (selected - masked - kept, 0.1)):
        assert abs(count / selected - share) < 5 * math.sqrt(share * (1 - share) / selected)


@settings(max_examples=40, **COMMON)
@given(
    index=st.integers(0, 10**9),
    seed=st.integers(0, 2**32),
    replace=st.sampled_from(["drop", "mask"]),
)
def test_denoising_removes_exactly_and_keeps_the_rest(prepared_text, index, seed, replace):
    task, blocks = prepared_text(f"span_{replace}")
    stream, specials = (
        training_stream(blocks, task.objective, alpha=0.3, seed=seed),
        blocks.specials,
    )
    rows = stream.examples(np.array([index]))
    payload = payload_of(blocks, stream, index)
    source = unpadded(rows, "encoder_input_tokens")[1:-1]
    target = unpadded(rows, "decoder_target_tokens")
    assert target == [BOS, *payload, EOS]
    assert unpadded(rows, "decoder_input_tokens") == [EOS, *target[:-1]]

    n = int(np.count_nonzero(specials.is_ordinary(np.array(payload))))
    masks = source.count(specials.mask)
    removed = len(payload) - (len(source) - masks)
    assert removed in (math.floor(0.15 * n), math.floor(0.15 * n) + 1)
    assert replace == "mask" or masks == 0
    # The specials all stay, and what stays is in order: a subsequence, greedily matched.
    assert [t for t in source if t in (UNK, specials.doc)] == [
        t for t in payload if t in (UNK, specials.doc)
    ]
    rest = iter(payload)
    assert all(token in rest for token in source if token != specials.mask)


def test_denoised_spans_are_poisson(prepared_text):
    """Positions that are gone are known where ids are distinct: blocks numbered anew."""
    _, blocks = prepared_text("span_drop")
    objective, lengths, shares = SpanDenoise("drop"), Counter(), []
    specials = blocks.specials.__class__(
        0, 1, 2, 3, mask=10**6, doc=10**6 + 1, vocab_size=10**6 + 2
    )
    order = MixedOrder(blocks.counts("train"), 1.0, 0)
    for language, epoch, block in zip(*order.locate(np.arange(6_000)), strict=True):
        index, (payload,) = blocks.record("train", int(language), int(block))
        ordinary = blocks.specials.is_ordinary(payload)
        numbered = np.where(ordinary, np.arange(100, 100 + payload.size), specials.doc)
        numbered = numbered.astype(np.int32)
        source = objective(numbered, generator(0, int(epoch), index), specials)
        gone = ~np.isin(numbered, source["encoder_input_tokens"])
        lengths.update(length for _, length in runs_of(gone.tolist()))
        shares.append(gone.sum() / max(ordinary.sum(), 1))
    assert abs(np.mean(shares) - 0.15) < 1e-3
    total = lengths.total()
    # One span in a block is trimmed, so shares are compared instead of tested.
    for length in range(1, 9):
        assert (
            abs(lengths[length] / total - stats.poisson.pmf(length, 3) / stats.poisson.sf(0, 3))
            < 0.05
        )
    assert abs(sum(k * v for k, v in lengths.items()) / total - 3.157) < 0.25


def test_packing_keeps_every_token_and_pads_little(prepared_text):
    task, blocks = prepared_text("mlm")
    corpus, vocabulary = task.corpus, task.vocabulary
    short = total = 0
    for i, language in enumerate(blocks.languages):
        documents = [
            vocabulary.tokenizer.encode(d) for d in all_documents(corpus, language, "train")
        ]
        documents = [d for d in documents if d]
        size = int(blocks.counts("train")[i])
        found = [blocks.record("train", i, b)[1][0].tolist() for b in range(size)]
        shards = corpus.shards(language, "train")
        assert sum(len(b) < blocks.payload for b in found) <= shards
        short += sum(blocks.payload - len(b) for b in found)
        total += size * blocks.payload
        assert not any(vocabulary.doc_id in (b[0], b[-1]) for b in found)
        stream = [t for b in found for t in b]
        assert [t for t in stream if t != vocabulary.doc_id] == [t for d in documents for t in d]
        # Split at [DOC] and at the ends of blocks, where one is left out, it is made of documents.
        borders = set(itertools.accumulate(len(d) for d in documents))
        position = 0
        for token in stream:
            if token == vocabulary.doc_id:
                assert position in borders
            else:
                position += 1
        separators = stream.count(vocabulary.doc_id)
        assert len(documents) - 1 - len(found) * 2 <= separators <= len(documents) - 1
    assert short / total < 0.01 or total < 100 * blocks.payload * len(blocks.languages)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_languages_come_in_their_shares(prepared_text, alpha):
    _, blocks = prepared_text("mlm")
    counts = blocks.counts("train")
    order = MixedOrder(counts, alpha, seed=3)
    shares = language_shares(counts, alpha)
    # Within an epoch shares are exact up to rounding, so any stretch is at least as even as
    # independent draws would be.
    seen = np.bincount(order.locate(np.arange(order.size))[0], minlength=counts.size)
    assert np.abs(seen - shares * order.size).max() <= 1
    part = np.bincount(order.locate(np.arange(500))[0], minlength=counts.size)
    assert stats.chisquare(part, shares * 500).pvalue > 1e-4
    if alpha in (0.0, 1.0):
        expected = counts / counts.sum() if alpha else np.full(counts.size, 1 / counts.size)
        assert np.allclose(shares, expected)


@settings(max_examples=40, **COMMON)
@given(
    index=st.integers(0, 10**9),
    seed=st.integers(0, 2**32),
    rate=st.sampled_from([0.15, 0.5]),
    roll=st.booleans(),
    final=st.booleans(),
)
def test_sentinels_tie_input_and_target_together(prepared_text, index, seed, rate, roll, final):
    _, blocks = prepared_text("span_corruption")
    objective = SpanCorruption(rate=rate, roll=roll, final_sentinel=final)
    specials = blocks.specials
    if objective.sentinels(blocks.payload) > specials.sentinels:
        rate, objective = 0.15, SpanCorruption(roll=roll, final_sentinel=final)
    stream = training_stream(blocks, objective, alpha=0.3, seed=seed)
    rows = stream.examples(np.array([index]))
    payload = payload_of(blocks, stream, index)
    source, target = (unpadded(rows, n) for n in ("encoder_input_tokens", "decoder_target_tokens"))
    assert source.pop() == target.pop() == EOS
    is_sentinel = functools.partial(int.__le__, specials.first_sentinel)

    sentinels = [t for t in source if is_sentinel(t)]
    assert sentinels == list(
        range(specials.first_sentinel, specials.first_sentinel + len(sentinels))
    )
    spans: dict[int, list[int]] = defaultdict(list)
    for token in target:
        if is_sentinel(token):
            current = spans[token]
        else:
            current.append(token)
    assert list(spans) == [*sentinels, *[specials.first_sentinel + len(sentinels)] * final]
    rebuilt = [t for s in source for t in (spans[s] if is_sentinel(s) else [s])]
    assert rebuilt == payload
    noise = sum(map(len, spans.values()))
    assert noise == min(max(round(len(payload) * rate), 1), len(payload) - 1) or len(payload) == 1
    assert len(sentinels) - max(round(noise / 3), 1) in ((0, 1) if roll else (0,)) or not noise
    adjacent = zip(map(is_sentinel, source), map(is_sentinel, source[1:]), strict=False)
    assert not any(a and b for a, b in adjacent)


@settings(max_examples=15, **COMMON)
@given(index=st.integers(0, 10**12), seed=st.integers(0, 2**32))
@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if o.reads == "blocks"])
def test_examples_are_pure_functions_of_seed_and_index(prepared_text, name, index, seed):
    task, blocks = prepared_text(name)

    def rows(indices, seed=seed):
        return training_stream(blocks, task.objective, alpha=0.3, seed=seed).examples(indices)

    alone, among = rows(np.array([index])), rows(np.array([index + 1, index, 7]))
    assert all((alone[key][0] == among[key][1]).all() for key in alone)
