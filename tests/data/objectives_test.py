"""Noise against plain restatements of what it must be."""

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
from seqrecipes.data.objectives import (
    OBJECTIVES,
    Mlm,
    Objective,
    SpanDenoise,
    Specials,
    example_index,
    generator,
)
from seqrecipes.errors import UserError

BOS, PAD, EOS, UNK = range(4)
SMALL = Specials(BOS, PAD, EOS, UNK, mask=98, doc=99, vocab_size=100)
LARGE = Specials(BOS, PAD, EOS, UNK, mask=200_000, doc=200_001, vocab_size=200_002)
SPAN_OBJECTIVES = [
    SpanDenoise(replace, zero_spans=zeros)
    for replace, zeros in (("drop", "ignore"), ("mask", "ignore"), ("mask", "insert"))
]
payloads = st.lists(st.integers(0, 12), max_size=30)  # lengths of runs between specials


class Scripted:
    """Hands out the given uniforms, to make a literal example happen."""

    def __init__(self, *draws: float | list[float]):
        self.draws = list(draws)

    def random(self, size: int | None = None) -> float | np.ndarray:
        draw = self.draws.pop(0)
        assert np.size(draw) == (size or 1)
        return draw if size is None else np.array(draw)


def run_payload(runs: list[int], special: int = LARGE.doc) -> np.ndarray:
    """Distinct ordinary ids in runs of the given sizes, separated by a special id."""
    ids, number = [], itertools.count(100)
    for i, size in enumerate(runs):
        ids += [special] * (i > 0) + [next(number) for _ in range(size)]
    return np.array(ids, np.int32)


def removed_spans(payload: np.ndarray, source: np.ndarray) -> list[tuple[int, int]]:
    """(start, length) of the maximal stretches of a payload of distinct ids that are gone."""
    kept = set(source.tolist())
    gone = [int(x) not in kept for x in payload]
    spans, start = [], 0
    for is_gone, stretch in itertools.groupby(gone):
        length = len(list(stretch))
        if is_gone:
            spans.append((start, length))
        start += length
    return spans


def test_mlm_docstring_example():
    payload = np.arange(10, 17, dtype=np.int32)
    # 1.05 + 0.97 -> two tokens; the smallest keys at 2 and 5; one masked, one kept.
    script = Scripted(0.97, [0.5, 0.6, 0.1, 0.7, 0.8, 0.2, 0.9], [0.3, 0.95], [0.0, 0.0])
    example = Mlm()(payload, script, SMALL)
    expected = {
        "encoder_input_tokens": [0, 10, 11, 98, 13, 14, 15, 16, 2],
        "masked_positions": [3, 6],
        "masked_targets": [12, 15],
    }
    assert {name: ids.tolist() for name, ids in example.items()} == expected
    for ids in (payload.tolist(), *expected.values()):
        assert str(ids) in Mlm.__doc__


@pytest.mark.parametrize(
    "replace, source",
    [("drop", [0, 10, 11, 14, 15, 17, 2]), ("mask", [0, 10, 11, 98, 14, 15, 98, 17, 2])],
)
def test_span_docstring_example(replace, source):
    payload = np.arange(10, 18, dtype=np.int32)
    # 2.4 + 0.7 -> three tokens. Lengths two, two (trimmed to one), unused; kept in order; slots 2
    # and 4 of the six around the five tokens that stay.
    two = (0.2 + 0.05) / 0.95  # P(1 <= X < 2) is 0.15, P(X = 2) is 0.22
    script = Scripted(0.7, [two, two, 0.5], [0.1, 0.9], [0.9, 0.8, 0.1, 0.7, 0.2, 0.6])
    example = SpanDenoise(replace, rate=0.3)(payload, script, SMALL)
    expected = {
        "encoder_input_tokens": source,
        "decoder_input_tokens": [2, 0, 10, 11, 12, 13, 14, 15, 16, 17],
        "decoder_target_tokens": [0, 10, 11, 12, 13, 14, 15, 16, 17, 2],
    }
    assert {name: ids.tolist() for name, ids in example.items()} == expected
    for ids in (payload.tolist(), *expected.values()):
        assert str(ids) in SpanDenoise.__doc__


