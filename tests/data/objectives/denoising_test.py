"""Span denoising against its definition: what goes, what stays, and how often."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seqrecipes.data import spans
from seqrecipes.data.objectives import SpanDenoise
from seqrecipes.data.objectives.base import generator
from seqrecipes.errors import UserError
from tests.data.objectives.harness import (
    BOS,
    EOS,
    LARGE,
    UNK,
    check_documented,
    removed_spans,
    run_lists,
    text,
)

EXACT = [
    SpanDenoise(replace, zero_spans=zeros)
    for replace, zeros in (("drop", "ignore"), ("mask", "ignore"), ("mask", "insert"))
]


@pytest.mark.parametrize(
    "replace, source",
    [("mask", [0, 10, 11, 88, 14, 15, 88, 17, 2]), ("drop", [0, 10, 11, 14, 15, 17, 2])],
)
def test_docstring_example(replace, source):
    # 2.4 + 0.7 -> three tokens. Lengths two, two (trimmed to one), unused; the trimmed one stays
    # in its place; slots 2 and 4 of the six around the five tokens that stay.
    two = (0.2 + 0.05) / 0.95  # P(1 <= X < 2) is 0.15, P(X = 2) is 0.22
    expected = {
        "encoder_input_tokens": source,
        "decoder_input_tokens": [2, 0, 10, 11, 12, 13, 14, 15, 16, 17],
        "decoder_target_tokens": [0, 10, 11, 12, 13, 14, 15, 16, 17, 2],
    }
    check_documented(
        SpanDenoise(replace, rate=0.3),
        {"payload": [10, 11, 12, 13, 14, 15, 16, 17]},
        [0.7, [two, two, 0.5], 0.9, [0.9, 0.8, 0.1, 0.7, 0.2, 0.6]],
        expected,
    )


def source_of(objective, payload, index, seed=0):
    return objective(payload, generator(seed, 0, index), LARGE)["encoder_input_tokens"]


def test_lengths_are_poisson_given_positive():
    payload = text([15_000])
    found = [removed_spans(payload, source_of(SpanDenoise("drop"), payload, i)) for i in range(7)]
    lengths = np.array([length for one in found for _, length in one])
    assert abs(lengths.sum() - 7 * 2250) <= 7
    assert abs(lengths.mean() - 3 / (1 - math.exp(-3))) < 5 * 1.6 / math.sqrt(lengths.size)
    observed = [np.count_nonzero(lengths == k) for k in range(1, 9)]
    observed.append(np.count_nonzero(lengths >= 9))
    expected = np.array([*(stats.poisson.pmf(k, 3) for k in range(1, 9)), stats.poisson.sf(8, 3)])
    expected *= lengths.size / expected.sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-4


def length_distribution(budget, mean):
    """Ordered lengths -> probability: draw until the budget is reached, trim, shuffle."""
    drawn: dict[tuple[int, ...], float] = defaultdict(float)

    def draw(lengths, probability):
        left = budget - sum(lengths)
        for length in range(1, left):
            draw((*lengths, length), probability * stats.poisson.pmf(length, mean))
        drawn[(*lengths, left)] += probability * stats.poisson.sf(left - 1, mean)

    draw((), 1.0)
    positive = stats.poisson.sf(0, mean)
    shuffled: dict[tuple[int, ...], float] = defaultdict(float)
    for lengths, probability in drawn.items():
        orders = list(itertools.permutations(lengths))
        for order in orders:
            shuffled[order] += probability / positive ** len(lengths) / len(orders)
    return shuffled


@pytest.mark.parametrize("mean", [1.0, 3.0])
def test_the_trimmed_length_may_stand_anywhere(mean):
    expected = length_distribution(5, mean)
    assert sum(expected.values()) == pytest.approx(1)
    payload, objective = text([100]), SpanDenoise("drop", rate=0.05, mean_span=mean)
    draws = 5000
    counts = Counter(
        tuple(n for _, n in removed_spans(payload, source_of(objective, payload, i)))
        for i in range(draws)
    )
    assert set(counts) <= set(expected)
    frequent = [lengths for lengths in expected if draws * expected[lengths] > 5]
    assert len(frequent) > 10
    rare = draws - sum(counts[lengths] for lengths in frequent)
    probabilities = [expected[lengths] for lengths in frequent]
    observed = [*(counts[lengths] for lengths in frequent), rare]
    wanted = [draws * p for p in (*probabilities, 1 - sum(probabilities))]
    if wanted[-1] < 5:
        observed = [*observed[:-2], observed[-2] + observed[-1]]
        wanted = [*wanted[:-2], wanted[-2] + wanted[-1]]
    assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_rate_is_exact():
    payload = text([200, 208, 100])
    removed = [510 + 2 - source_of(SpanDenoise("drop"), payload, i).size for i in range(2000)]
    assert set(removed) <= {math.floor(0.15 * 508), math.floor(0.15 * 508) + 1}
    assert abs(np.mean(removed) / 508 - 0.15) < 1e-4


@settings(max_examples=200, deadline=None)
@given(run_lists, st.integers(0, 2**32), st.sampled_from(EXACT), st.sampled_from((LARGE.doc, UNK)))
def test_properties(runs, index, objective, special):
    payload = text(runs, special)
    example = objective(payload, generator(5, 1, index), LARGE)
    source, target = example["encoder_input_tokens"], example["decoder_target_tokens"]
    assert target.tolist() == [BOS, *payload, EOS]
    assert example["decoder_input_tokens"].tolist() == [EOS, *target[:-1]]
    assert source[0] == BOS and source[-1] == EOS

    ordinary = sum(runs)
    found = removed_spans(payload, source)
    removed = sum(length for _, length in found)
    assert removed in (math.floor(0.15 * ordinary), math.floor(0.15 * ordinary) + 1)
    assert all(payload[start : start + n].min() >= 100 for start, n in found)
    assert all(payload[start : start + n].max() < LARGE.mask for start, n in found)
    masks = np.count_nonzero(source == LARGE.mask)
    if objective.replace == "drop":
        assert masks == 0 and len(source) == len(target) - removed
    elif objective.zero_spans == "ignore":
        # Spans do not touch, so every stretch that is gone is one span with one mask.
        assert masks == len(found) and len(source) == len(target) - removed + masks
    else:
        assert masks >= len(found) and len(source) == len(target) - removed + masks

    # What stays is the original, in order: refilling the masks gives the target back.
    rebuilt, position = [], 0
    gone = dict(found)
    for token in [*source[1:-1].tolist(), None]:
        if token == LARGE.mask and position not in gone:
            continue  # inserted
        if position in gone and (token == LARGE.mask or objective.replace == "drop"):
            rebuilt += payload[position : position + gone[position]].tolist()
            position += gone[position]
        if token is not None and token != LARGE.mask:
            rebuilt.append(token)
            position += 1
    assert rebuilt == payload.tolist()


def test_insertions_are_the_zeros_of_the_distribution():
    """Among all lengths drawn, a share of P(0) inserts a mask, uniformly between tokens."""
    payload = text([510])
    objective = SpanDenoise("mask", zero_spans="insert")
    spans_found = inserted = 0
    places: Counter[int] = Counter()
    for i in range(3000):
        source = source_of(objective, payload, i)
        found = len(removed_spans(payload, source))
        is_mask = source == LARGE.mask
        spans_found += found
        inserted += np.count_nonzero(is_mask) - found
        position, gone = 0, dict(removed_spans(payload, source))
        for at, token in enumerate(source[1:-1].tolist()):
            if token != LARGE.mask:
                position = token - 100 + 1
            elif position in gone:
                position += gone[position]
            else:
                places[int(4 * (at / source.size))] += 1
    share = inserted / (inserted + spans_found)
    sd = math.sqrt(math.exp(-3) / (inserted + spans_found))
    assert abs(share - math.exp(-3)) < 5 * sd
    assert stats.chisquare([places[quarter] for quarter in range(4)]).pvalue > 1e-4


def test_static_lengths_of_a_full_sequence():
    assert SpanDenoise("drop").lengths(510, 0) == {
        "encoder_input_tokens": 440,  # 512 - 76 = 436, to a multiple of 8
        "decoder_input_tokens": 512,
        "decoder_target_tokens": 512,
    }
    # 80 specials fewer to choose from: 512 - floor(0.15 * 430) = 448.
    assert SpanDenoise("drop").lengths(510, 80)["encoder_input_tokens"] == 448
    assert 460 < SpanDenoise("mask").lengths(510, 0)["encoder_input_tokens"] < 500
    assert SpanDenoise("mask").lengths(510, 200)["encoder_input_tokens"] == 512


@pytest.mark.parametrize("setting", ["_SOON", "_MANY_REPEATS", "_MANY_CROSSINGS"])
def test_placement_is_uniform(setting, monkeypatch):
    """Given ordered span lengths, all placements that do not touch or cross come equally often.

    So with several trials at a time, as in blocks of some documents, with one at a time, and by
    counting, as in blocks of many.
    """
    monkeypatch.setattr(spans, setting, 0.0)
    runs = [5, 2, 6]
    payload = text(runs)
    objective = SpanDenoise("drop", rate=0.4, mean_span=1.5)
    ordinary = [i for i, x in enumerate(payload) if x != LARGE.doc]
    counts: dict[tuple, Counter] = defaultdict(Counter)
    for i in range(15_000):
        gone = removed_spans(payload, source_of(objective, payload, i, seed=9))
        counts[tuple(n for _, n in gone)][tuple(s for s, _ in gone)] += 1

    def is_allowed(starts, lengths):
        # Among ordinary tokens: a gap between spans, and no special token inside one.
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        return (
            ends[-1] <= len(ordinary)
            and all(start > end for start, end in zip(starts[1:], ends[:-1], strict=True))
            and all(
                ordinary[end - 1] - ordinary[start] == end - 1 - start
                for start, end in zip(starts, ends, strict=True)
            )
        )

    tested = 0
    for lengths, observed in counts.items():
        allowed = {
            tuple(ordinary[s] for s in starts)
            for starts in itertools.combinations(range(sum(runs)), len(lengths))
            if is_allowed(starts, lengths)
        }
        assert set(observed) <= allowed
        total = sum(observed.values())
        if total > 10 * len(allowed) > 10:
            p_value = stats.chisquare([observed[a] for a in allowed]).pvalue
            assert p_value > 1e-4, lengths
            tested += 1
    assert tested >= 3


def test_trying_and_counting_both_happen(monkeypatch):
    """Few documents are placed by trying, many by counting."""
    counted = []
    by_counting = spans._place_by_counting
    monkeypatch.setattr(
        spans, "_place_by_counting", lambda *args: counted.append(1) or by_counting(*args)
    )
    for runs, calls in (([100] * 5, 0), ([30] * 16, 0), ([8] * 56, 1)):
        counted.clear()
        source_of(SpanDenoise("drop"), text(runs), 0)
        assert len(counted) == calls


def test_many_short_runs_keep_the_exact_number():
    """Runs too short for the drawn spans: still exactly B tokens, none of them special."""
    for size in (1, 2, 3):
        payload = text([size] * (510 // (size + 1)))
        ordinary = np.count_nonzero(payload != LARGE.doc)
        for i in range(20):
            source = source_of(SpanDenoise("mask"), payload, i)
            found = removed_spans(payload, source)
            removed = sum(n for _, n in found)
            assert removed in (math.floor(0.15 * ordinary), math.floor(0.15 * ordinary) + 1)
            assert np.count_nonzero(source == LARGE.mask) == len(found)


def test_long_texts_do_not_overflow():
    """So many placements that their number exceeds what a double can hold."""
    payload = text([40] * 200)
    found = removed_spans(payload, source_of(SpanDenoise("drop"), payload, 0))
    assert sum(n for _, n in found) == 0.15 * 8000
    starts = np.array([start for start, _ in found])
    quarters = np.bincount(starts * 4 // payload.size)
    assert quarters.size == 4 and quarters.min() > 60  # of about 380


def bart_reference(starts, lengths, payload, is_mask):
    """BART's span noise, token by token: (source, where spans end at a special token)."""
    removed, masks = set(), set()
    for start, length in zip(starts, lengths, strict=True):
        for position in range(start, start + length):
            if position == len(payload) or payload[position] == LARGE.doc:
                break
            (masks if is_mask and position == start else removed).add(position)
    masks -= removed
    source = [LARGE.mask if i in masks else int(x) for i, x in enumerate(payload)]
    return [BOS, *(x for i, x in enumerate(source) if i not in removed), EOS]


