"""Packing against a token-by-token restatement."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqrecipes.data.packing import adjacent_segments, join_pairs, pack

DOC = 99
documents_strategy = st.lists(st.lists(st.integers(4, 98), max_size=12), max_size=15)


def packed(documents, payload):
    return [block.tolist() for block in pack(documents, payload, DOC)]


def test_docstring_examples():
    examples = [
        ([[10, 11], [20], [30, 31, 32, 33], [40]], [[10, 11, 99, 20, 30], [31, 32, 33, 99, 40]]),
        ([[10, 11, 12, 13, 14, 15], [20]], [[10, 11, 12, 13, 14], [15, 99, 20]]),
    ]
    for documents, blocks in examples:
        assert packed(documents, 5) == blocks
        assert f"documents  {documents}" in pack.__doc__
        assert f"blocks     {blocks}" in pack.__doc__


@given(documents_strategy, st.integers(1, 9))
def test_tokens_are_conserved_and_blocks_are_full(documents, payload):
    blocks = packed(documents, payload)
    everything = [token for document in documents for token in document]
    assert [token for block in blocks for token in block if token != DOC] == everything
    assert all(len(block) == payload for block in blocks[:-1])
    assert all(1 <= len(block) <= payload for block in blocks[-1:])
    assert all(DOC not in (block[0], block[-1]) for block in blocks)


@given(documents_strategy, st.integers(1, 9))
def test_separators_stand_between_documents(documents, payload):
    """A separator is missing only where it would have touched the border of a block."""
    expected: list[int] = []
    for document in filter(None, documents):
        if expected and 0 < len(expected) % payload < payload - 1:
            expected.append(DOC)
        expected += document
    assert [token for block in packed(documents, payload) for token in block] == expected


@given(documents_strategy)
def test_splitting_at_separators_rebuilds_documents(documents):
    (block,) = packed(documents, 1000) or [[]]
    rebuilt = " ".join(map(str, block)).split(f" {DOC} ") if block else []
    assert rebuilt == [" ".join(map(str, document)) for document in documents if document]


def test_arrays_and_dtype():
    blocks = list(pack([np.arange(10, 17)], 4, DOC))
    assert [block.dtype for block in blocks] == [np.int32, np.int32]
    assert [block.tolist() for block in blocks] == [[10, 11, 12, 13], [14, 15, 16]]


def lists(pairs):
    return [tuple(side.tolist() for side in pair) for pair in pairs]


def test_pair_docstring_examples():
    documents = [list(range(10, 19)), [20, 21], [30]]
    pairs = lists(adjacent_segments(documents, 3))
    assert pairs == [([10, 11, 12], [13, 14, 15]), ([16, 17], [18]), ([20], [21])]
    assert str(documents) in adjacent_segments.__doc__
    assert all(f"{a} {b}" in adjacent_segments.__doc__ for a, b in pairs)

    pairs = [([10, 11], [20]), ([12], [21]), ([13, 14], [22, 23])]
    joined = lists(join_pairs([tuple(map(np.array, pair)) for pair in pairs], 5, DOC))
    assert joined == [([10, 11, 99, 12], [20, 99, 21]), ([13, 14], [22, 23])]
    for line in (pairs, joined):
        assert "    ".join(f"{a} {b}" for a, b in line) in join_pairs.__doc__


@given(documents_strategy, st.integers(1, 5))
def test_adjacent_segments_are_neighbours_and_lose_single_tokens_alone(documents, payload):
    pairs = lists(adjacent_segments(documents, payload))
    assert all(0 <= len(a) - len(b) <= 1 and len(b) > 0 for a, b in pairs)
    assert all(len(a) <= payload for a, _ in pairs)
    kept = [d[:-1] if len(d) % (2 * payload) == 1 else d for d in documents]
    assert [t for a, b in pairs for t in a + b] == [t for d in kept for t in d]


@given(
    st.lists(st.tuples(*[st.lists(st.integers(4, 98), min_size=1, max_size=8)] * 2), max_size=12),
    st.integers(8, 20),
)
def test_joined_pairs_fit_and_come_apart_again(pairs, payload):
    joined = lists(join_pairs([tuple(map(np.array, pair)) for pair in pairs], payload, DOC))
    assert all(max(len(a), len(b)) <= payload for a, b in joined)

    def split(tokens):
        parts = [[]]
        for token in tokens:
            if token == DOC:
                parts.append([])
            else:
                parts[-1].append(token)
        return parts

    apart = [pair for a, b in joined for pair in zip(split(a), split(b), strict=True)]
    assert apart == pairs
    # As many as fit: no two neighbours could have been one.
    for (a, b), (c, d) in itertools.pairwise(joined):
        first = split(c)[0], split(d)[0]
        assert max(len(a) + len(first[0]), len(b) + len(first[1])) + 1 > payload