def test_mlm_shares_over_a_million_tokens():
    rng = np.random.default_rng(0)
    eligible = selected = masked = replaced = kept = 0
    for i in range(2000):
        payload = rng.integers(4, LARGE.mask, 512).astype(np.int32)
        payload[rng.choice(512, 5, replace=False)] = rng.choice([LARGE.doc, UNK], 5)
        example = Mlm()(payload, generator(1, 0, i), LARGE)
        positions, targets = example["masked_positions"], example["masked_targets"]
        inputs = example["encoder_input_tokens"]
        assert (np.diff(positions) > 0).all()
        assert (targets == payload[positions - 1]).all()
        assert ((targets >= 4) & (targets < LARGE.mask)).all()
        untouched = np.delete(inputs, positions)
        assert (untouched == np.delete(np.r_[BOS, payload, EOS], positions)).all()
        seen = inputs[positions]
        assert ((seen >= 4) & (seen <= LARGE.mask)).all()
        eligible += 507
        selected += positions.size
        masked += np.count_nonzero(seen == LARGE.mask)
        kept += np.count_nonzero(seen == targets)
        replaced += np.count_nonzero((seen != targets) & (seen != LARGE.mask))
    assert eligible > 1e6
    assert abs(selected / eligible - 0.15) < 5 * math.sqrt(0.15 * 0.85 / eligible)
    for count, share in ((masked, 0.8), (replaced, 0.1), (kept, 0.1)):
        assert abs(count / selected - share) < 5 * math.sqrt(share * (1 - share) / selected)


def test_mlm_random_ids_are_uniform_over_ordinary_ids():
    payload = np.full(90, 50, np.int32)
    objective = Mlm(rate=0.9, mask_share=0.0, random_share=1.0)
    counts = Counter()
    for i in range(300):
        example = objective(payload, generator(2, 0, i), SMALL)
        counts.update(example["encoder_input_tokens"][example["masked_positions"]].tolist())
    assert set(counts) == set(range(4, 98))
    assert stats.chisquare([counts[i] for i in range(4, 98)]).pvalue > 1e-4


def test_mlm_positions_are_uniform():
    payload = np.arange(10, 30, dtype=np.int32)
    counts = Counter()
    for i in range(4000):
        counts.update(Mlm()(payload, generator(3, 0, i), SMALL)["masked_positions"].tolist())
    assert stats.chisquare([counts[i] for i in range(1, 21)]).pvalue > 1e-4


def test_span_lengths_are_poisson_given_positive():
    payload = run_payload([100_000])
    source = SpanDenoise("drop")(payload, generator(0, 0, 0), LARGE)["encoder_input_tokens"]
    lengths = np.array([length for _, length in removed_spans(payload, source)])
    assert abs(lengths.sum() - 15_000) <= 1
    assert abs(lengths.mean() - 3 / (1 - math.exp(-3))) < 5 * 1.6 / math.sqrt(lengths.size)
    observed = [np.count_nonzero(lengths == k) for k in range(1, 9)]
    observed.append(np.count_nonzero(lengths >= 9))  # holds a trimmed one at worst
    expected = np.array([*(stats.poisson.pmf(k, 3) for k in range(1, 9)), stats.poisson.sf(8, 3)])
    expected *= lengths.size / expected.sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-4


def test_span_rate_is_exact():
    payload = run_payload([200, 208, 100])
    removed = [
        len(payload) + 2 - len(SpanDenoise("drop")(payload, generator(0, 0, i), LARGE)[name])
        for i in range(2000)
        for name in ["encoder_input_tokens"]
    ]
    assert set(removed) <= {math.floor(0.15 * 508), math.floor(0.15 * 508) + 1}
    assert abs(np.mean(removed) / 508 - 0.15) < 1e-4


@settings(max_examples=150, deadline=None)
@given(payloads, st.integers(0, 2**32), st.sampled_from(SPAN_OBJECTIVES), st.booleans())
def test_span_properties(runs, index, objective, is_unknown):
    payload = run_payload(runs, special=UNK if is_unknown else LARGE.doc)
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
        assert masks >= len(found)

    # What stays is the original, in order: refilling the masks gives the target back.
    rebuilt, position = [], 0
    gone = dict(found)
    for token in source[1:-1].tolist():
        if token != LARGE.mask:
            while position in gone:  # dropped without a trace
                rebuilt += payload[position : position + gone[position]].tolist()
                position += gone[position]
            rebuilt.append(token)
            position += 1
        elif position in gone:
            rebuilt += payload[position : position + gone[position]].tolist()
            position += gone[position]
    if position in gone:
        rebuilt += payload[position : position + gone[position]].tolist()
    assert rebuilt == payload.tolist()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=200),
    st.integers(8, 600),
    st.integers(0, 2**32),
    st.sampled_from([*OBJECTIVES.values(), *SPAN_OBJECTIVES, SpanDenoise("mask", rate=0.5)]),
)
def test_static_lengths_hold(runs, payload_size, index, objective):
    payload = run_payload(runs)[:payload_size]
    max_specials = int(np.count_nonzero(payload == LARGE.doc))
    lengths = objective.lengths(payload_size + 2, max_specials)
    example = objective(payload, generator(5, 1, index), LARGE)
    assert set(lengths) == set(example)
    for name, ids in example.items():
        assert ids.dtype == np.int32 and ids.size <= lengths[name]