@settings(max_examples=100, deadline=None)
@given(run_lists, st.integers(0, 2**32), st.sampled_from(("drop", "mask")))
def test_bart_compat_is_the_reference_on_its_own_draws(runs, index, replace):
    payload = text(runs)
    objective = SpanDenoise(replace, rate=0.5, sampler="bart_compat")
    starts, lengths = [], []

    class Spy(SpanDenoise):
        def _draw_lengths(self, budget, count, uniform):
            drawn = super()._draw_lengths(budget, count, uniform)
            lengths[:] = drawn[0].tolist()
            return drawn

    original = spans.choose

    def choose(size, count, uniform):
        chosen = original(size, count, uniform)
        ordinary = [i for i, x in enumerate(payload) if x != LARGE.doc]
        starts[:] = [ordinary[c] for c in chosen]
        return chosen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seqrecipes.data.objectives.denoising.choose", choose)
        spy = Spy(replace, rate=objective.rate, sampler="bart_compat")
        source = source_of(spy, payload, index).tolist()
    assert sum(lengths) == math.ceil(0.5 * sum(runs))
    assert source == bart_reference(starts, lengths, payload, replace == "mask")


def test_bart_compat_covers_less_than_the_rate():
    payload = text([510])
    objective = SpanDenoise("mask", sampler="bart_compat", zero_spans="insert")
    removed, masks = [], []
    for i in range(3000):
        source = source_of(objective, payload, i)
        masks.append(np.count_nonzero(source == LARGE.mask))
        removed.append(510 - (source.size - 2 - masks[-1]))
    assert abs(np.mean(removed) / 510 - 0.1426) < 0.001
    assert 22 < np.mean(masks) < 26


def test_bart_compat_drop_leaves_no_mask():
    payload = text([40, 40])
    objective = SpanDenoise("drop", sampler="bart_compat")
    for i in range(50):
        source = source_of(objective, payload, i)
        assert LARGE.mask not in source and LARGE.doc in source
        assert 0 < 83 - source.size <= 12


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SpanDenoise(rate=-0.1), "SpanDenoise.rate = -0.1"),
        (lambda: SpanDenoise(rate=0.8), "do not touch cover less than 0.75"),
        (lambda: SpanDenoise(mean_span=0.5), "SpanDenoise.mean_span = 0.5"),
        (lambda: SpanDenoise(replace="delete"), "choose one of drop, mask"),
        (lambda: SpanDenoise(sampler="t5"), "choose one of exact, bart_compat"),
        (lambda: SpanDenoise("mask", zero_spans="keep"), "choose one of ignore, insert"),
        (lambda: SpanDenoise("drop", zero_spans="insert"), "inserting needs replace='mask'"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)
