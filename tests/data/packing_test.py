"""Packing against a token-by-token restatement."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqrecipes.data.packing import pack

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
