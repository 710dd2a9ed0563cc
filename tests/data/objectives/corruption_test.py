"""Span corruption against T5's definition: counts, placement, encoding, and the way back."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from seqrecipes.data.objectives import SpanCorruption, TranslationSpanCorruption
from seqrecipes.data.objectives.base import generator
from seqrecipes.errors import UserError
from tests.data.objectives.harness import BOS, EOS, LARGE, UNK, check_documented, run_lists, text

T5 = SpanCorruption(roll=False, final_sentinel=False)
switches = st.fixed_dictionaries(
    {name: st.booleans() for name in ("roll", "final_sentinel", "bos")}
)
shapes = st.sampled_from(
    [
        {"rate": 0.15},
        {"rate": 0.5},
        {"rate": 0.3, "mean_span": 1.0},
        {"rate": 0.8, "mean_span": 9.0},
    ]
)


def test_docstring_example():
    # Three tokens in two spans: lengths (2, 1), with (3, 2) before them, moved 7 to the right.
    check_documented(
        SpanCorruption(rate=0.4, mean_span=1.5),
        {"payload": [10, 11, 12, 13, 14, 15, 16, 17]},
        [[0.9, 0.1], [0.9, 0.8, 0.1, 0.7], 0.9],
        {
            "encoder_input_tokens": [10, 11, 90, 14, 15, 91, 17, 2],
            "decoder_input_tokens": [2, 90, 12, 13, 91, 16, 92],
            "decoder_target_tokens": [90, 12, 13, 91, 16, 92, 2],
        },
    )


def test_translation_docstring_example():
    # Three tokens in two spans: lengths (2, 1), with (2, 2) before them, not moved.
    check_documented(
        TranslationSpanCorruption(rate=0.4, mean_span=1.5),
        {"first": [10, 11, 12], "second": [20, 21, 22, 23]},
        [[0.9, 0.1], [0.9, 0.1, 0.8], 0.0],
        {
            "encoder_input_tokens": [10, 11, 90, 2, 91, 21, 22, 92, 2],
            "decoder_input_tokens": [2, 90, 12, 91, 20, 92, 23, 93],
            "decoder_target_tokens": [90, 12, 91, 20, 92, 23, 93, 2],
        },
    )


def sentinel_number(token):
    """k for sentinel k, None for other tokens."""
    return token - LARGE.first_sentinel if LARGE.first_sentinel <= token else None


def undo(example, objective):
    """An example back to (segments, segments of bools that say what was noise).

    Token by token; checks on the way that sentinels are unique, ascend and agree.
    """
    source = example["encoder_input_tokens"].tolist()
    target = example["decoder_target_tokens"].tolist()
    assert example["decoder_input_tokens"].tolist() == [EOS, *target[:-1]]
    assert target.pop() == EOS
    if objective.bos:
        assert source.pop(0) == BOS
    assert source[-1] == EOS

    spans: list[list[int]] = []
    for token in target:
        number = sentinel_number(token)
        if number is not None:
            assert number == len(spans)
            spans.append([])
        else:
            spans[-1].append(token)
    if objective.final_sentinel:
        assert spans.pop() == []
    assert all(spans)  # no sentinel without tokens

    segments: list[list[int]] = [[]]
    noise: list[list[bool]] = [[]]
    used = 0
    for token in source:
        number = sentinel_number(token)
        if number is not None:
            assert number == used
            segments[-1] += spans[used]
            noise[-1] += [True] * len(spans[used])
            used += 1
        elif token == EOS:
            segments.append([])
            noise.append([])
        else:
            segments[-1].append(token)
            noise[-1].append(False)
    assert used == len(spans)
    assert segments.pop() == [] and noise.pop() == []
    return segments, noise


def encode(segments, noise, objective):
    """Source and target as the definition has them, token by token."""
    source, target, used = [BOS] if objective.bos else [], [], 0
    for tokens, flags in zip(segments, noise, strict=True):
        before = False
        for token, flag in zip(tokens, flags, strict=True):
            if flag and not before:
                source.append(LARGE.first_sentinel + used)
                target.append(LARGE.first_sentinel + used)
                used += 1
            (target if flag else source).append(token)
            before = flag
        source.append(EOS)
    if objective.final_sentinel:
        target.append(LARGE.first_sentinel + used)
    return source, [*target, EOS]


def runs_of(flags, wrap=False):
    """How many maximal runs of True there are; on a circle, where asked."""
    starts = sum(flag and not before for before, flag in itertools.pairwise([False, *flags]))
    return starts - (wrap and starts > 1 and flags[0] and flags[-1])


def check(example, segments, noised, objective):
    """All that holds of an example whose noise was drawn over the text `noised`.

    Args:
      noised: (first, one past the last) index among the tokens of all segments.
    """
    found, noise = undo(example, objective)
    assert found == [ids.tolist() for ids in segments]
    source, target = encode(found, noise, objective)
    assert example["encoder_input_tokens"].tolist() == source
    assert example["decoder_target_tokens"].tolist() == target
    assert [x for x in target[:-1] if sentinel_number(x) is None] == [
        x
        for tokens, flags in zip(found, noise, strict=True)
        for x, flag in zip(tokens, flags, strict=True)
        if flag
    ]

    flags = [flag for side in noise for flag in side]
    inside = flags[noised[0] : noised[1]]
    assert sum(flags) == sum(inside)
    size = len(inside)
    if size < 2:
        assert not any(inside)
        return
    # Python and NumPy round half to even, as TensorFlow does.
    count = min(max(int(np.round(objective.rate * size)), 1), size - 1)
    spans = min(max(int(np.round(count / objective.mean_span)), 1), size - count)
    assert sum(inside) == count
    assert runs_of(inside, wrap=objective.roll) == spans
    if not objective.roll:
        assert not inside[0] and inside[-1]


@settings(max_examples=200, deadline=None)
@given(run_lists, st.integers(0, 2**32), switches, shapes, st.sampled_from((LARGE.doc, UNK)))
def test_block_properties(runs, index, flags, shape, special):
    objective = SpanCorruption(**flags, **shape)
    payload = text(runs, special)
    example = objective(payload, generator(5, 1, index), LARGE)
    check(example, [payload], (0, payload.size), objective)


@settings(max_examples=200, deadline=None)
@given(run_lists, run_lists, st.integers(0, 2**32), switches, shapes, st.booleans())
def test_translation_properties(runs, other_runs, index, flags, shape, is_one):
    objective = TranslationSpanCorruption(**flags, **shape, mask_side="one" if is_one else "both")
    first, second = text(runs), text(other_runs, first=10_000)
    example = objective(first, second, generator(5, 1, index), LARGE)
    noised = (0, first.size + second.size)
    if is_one:
        _, noise = undo(example, objective)
        if any(noise[0]):
            noised = (0, first.size)
        elif any(noise[1]):
            noised = (first.size, first.size + second.size)
        else:  # of the side that was drawn, which has one token or none
            noised = (0, min(first.size, second.size, 1))
    check(example, [first, second], noised, objective)


def test_counts_of_the_papers():
    """T5's 77 tokens in 26 spans of 512; 256 in 85 at a rate of one half."""
    for rate, tokens, spans in ((0.15, 77, 26), (0.5, 256, 85)):
        objective = SpanCorruption(rate=rate, roll=False, final_sentinel=False)
        target = objective(text([512]), generator(0, 0, 0), LARGE)["decoder_target_tokens"]
        assert target.size == tokens + spans + 1
        assert np.count_nonzero(target >= LARGE.first_sentinel) == spans


