"""Rows are chosen as plain loops choose them, and arrive to the bit on every mesh."""

from __future__ import annotations

from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from seqrecipes.config.training import Partitioning
from seqrecipes.conversion import surgery
from seqrecipes.errors import UserError

DEVICES = 8

PIECES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12)


def chosen_by_piece(source: list[str], target: list[str], rows: int) -> list[int]:
    """The k-th occurrence of a piece in the target is the k-th in the source; -1 is new."""
    index = []
    for row in range(rows):
        if row >= len(target):
            index.append(-1)
            continue
        piece = target[row]
        where = [i for i in range(len(source)) if source[i] == piece]
        k = target[:row].count(piece)
        index.append(where[k] if k < len(where) else -1)
    return index


def taken(leaf: np.ndarray, index: list[int], averaged: int) -> np.ndarray:
    mean = np.zeros(leaf.shape[1:], np.float64)
    for row in range(averaged):
        mean += leaf[row].astype(np.float64) / averaged
    return np.stack([mean.astype(np.float32) if i < 0 else leaf[i] for i in index])


def leaf_of(rows: int, *shape: int) -> np.ndarray:
    """Rows that no fault in an index can confuse."""
    return np.random.default_rng(rows).standard_normal((rows, *shape)).astype(np.float32)


@settings(max_examples=300, deadline=None)
@given(PIECES, PIECES, st.integers(0, 4), st.integers(0, 4))
def test_rows_by_piece_are_those_of_a_plain_search(source, target, padding, new_padding):
    have, want = len(source) + padding, len(target) + new_padding
    rows = surgery.by_piece(have, want, (source, target))
    index = chosen_by_piece(source, target, want)
    assert rows.index.tolist() == index
    assert (rows.source, rows.averaged) == (have, len(source))
    assert rows.kept.tolist() == [i for i in index if i != -1]
    assert rows.new == index.count(-1)
    assert rows.dropped.tolist() == [i for i in range(have) if i not in index]


@pytest.mark.parametrize("shape", [(), (5,), (3, 2, 4)])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("source", "target", "want"),
    [
        ("abcdefghi", "ihgfedcba", 9),  # reordered
        ("abcdefghi", "xaybz", 5),  # shrunken, with new ones
        ("abc", "cxyzwbav", 11),  # grown and padded
        ("abcdefghi", "abcdefghi", 10),
        ("a", "b", 1),
    ],
)
def test_taken_rows_are_exact_and_new_ones_the_mean(source, target, want, compiled, shape):
    leaf = leaf_of(len(source) + 2, *shape)
    rows = surgery.by_piece(len(leaf), want, (source, target))
    take = jax.jit(surgery.take, static_argnums=1) if compiled else surgery.take
    result = np.asarray(take(jax.numpy.asarray(leaf), rows))
    index = chosen_by_piece(list(source), list(target), want)
    kept = np.array(index) >= 0
    expected = taken(leaf, index, len(source))
    assert result.dtype == leaf.dtype
    np.testing.assert_array_equal(result[kept], expected[kept])
    np.testing.assert_allclose(result[~kept], expected[~kept], rtol=1e-6, atol=1e-7)


def test_the_mean_of_many_rows_is_exact_to_rounding():
    """Added one after the other in float32, 300,000 rows of 0.1 miss their mean by 0.3 percent."""
    leaf = np.full((300_001, 2), 0.1, np.float32)
    rows = surgery.positions(len(leaf), len(leaf) + 1, None)
    result = jax.jit(surgery.take, static_argnums=1)(leaf, rows)
    np.testing.assert_allclose(result[-1], leaf[0], rtol=2e-7)


def test_taking_every_row_is_a_copy():
    leaf = jax.numpy.asarray(leaf_of(4, 3))
    result = surgery.take(leaf, surgery.positions(4, 4, None))
    np.testing.assert_array_equal(result, leaf)
    assert result.unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer()


