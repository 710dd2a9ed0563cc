"""Masking against its definition, on blocks, translations and pairs."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.objectives.base import generator
from seqrecipes.data.objectives.mlm import Mlm, PairMlm, Tlm
from seqrecipes.errors import UserError
from tests.data.objectives.harness import (
    BOS,
    EOS,
    LARGE,
    SMALL,
    UNK,
    check_documented,
    run_lists,
    text,
)


def test_mlm_docstring_example():
    # 1.05 + 0.97 -> two tokens; the smallest keys at 2 and 5; one masked, one kept.
    keys = [0.5, 0.6, 0.1, 0.7, 0.8, 0.2, 0.9]
    check_documented(
        Mlm(),
        {"payload": [10, 11, 12, 13, 14, 15, 16]},
        [0.97, keys, [[0.3, 0.95], [0.0, 0.0]]],
        {
            "encoder_input_tokens": [0, 10, 11, 88, 13, 14, 15, 16, 2],
            "masked_positions": [3, 6],
            "masked_targets": [12, 15],
        },
    )


def test_tlm_docstring_example():
    keys = [0.5, 0.1, 0.6, 0.7, 0.8, 0.2, 0.9]
    check_documented(
        Tlm(),
        {"first": [10, 11, 12], "second": [20, 21, 22, 23]},
        [0.97, keys, [[0.3, 0.95], [0.0, 0.0]]],
        {
            "encoder_input_tokens": [0, 10, 88, 12, 2, 20, 21, 22, 23, 2],
            "masked_positions": [2, 7],
            "masked_targets": [11, 22],
        },
    )


def test_pair_docstring_example():
    # 0.45 + 0.6 and 0.6 + 0.5 -> one token of each.
    first = [0.6, [0.5, 0.1, 0.6], [[0.3], [0.0]]]
    second = [0.5, [0.5, 0.6, 0.1, 0.7], [[0.95], [0.0]]]
    check_documented(
        PairMlm("adjacent"),
        {"first": [10, 11, 12], "second": [20, 21, 22, 23]},
        first + second,
        {
            "first_input_tokens": [0, 10, 88, 12, 2],
            "first_masked_positions": [2],
            "first_masked_targets": [11],
            "second_input_tokens": [0, 20, 21, 22, 23, 2],
            "second_masked_positions": [3],
            "second_masked_targets": [22],
        },
    )


def check_masked(payload, inputs, positions, targets, rate):
    """All that holds of one masked text; returns how many tokens it might have selected.

    Args:
      payload: the tokens between <s> and </s>, those of all sides with </s> between them.
    """
    original = np.concatenate(([BOS], payload, [EOS]))
    assert inputs.size == original.size
    assert (np.diff(positions) > 0).all()
    assert (targets == original[positions]).all()
    assert ((targets >= 4) & (targets < LARGE.mask)).all()
    assert (np.delete(inputs, positions) == np.delete(original, positions)).all()
    seen = inputs[positions]
    assert ((seen >= 4) & (seen <= LARGE.mask)).all()
    eligible = np.count_nonzero((original >= 4) & (original < LARGE.mask))
    assert targets.size in (math.floor(rate * eligible), math.floor(rate * eligible) + 1)
    return eligible


@settings(max_examples=100, deadline=None)
@given(run_lists, run_lists, st.integers(0, 2**32), st.sampled_from((LARGE.doc, UNK)))
def test_masking_properties(runs, other_runs, index, special):
    first, second = text(runs, special), text(other_runs, special, first=10_000)
    pair = [*first, EOS, *second]
    for name in ("mlm", "tlm", "adjacent_mlm", "translation_mlm"):
        objective = OBJECTIVES[name]
        segments = (first,) if name == "mlm" else (first, second)
        example = objective(*segments, uniform=generator(5, 1, index), specials=LARGE)
        if name == "mlm":
            check_masked(first, *example.values(), 0.15)
        elif name == "tlm":
            check_masked(pair, *example.values(), 0.15)
        else:
            features = list(example.values())
            check_masked(first, *features[:3], objective.rate)
            check_masked(second, *features[3:], objective.rate)


def shares(objective, sides):
    """(eligible, selected, masked, replaced, kept) over about 1.2 million tokens."""
    rng = np.random.default_rng(0)
    eligible, counts = 0, np.zeros(4, np.int64)
    for i in range(2400 // sides):
        segments = []
        for _ in range(sides):
            payload = rng.integers(4, LARGE.mask, 512).astype(np.int32)
            payload[rng.choice(512, 5, replace=False)] = rng.choice([LARGE.doc, UNK], 5)
            segments.append(payload)
        example = objective(*segments, uniform=generator(1, 0, i), specials=LARGE)
        features = list(example.values())
        if objective.reads == "translations" and len(features) == 3:
            segments = [np.concatenate((segments[0], [EOS], segments[1]))]
        for side, payload in enumerate(segments):
            inputs, positions, targets = features[3 * side : 3 * side + 3]
            eligible += check_masked(payload, inputs, positions, targets, objective.rate)
            seen = inputs[positions]
            is_masked, is_kept = seen == LARGE.mask, seen == targets
            counts += [
                targets.size,
                is_masked.sum(),
                (~is_masked & ~is_kept).sum(),
                is_kept.sum(),
            ]
    return eligible, *counts.tolist()


@pytest.mark.parametrize("name, sides", [("mlm", 1), ("tlm", 2), ("translation_mlm", 2)])
def test_shares_over_a_million_tokens(name, sides):
    objective = OBJECTIVES[name]
    eligible, selected, masked, replaced, kept = shares(objective, sides)
    assert eligible > 1e6
    # The selection is exact but for rounding, which is random and without bias.
    texts = 2400 // sides if name == "tlm" else 2400
    assert abs(selected - objective.rate * eligible) < 5 * math.sqrt(texts / 4)
    for count, share in ((masked, 0.8), (replaced, 0.1), (kept, 0.1)):
        assert abs(count / selected - share) < 5 * math.sqrt(share * (1 - share) / selected)


def test_shares_can_be_chosen():
    objective = Mlm(rate=0.4, mask_share=0.3, random_share=0.7)
    eligible, selected, masked, replaced, kept = shares(objective, 1)
    assert abs(selected / eligible - 0.4) < 0.001
    assert abs(masked / selected - 0.3) < 5 * math.sqrt(0.21 / selected)
    assert kept < 5 * selected / LARGE.mask + 20  # a random id that is the old one
    assert replaced == selected - masked - kept


def test_random_ids_are_uniform_over_ordinary_ids():
    payload = np.full(90, 50, np.int32)
    objective = Mlm(rate=0.9, mask_share=0.0, random_share=1.0)
    counts: Counter[int] = Counter()
    for i in range(300):
        example = objective(payload, generator(2, 0, i), SMALL)
        counts.update(example["encoder_input_tokens"][example["masked_positions"]].tolist())
    assert set(counts) == set(range(4, 88))
    assert stats.chisquare([counts[i] for i in range(4, 88)]).pvalue > 1e-4


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_positions_are_uniform(rate):
    payload = text([20])
    counts: Counter[int] = Counter()
    for i in range(4000):
        example = Mlm(rate=rate)(payload, generator(3, 0, i), LARGE)
        counts.update(example["masked_positions"].tolist())
    assert stats.chisquare([counts[i] for i in range(1, 21)]).pvalue > 1e-4


def test_tlm_selects_from_both_sides_as_one_text():
    """The number on one side alone varies, as it must where the sum is what is fixed."""
    first, second = text([20]), text([20], first=10_000)
    counts: Counter[int] = Counter()
    for i in range(4000):
        positions = Tlm()(first, second, generator(3, 0, i), LARGE)["masked_positions"]
        assert positions.size == 6
        counts[np.count_nonzero(positions <= 20)] += 1
    expected = stats.hypergeom(40, 20, 6).pmf(np.arange(7)) * 4000
    assert stats.chisquare([counts[i] for i in range(7)], expected).pvalue > 1e-4


def test_sides_of_a_pair_have_noise_of_their_own():
    same = text([200])
    example = PairMlm("translations")(same, same, generator(0, 0, 0), LARGE)
    positions = [example[f"{side}_masked_positions"].tolist() for side in ("first", "second")]
    assert positions[0] != positions[1]


def test_static_lengths():
    assert Mlm().lengths(510, 0) == {
        "encoder_input_tokens": 512,
        "masked_positions": 77,
        "masked_targets": 77,
    }
    assert Tlm().payload(257) == 127
    assert Tlm(rate=0.25).lengths(127, 0) == {
        "encoder_input_tokens": 257,
        "masked_positions": 64,
        "masked_targets": 64,
    }
    assert PairMlm("translations", rate=0.25).lengths(126, 9) == {
        "first_input_tokens": 128,
        "first_masked_positions": 32,
        "first_masked_targets": 32,
        "second_input_tokens": 128,
        "second_masked_positions": 32,
        "second_masked_targets": 32,
    }


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Mlm(rate=0.0), "Mlm.rate = 0.0: a rate lies strictly between 0 and 1"),
        (lambda: Mlm(rate=1.0), "Mlm.rate = 1.0"),
        (lambda: Mlm(rate=float("nan")), "Mlm.rate = nan"),
        (lambda: Tlm(rate=-1.0), "Tlm.rate = -1.0"),
        (lambda: PairMlm("adjacent", rate=2.0), "PairMlm.rate = 2.0"),
        (lambda: Mlm(mask_share=1.5), "Mlm.mask_share = 1.5"),
        (lambda: Tlm(mask_share=0.8, random_share=0.3), "Tlm.random_share = 0.3"),
        (lambda: PairMlm("blocks"), "choose one of adjacent, translations"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)
