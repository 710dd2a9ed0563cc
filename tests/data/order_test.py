"""Orders: coverage, proportions, and purity."""

from __future__ import annotations

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


def test_every_block_once_in_each_language_epoch():
    blocks = [40, 7, 1, 0, 13]
    order = MixedOrder(blocks, 0.3, seed=3)
    location = order.locate(np.arange(20 * order.size))
    seen: dict[tuple, list] = defaultdict(list)
    for language, epoch, block in zip(*(a.tolist() for a in location), strict=True):
        seen[language, epoch].append(block)
    assert {language for language, _ in seen} == {0, 1, 2, 4}
    complete = 0
    for (language, epoch), found in seen.items():
        if (language, epoch + 1) in seen and (language, epoch + 2) in seen:
            assert sorted(found) == list(range(blocks[language]))
            complete += 1
        assert len(set(found)) == len(found)
    assert complete > 20
    assert seen[0, 0] != seen[0, 1]


def test_order_is_the_same_wherever_one_starts():
    order = MixedOrder([40, 7, 13], 0.3, seed=3)
    whole = np.stack(order.locate(np.arange(500)))
    pieces = [np.stack(order.locate(np.arange(i, i + 10))) for i in range(490, -1, -10)][::-1]
    assert (whole == np.concatenate(pieces, axis=1)).all()
    assert (whole != np.stack(MixedOrder([40, 7, 13], 0.3, seed=4).locate(np.arange(500)))).any()
    late = order.locate(np.array([10**12]))
    assert late.epoch[0] > 10**9 and late.block[0] < 40


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