def test_static_lengths_of_a_full_sequence():
    assert SpanDenoise("drop").lengths(512, 0) == {
        "encoder_input_tokens": 440,  # 512 - 76 = 436, to a multiple of 8
        "decoder_input_tokens": 512,
        "decoder_target_tokens": 512,
    }
    # Three specials fewer to choose from: floor(0.15 * 430) = 64.
    assert SpanDenoise("drop").lengths(512, 80)["encoder_input_tokens"] == 448
    assert 460 < SpanDenoise("mask").lengths(512, 0)["encoder_input_tokens"] < 500
    assert SpanDenoise("mask").lengths(512, 200)["encoder_input_tokens"] == 512
    assert Mlm().lengths(512, 0)["masked_positions"] == 77


@pytest.mark.parametrize("counting", [False, True])
def test_placement_is_uniform(counting, monkeypatch):
    """Given ordered span lengths, all placements that do not touch or cross come equally often."""
    if counting:  # the way that blocks of many documents go
        monkeypatch.setattr(spans, "_FEW_RUNS", 0)
    runs = [5, 2, 6]
    payload = run_payload(runs)
    objective = SpanDenoise("drop", rate=0.4, mean_span=1.5)
    ordinary = [i for i, x in enumerate(payload) if x != LARGE.doc]
    counts: dict[tuple, Counter] = defaultdict(Counter)
    for i in range(15_000):
        source = objective(payload, generator(9, 0, i), LARGE)["encoder_input_tokens"]
        gone = removed_spans(payload, source)
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


def test_many_short_runs_keep_the_exact_number():
    """Runs too short for the drawn spans: still exactly B tokens, none of them special."""
    for size in (1, 2, 3):
        payload = run_payload([size] * (510 // (size + 1)))
        ordinary = np.count_nonzero(payload != LARGE.doc)
        for i in range(20):
            example = SpanDenoise("mask")(payload, generator(0, 0, i), LARGE)
            found = removed_spans(payload, example["encoder_input_tokens"])
            removed = sum(n for _, n in found)
            assert removed in (math.floor(0.15 * ordinary), math.floor(0.15 * ordinary) + 1)
            assert np.count_nonzero(example["encoder_input_tokens"] == LARGE.mask) == len(found)


def test_bart_compat_covers_less_than_the_rate():
    payload = run_payload([510])
    objective = SpanDenoise("mask", sampler="bart_compat", zero_spans="insert")
    removed, masks = [], []
    for i in range(3000):
        source = objective(payload, generator(0, 0, i), LARGE)["encoder_input_tokens"]
        masks.append(np.count_nonzero(source == LARGE.mask))
        removed.append(510 - (source.size - 2 - masks[-1]))
    assert abs(np.mean(removed) / 510 - 0.1426) < 0.001
    assert 22 < np.mean(masks) < 26


def test_bart_compat_drop_leaves_no_mask():
    payload = run_payload([40, 40])
    objective = SpanDenoise("drop", sampler="bart_compat")
    for i in range(50):
        source = objective(payload, generator(0, 0, i), LARGE)["encoder_input_tokens"]
        assert LARGE.mask not in source and LARGE.doc in source
        assert 0 < 83 - source.size <= 12


@pytest.mark.parametrize("objective", [*SPAN_OBJECTIVES, SpanDenoise(sampler="bart_compat"), Mlm()])
@pytest.mark.parametrize("runs", [[], [0, 0], [1], [2], [1, 1], [3]])
def test_tiny_payloads(objective: Objective, runs):
    for i in range(50):
        example = objective(run_payload(runs), generator(0, 0, i), LARGE)
        source = example["encoder_input_tokens"]
        assert source[0] == BOS and source[-1] == EOS and source.size <= len(run_payload(runs)) + 2


def test_noise_is_a_pure_function_of_seed_epoch_and_index():
    payload = run_payload([510])

    def noise(seed, epoch, index):
        example = SpanDenoise("drop")(payload, generator(seed, epoch, index), LARGE)
        return example["encoder_input_tokens"].tobytes()

    keys = list(itertools.product((0, 1), (0, 1, 2), (0, 1, 2**40)))
    forwards = [noise(*key) for key in keys]
    backwards = [noise(*key) for key in reversed(keys)][::-1]
    assert forwards == backwards
    assert len(set(forwards)) == len(keys)


def test_random_bits_are_what_they_were():
    """Resuming a run with another NumPy must not change its noise."""
    expected = [0.20198689849608187, 0.2491398482856183, 0.49745923104258316]
    assert generator(7, 1, 5).random(3).tolist() == expected
    assert example_index("de", 5) == (2106599819 << 32) + 5  # CRC-32 of b"de"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Mlm(rate=0.0), "Mlm.rate = 0.0: a rate lies strictly between 0 and 1"),
        (lambda: Mlm(rate=1.0), "Mlm.rate = 1.0"),
        (lambda: Mlm(mask_share=1.5), "Mlm.mask_share = 1.5"),
        (lambda: Mlm(mask_share=0.8, random_share=0.3), "Mlm.random_share = 0.3"),
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
