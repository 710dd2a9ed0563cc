"""The tools of sampling against slow restatements."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seqrecipes.data import spans
from seqrecipes.data.objectives.base import generator


@pytest.mark.parametrize("size, count", [(13, 2), (9, 1), (6, 3), (7, 5), (6, 6)])
def test_every_choice_is_equally_likely(size, count):
    """Both ways of choosing: few of many, and a large part."""
    sets = list(itertools.combinations(range(size), count))
    uniform = generator(0, 0, 1)
    observed = Counter(
        tuple(spans.choose(size, count, uniform).tolist()) for _ in range(20 * len(sets) + 200)
    )
    assert set(observed) <= set(sets)
    if len(sets) > 1:
        assert stats.chisquare([observed[each] for each in sets]).pvalue > 1e-4


@given(st.integers(0, 200), st.floats(0, 1), st.integers(0, 2**32))
def test_choices_are_distinct_and_ascend(size, share, index):
    count = int(share * size)
    chosen = spans.choose(size, count, generator(0, 0, index))
    assert chosen.size == count and (np.diff(chosen) > 0).all()
    assert not count or (chosen[0] >= 0 and chosen[-1] < size)


@pytest.mark.parametrize("mean", [1.0, 3.0, 12.5, 100.0])
def test_poisson_tables(mean):
    plain = spans.poisson_cdf(mean)
    expected = stats.poisson.cdf(np.arange(plain.size), mean)
    np.testing.assert_allclose(plain, expected, rtol=1e-9, atol=1e-13)
    assert plain[-1] > 1 - 1e-12
    positive = spans.poisson_cdf(mean, given_positive=True)
    assert positive[0] == 0
    expected = 1 - stats.poisson.sf(np.arange(plain.size), mean) / stats.poisson.sf(0, mean)
    np.testing.assert_allclose(positive, expected, rtol=1e-9, atol=1e-13)


def test_poisson_table_reaches_one():
    """No draw below 1 may fall behind the table's end, whatever the rounding."""
    for mean in (1.0, 3.0, 7.3, 100.0):
        for given_positive in (False, True):
            table = spans.poisson_cdf(mean, given_positive)
            largest = np.nextafter(1.0, 0.0)
            assert table.searchsorted(largest, "right") <= table.size
            assert (np.diff(table) >= 0).all()


def flags_of(edges, size):
    flags = [False] * size
    for start, end in zip(edges[0::2], edges[1::2], strict=True):
        for position in range(start, end):
            flags[position] = True
    return flags


@st.composite
def edges_in_text(draw):
    """(edges of spans that do not touch, size)."""
    lengths = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=6))
    edges = list(itertools.accumulate(itertools.chain.from_iterable(lengths)))
    return edges, (edges[-1] if edges else 0) + draw(st.integers(0, 3))


@settings(max_examples=200)
@given(edges_in_text(), st.integers(0, 60))
def test_cut(case, position):
    edges, size = case
    position = min(position, size)
    cut, before = spans.cut(np.array(edges, np.int64), position)
    assert flags_of(cut.tolist(), size) == flags_of(edges, size)
    pairs = list(zip(cut[0::2].tolist(), cut[1::2].tolist(), strict=True))
    assert all(start < end for start, end in pairs)
    assert before == 2 * sum(end <= position for _, end in pairs)
    assert all(end <= position or start >= position for start, end in pairs)
    is_inside = any(a < position < b for a, b in zip(edges[0::2], edges[1::2], strict=True))
    assert cut.size == len(edges) + 2 * is_inside


@settings(max_examples=200)
@given(edges_in_text(), st.integers(0, 60))
def test_roll(case, offset):
    edges, size = case
    offset = min(offset, max(size - 1, 0))
    rolled = spans.roll(np.array(edges, np.int64), size, offset)
    flags = flags_of(edges, size)
    assert flags_of(rolled.tolist(), size) == flags[size - offset :] + flags[: size - offset]
    assert (rolled[:-1] < rolled[1:]).all()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 6)), max_size=8))
def test_covered(spans_given):
    """Spans may overlap, touch and be empty."""
    starts = np.array([start for start, _ in spans_given], np.int64)
    ends = np.array([start + length for start, length in spans_given], np.int64)
    expected = [
        any(start <= i < start + length for start, length in spans_given) for i in range(26)
    ]
    assert spans.covered(starts, ends, 26).tolist() == expected


@pytest.mark.parametrize(
    "size, rate, mean, expected",
    [
        (512, 0.15, 3.0, (77, 26)),
        (568, 0.15, 3.0, (85, 28)),
        (512, 0.5, 3.0, (256, 85)),
        (10, 0.15, 3.0, (2, 1)),  # 1.5 to even
        (30, 0.15, 3.0, (4, 1)),  # 4.5 to even
        (100, 0.09, 6.0, (9, 2)),  # 1.5 spans to even
        (100, 0.15, 6.0, (15, 2)),  # 2.5 spans to even
        (0, 0.15, 3.0, (0, 0)),
        (1, 0.5, 3.0, (0, 0)),
        (2, 0.15, 3.0, (1, 1)),
        (2, 0.9, 10.0, (1, 1)),
        (3, 0.54, 1.2, (2, 1)),  # 1.67 spans, but one token stays, which cannot part two
    ],
)
def test_noise_counts(size, rate, mean, expected):
    assert spans.noise_counts(size, rate, mean) == expected


def test_no_room():
    """A span longer than any run, or more spans than gaps, cannot be placed."""
    uniform = generator(0, 0, 0)
    breaks = np.array([0, 3, 6])  # two runs of two
    for lengths in ([3], [1, 1, 1], [2, 2]):
        assert spans.place(np.array(lengths), breaks, uniform) is None
    assert spans.place(np.array([2, 1]), breaks, uniform).tolist() == [1, 5]
    assert spans.place(np.array([1, 1, 1]), np.array([0, 6]), uniform).tolist() == [1, 3, 5]