def test_halves_are_rounded_to_even():
    for size, noise in ((10, 2), (30, 4), (50, 8), (70, 10)):  # 1.5, 4.5, 7.5, 10.5
        flags = undo(T5(text([size]), generator(0, 0, 0), LARGE), T5)[1][0]
        assert sum(flags) == noise


def compositions(total, parts):
    """All ways to write `total` as an ordered sum of positive numbers."""
    if parts == 1:
        return [(total,)]
    return [
        (first, *rest)
        for first in range(1, total - parts + 2)
        for rest in compositions(total - first, parts - 1)
    ]


def mask_distribution(size, noise, spans, is_rolled):
    """Noise flags -> probability."""
    masks: dict[tuple[bool, ...], float] = defaultdict(float)
    for kept, gone in itertools.product(
        compositions(size - noise, spans), compositions(noise, spans)
    ):
        mask: list[bool] = []
        for length, noise_length in zip(kept, gone, strict=True):
            mask += [False] * length + [True] * noise_length
        for offset in range(size) if is_rolled else (0,):
            masks[(*mask[size - offset :], *mask[: size - offset])] += 1
    total = sum(masks.values())
    return {mask: weight / total for mask, weight in masks.items()}


def check_distribution(observed, expected):
    assert set(observed) <= set(expected)
    draws = sum(observed.values())
    frequencies = [observed[mask] for mask in expected]
    assert stats.chisquare(frequencies, [draws * p for p in expected.values()]).pvalue > 1e-4


