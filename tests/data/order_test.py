"""Orders: coverage, proportions, and purity."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seqrecipes.data.order import MixedOrder, SequentialOrder, language_shares, permute
from seqrecipes.errors import UserError


def test_shares_by_hand():
    # 100 : 1 smoothed by 1/2 is 10 : 1.
    np.testing.assert_allclose(language_shares([100, 1, 0], 0.5), [10 / 11, 1 / 11, 0])
    np.testing.assert_allclose(language_shares([6, 3, 1], 1.0), [0.6, 0.3, 0.1])
    np.testing.assert_allclose(language_shares([6, 3, 1], 0.0), [1 / 3] * 3)
    q = language_shares([10**6, 10**4], 0.3)
    np.testing.assert_allclose(q[0] / q[1], 10**0.6)


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_alpha_is_checked(alpha):
    with pytest.raises(UserError, match=f"alpha = {alpha}"):
        MixedOrder([3, 4], alpha, 0)


def test_no_text_is_refused():
    with pytest.raises(UserError, match="no training text"):
        MixedOrder([0, 0], 0.3, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 2**63 - 1), st.integers(0, 50))
def test_permutation_is_one_to_one(size, key, epoch):
    image = permute(np.arange(size), size, key, epoch)
    assert sorted(image.tolist()) == list(range(size))


def test_permutation_depends_on_every_key():
    images = {
        tuple(permute(np.arange(50), 50, *key)) for key in [(1,), (2,), (1, 0), (1, 1), (0, 1)]
    }
    assert len(images) == 5


def test_permutation_takes_sizes_and_keys_per_element():
    sizes, epochs = np.array([5, 900, 1, 64]), np.array([0, 3, 9, 2])
    index = np.array([4, 17, 0, 63])
    together = permute(index, sizes, 11, epochs)
    alone = [permute(index[i : i + 1], int(sizes[i]), 11, int(epochs[i]))[0] for i in range(4)]
    assert together.tolist() == alone


@pytest.mark.parametrize("size", [3, 10, 37])
def test_permutation_looks_random(size):
    keys = 4000
    index = np.tile(np.arange(size), keys)
    image = permute(index, size, 5, np.repeat(np.arange(keys), size))
    table = np.zeros((size, size))
    np.add.at(table, (index, image), 1)
    statistic = ((table - keys / size) ** 2 / (keys / size)).sum()
    assert stats.chi2.sf(statistic, (size - 1) ** 2) > 1e-4


def blocks_in_time(order, language, examples):
    """The blocks of a language as they come, by nothing but the order of examples."""
    location = order.locate(np.arange(examples))
    return location.block[location.language == language].tolist()


# Blocks of each language; the last ones have more than one cell to a global epoch, and more
# languages than a cell has room for.
MIXTURES = [[40, 7, 1, 0, 13], [1000, 5000], [3, 3, 3], [1], [1500, 30, 2500], [2] * 1200 + [900]]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("blocks", MIXTURES, ids=lambda blocks: f"{len(blocks)}-{sum(blocks)}")
def test_no_block_comes_again_before_all_have_come(blocks, alpha):
    order = MixedOrder(blocks, alpha, seed=3)
    location = order.locate(np.arange(3 * order.size + 100))
    before: Counter = Counter()
    counted, in_time = [], defaultdict(list)
    for each in zip(location.language.tolist(), location.block.tolist(), strict=True):
        counted.append(before[each])
        before[each] += 1
        in_time[each[0]].append(each[1])
    assert location.epoch.tolist() == counted, "an epoch counts how often a block was read before"
    assert set(in_time) == {language for language, count in enumerate(blocks) if count}
    for language, found in in_time.items():
        every = list(range(blocks[language]))
        for start in range(0, len(found), len(every)):
            part = sorted(found[start : start + len(every)])
            assert part == every or (len(set(part)) == len(part) < len(every))


def test_a_thousand_readings_of_a_thousand_blocks():
    """A small language beside a large one that is read more often than once a global epoch."""
    order = MixedOrder([1000, 9000], 0.3, seed=0)
    found = blocks_in_time(order, 0, order.size)
    assert len(found) > 3 * 1000
    for start in range(0, len(found) - 999, 1000):
        assert sorted(found[start : start + 1000]) == list(range(1000))


def test_blocks_come_shuffled_and_in_another_order_each_time():
    """Each language in its own order, another one in every pass and under every seed."""
    passes = {}
    for seed in (0, 1):
        order = MixedOrder([500, 500], 1.0, seed)
        for language in (0, 1):
            found = blocks_in_time(order, language, 2 * order.size)
            passes[seed, language, 0], passes[seed, language, 1] = found[:500], found[500:]
    for one, other in itertools.combinations([list(range(500)), *passes.values()], 2):
        # Of two independent shuffles of 500, one block on average has the same place in both.
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 12
        assert abs(stats.spearmanr(one, other).statistic) < 0.2


@pytest.mark.parametrize("blocks", [[300, 300], [3000, 1500]], ids=["one cell", "several"])
def test_languages_come_in_another_order_in_every_global_epoch_and_under_every_seed(blocks):
    sequences = [
        order.locate(np.arange(start, start + 600)).language
        for seed in (0, 1)
        for order in [MixedOrder(blocks, 1.0, seed)]
        for start in (0, order.size, 2 * order.size)
    ]
    expected = sum((n / sum(blocks)) ** 2 for n in blocks)  # of two shuffles that agree by chance
    for one, other in itertools.combinations(sequences, 2):
        assert abs(np.mean(one == other) - expected) < 0.15


def test_languages_come_shuffled():
    """Runs of one language are as many as chance makes them (Wald and Wolfowitz 1940)."""
    order = MixedOrder([4000, 4000], 1.0, seed=0)
    language = order.locate(np.arange(8000)).language
    runs = 1 + np.count_nonzero(np.diff(language))
    assert abs(runs - 4001) < 4 * (8000 / 4) ** 0.5


def test_a_language_with_one_block_may_come_anywhere():
    places = []
    for seed in range(60):
        order = MixedOrder([5000, 1], 1.0, seed)
        (place,) = np.flatnonzero(order.locate(np.arange(order.size)).language)
        places.append(place / order.size)
    assert stats.kstest(places, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("blocks", [[40, 7, 13], [2000, 70, 1300]])
def test_order_is_the_same_wherever_one_starts(blocks):
    whole = np.stack(MixedOrder(blocks, 0.3, seed=3).locate(np.arange(5000)))
    order = MixedOrder(blocks, 0.3, seed=3)
    pieces = [np.stack(order.locate(np.arange(i, i + 10))) for i in range(4990, -1, -10)][::-1]
    assert (whole == np.concatenate(pieces, axis=1)).all()
    scattered = np.random.default_rng(0).permutation(5000)
    assert (np.stack(order.locate(scattered)) == whole[:, scattered]).all()
    for processes in (2, 8):  # each reads every so many rows
        for process in range(processes):
            rows = np.arange(process, 5000, processes)
            found = MixedOrder(blocks, 0.3, seed=3).locate(rows)
            assert (np.stack(found) == whole[:, rows]).all()


def test_a_late_example_costs_no_more_than_an_early_one():
    order = MixedOrder([10**9, 10**7, 3], 0.3, seed=3)
    made = []
    make = order._make_cell
    order._cell = lambda cell: made.append(cell) or make(cell)
    late = order.locate(np.array([10**12, 10**12 + 1]))
    assert len(made) <= 2 and late.epoch.max() > 100 and late.block.max() < 10**9
    found = np.stack(order.locate(np.arange(10**12 - 500, 10**12 + 500)))
    assert (found[:, 500:502] == np.stack(late)).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_languages_come_in_their_shares(alpha):
    blocks = [6000, 900, 90]
    p = np.array(blocks) / sum(blocks)
    expected = p**alpha / (p**alpha).sum()
    location = MixedOrder(blocks, alpha, seed=1).locate(np.arange(3000))
    counts = Counter(location.language.tolist())
    observed = [counts[i] for i in range(3)]
    assert stats.chisquare(observed, expected * 3000).pvalue > 1e-4


def test_a_tiny_language_is_never_lost():
    order = MixedOrder([10**6, 1], 1.0, seed=0)
    assert order.slots.tolist() == [10**6, 1]
    assert MixedOrder([10**6, 1, 0], 1.0, seed=0).slots[2] == 0


def test_sequential_order():
    order = SequentialOrder([2, 0, 3])
    location = order.locate(np.arange(order.size))
    assert location.language.tolist() == [0, 0, 2, 2, 2]
    assert location.block.tolist() == [0, 1, 0, 1, 2]
    assert location.epoch.tolist() == [0] * 5


def test_sequential_subset_is_evenly_spaced():
    order = SequentialOrder([6, 6], limit=4)
    location = order.locate(np.arange(order.size))
    assert (location.language * 6 + location.block).tolist() == [0, 3, 6, 9]
    assert SequentialOrder([6, 6], limit=50).size == 12