@pytest.mark.parametrize(
    ("data", "fsdp", "tensor"), [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (1, 2, 4)]
)
def test_a_sharded_table_gives_the_same_bits(data, fsdp, tensor):
    leaf = leaf_of(96, 16)
    leaf[3] = -0.0
    leaf[5] = 1e-42  # too small for a normal number
    source = [f"piece {i}" for i in range(90)]
    target = [*source[60:], "new", *source[:20], "newer"]
    rows = surgery.by_piece(96, 64, (source, target))
    mesh = Partitioning(data=data, fsdp=fsdp, tensor=tensor).mesh()
    sharding = NamedSharding(mesh, PartitionSpec("tensor", "fsdp"))
    result = np.asarray(
        jax.jit(surgery.take, static_argnums=1, out_shardings=sharding)(
            jax.device_put(leaf, sharding), rows
        )
    )
    alone = np.asarray(jax.jit(surgery.take, static_argnums=1)(leaf, rows))
    np.testing.assert_array_equal(result.view(np.uint32), alone.view(np.uint32))
    index = np.array(chosen_by_piece(source, target, 64))
    np.testing.assert_array_equal(
        result[index >= 0].view(np.uint32), leaf[index[index >= 0]].view(np.uint32)
    )


@pytest.mark.parametrize(
    ("select", "source", "target", "index"),
    [
        (surgery.first_layers, 6, 2, [0, 1]),
        (surgery.first_layers, 3, 3, [0, 1, 2]),
        (surgery.last_layers, 6, 2, [4, 5]),
        (surgery.last_layers, 3, 3, [0, 1, 2]),
        (surgery.every_kth_layer, 6, 3, [0, 2, 4]),
        (surgery.every_kth_layer, 12, 4, [0, 3, 6, 9]),
        (surgery.every_kth_layer, 6, 1, [0]),
        (surgery.every_kth_layer, 2, 2, [0, 1]),
        (surgery.evenly_spread_layers, 12, 12, list(range(12))),
        (surgery.evenly_spread_layers, 12, 5, [1, 3, 6, 8, 10]),
        (surgery.evenly_spread_layers, 12, 2, [3, 9]),
        (surgery.evenly_spread_layers, 12, 1, [6]),
        (surgery.evenly_spread_layers, 3, 2, [0, 2]),
        (surgery.evenly_spread_layers, 1, 1, [0]),
        (surgery.positions, 4, 2, [0, 1]),
        (surgery.positions, 2, 4, [0, 1, -1, -1]),
    ],
)
def test_layers_and_positions(select, source, target, index):
    rows = select(source, target, None)
    assert rows.index.tolist() == index
    assert (rows.source, rows.averaged) == (source, source)


@given(st.integers(1, 40), st.integers(1, 40))
def test_spread_layers_are_nearest_to_the_middles_of_equal_parts(one, other):
    source, target = max(one, other), min(one, other)
    rows = surgery.evenly_spread_layers(source, target, None)
    assert len(rows.index) == target
    for i, layer in enumerate(rows.index.tolist()):
        # A layer l spans [l, l + 1); the middle of part i lies in it.
        middle = Fraction(2 * i + 1, 2) * Fraction(source, target)
        assert layer <= middle < layer + 1
    assert len(set(rows.index.tolist())) == target


@pytest.mark.parametrize(
    "select",
    [
        surgery.first_layers,
        surgery.last_layers,
        surgery.every_kth_layer,
        surgery.evenly_spread_layers,
    ],
)
def test_layers_are_never_added(select):
    with pytest.raises(UserError, match=r"decoder_layers = 4: the source has 2.* at most 2"):
        select(2, 4, None)


def test_every_kth_needs_a_whole_number():
    with pytest.raises(UserError, match=r"decoder_layers = 4: .* choose 1, 2, 3, 6"):
        surgery.every_kth_layer(6, 4, None)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (None, "run `python -m seqrecipes.convert --conversion=new_vocabulary` first"),
        (("abcde", "abc"), "vocabulary of the source = '5 pieces': .* table of 4 rows"),
        (("abc", "abcdef"), "vocabulary of the target = '6 pieces': .* table of 5 rows"),
        (("", "abc"), "vocabulary of the source = '0 pieces'"),
    ],
)
def test_pieces_that_do_not_suit_the_tables_are_refused(pieces, message):
    with pytest.raises(UserError, match=message):
        surgery.by_piece(4, 5, pieces)