@pytest.mark.parametrize("is_rolled", [False, True])
@pytest.mark.parametrize("size, noise, spans", [(9, 4, 2), (10, 4, 3), (9, 4, 4), (8, 5, 2)])
def test_all_compositions_are_equally_likely(size, noise, spans, is_rolled):
    objective = SpanCorruption(
        rate=noise / size, mean_span=noise / spans, roll=is_rolled, final_sentinel=False
    )
    expected = mask_distribution(size, noise, spans, is_rolled)
    observed = Counter(
        tuple(undo(objective(text([size]), generator(3, 0, i), LARGE), objective)[1][0])
        for i in range(15 * len(expected) + 500)
    )
    check_distribution(observed, expected)


@pytest.mark.parametrize("is_rolled", [False, True])
@pytest.mark.parametrize("border", [1, 4, 8])
def test_the_border_of_translations_changes_no_probability(border, is_rolled):
    objective = TranslationSpanCorruption(rate=4 / 9, mean_span=2.0, roll=is_rolled)
    expected = mask_distribution(9, 4, 2, is_rolled)
    sides = text([border]), text([9 - border], first=10_000)
    observed: Counter[tuple[bool, ...]] = Counter()
    for i in range(2000):
        noise = undo(objective(*sides, generator(3, 0, i), LARGE), objective)[1]
        observed[(*noise[0], *noise[1])] += 1
    check_distribution(observed, expected)


def test_one_side_is_either():
    objective = TranslationSpanCorruption(mask_side="one", rate=4 / 9, mean_span=2.0, roll=False)
    masks = mask_distribution(9, 4, 2, False)
    whole = (False,) * 9
    expected = {(*m, *whole): p / 2 for m, p in masks.items()}
    expected |= {(*whole, *m): p / 2 for m, p in masks.items()}
    sides = text([9]), text([9], first=10_000)
    observed: Counter[tuple[bool, ...]] = Counter()
    draws = 5000
    for i in range(draws):
        noise = undo(objective(*sides, generator(3, 0, i), LARGE), objective)[1]
        observed[(*noise[0], *noise[1])] += 1
    check_distribution(observed, expected)
    first = sum(count for mask, count in observed.items() if any(mask[:9]))
    assert abs(first - draws / 2) < 4 * np.sqrt(draws / 4)


def test_rolling_spreads_the_noise_evenly():
    counts = np.zeros(40)
    for i in range(3000):
        flags = undo(SpanCorruption()(text([40]), generator(0, 0, i), LARGE), SpanCorruption())
        counts += flags[1][0]
    # Tokens of an example depend on each other, so this is a bound instead of a test of fit.
    assert np.abs(counts / 3000 - 0.15).max() < 5 * np.sqrt(0.15 * 0.85 / 3000)


@pytest.mark.parametrize("objective", [SpanCorruption(), TranslationSpanCorruption()], ids=repr)
def test_texts_of_one_token_or_none(objective):
    count = 1 if objective.reads == "blocks" else 2
    for sizes in itertools.product((0, 1), repeat=count):
        if sum(sizes) > 1:
            continue
        segments = [text([size]) for size in sizes]
        example = objective(*segments, uniform=generator(0, 0, 0), specials=LARGE)
        expected = [x for ids in segments for x in (*ids.tolist(), EOS)]
        assert example["encoder_input_tokens"].tolist() == expected
        assert example["decoder_input_tokens"].tolist() == [EOS, LARGE.first_sentinel]
        assert example["decoder_target_tokens"].tolist() == [LARGE.first_sentinel, EOS]


def test_lengths_of_t5():
    assert T5.payload(512) == 568
    assert T5.lengths(568, 0) == {
        "encoder_input_tokens": 512,
        "decoder_input_tokens": 114,
        "decoder_target_tokens": 114,
    }
    assert T5.sentinels(568) == 28


def test_lengths_of_the_defaults():
    # As T5's, with a span cut in two by rolling, and one sentinel more at the end.
    objective = SpanCorruption()
    assert objective.payload(512) == 567
    assert objective.lengths(568, 0) == {
        "encoder_input_tokens": 513,
        "decoder_input_tokens": 116,
        "decoder_target_tokens": 116,
    }
    assert objective.sentinels(568) == 30
    assert SpanCorruption(bos=True).lengths(568, 0)["encoder_input_tokens"] == 514
    # 256 of 2 * 256 tokens in 85 spans, which rolling and the border may cut; two </s>.
    both = TranslationSpanCorruption()
    assert both.lengths(256, 0)["encoder_input_tokens"] == 512 - 256 + 87 + 2
    assert both.lengths(256, 0)["decoder_target_tokens"] == 256 + 87 + 1 + 1
    assert both.sentinels(256) == 88
    # 128 of 256 tokens in 43 spans, which rolling may cut; 256 more tokens and two </s>.
    one = TranslationSpanCorruption(mask_side="one")
    assert one.lengths(256, 0)["encoder_input_tokens"] == 512 - 128 + 44 + 2
    assert one.sentinels(256) == 45


@pytest.mark.parametrize(
    "objective",
    [
        T5,
        SpanCorruption(),
        SpanCorruption(bos=True, rate=0.5),
        SpanCorruption(rate=0.4, mean_span=1.0),
        TranslationSpanCorruption(),
        TranslationSpanCorruption(roll=False, rate=0.3),
        TranslationSpanCorruption(mask_side="one"),
    ],
    ids=repr,
)
def test_static_lengths_are_reached(objective):
    """Bounds that no example reaches would cost padding in every batch."""
    sizes = (10,) if objective.reads == "blocks" else (10, 10)
    longest: Counter[str] = Counter()
    for i in range(1500):
        segments = [text([size]) for size in sizes]
        example = objective(*segments, uniform=generator(0, 0, i), specials=LARGE)
        for name, ids in example.items():
            longest[name] = max(longest[name], ids.size)
    assert longest == objective.lengths(10, 0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SpanCorruption(rate=0.0), "SpanCorruption.rate = 0.0: a rate lies strictly"),
        (lambda: SpanCorruption(rate=1.0), "SpanCorruption.rate = 1.0: a rate lies strictly"),
        (lambda: SpanCorruption(mean_span=0.9), "SpanCorruption.mean_span = 0.9"),
        (lambda: SpanCorruption(rate=0.8), "do not touch cover less than 0.75"),
        (lambda: TranslationSpanCorruption(rate=1.5), "TranslationSpanCorruption.rate = 1.5"),
        (lambda: TranslationSpanCorruption(mask_side="none"), "choose one of both, one"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)
