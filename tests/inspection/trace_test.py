"""Tokens are followed exactly, and counted right."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrecipes.data.objectives import (
    OBJECTIVES,
    Mlm,
    SpanCorruption,
    SpanDenoise,
    TranslationSpanCorruption,
)
from seqrecipes.data.objectives.base import Specials, example_index, generator
from seqrecipes.errors import UserError
from seqrecipes.inspection.trace import (
    ADDED,
    KEPT,
    MASKED,
    RANDOM,
    ExampleCounts,
    Masking,
    Place,
    Trace,
    span_law,
    trace,
)

SPECIALS = Specials(0, 1, 2, 3, mask=900, doc=901, vocab_size=1000, sentinels=98)
VARIANTS = {
    **OBJECTIVES,
    "drop_bart": SpanDenoise("drop", sampler="bart_compat"),
    "mask_insert": SpanDenoise("mask", zero_spans="insert", rate=0.3, mean_span=1.0),
    "corruption_t5": SpanCorruption(roll=False, final_sentinel=False),
    "corruption_bos": SpanCorruption(bos=True, rate=0.4, mean_span=2.0),
    "translation_one": TranslationSpanCorruption(mask_side="one"),
    "mlm_random": Mlm(rate=0.5, mask_share=0.1, random_share=0.8),
}
# Whether each token of a segment is special.
PATTERN = st.lists(st.sampled_from([False] * 9 + [True]), min_size=1, max_size=80)
PLACE = Place("de", 0, 0, example_index("de", 0, 0))


def record(patterns, ids):
    """One segment for each pattern; ordinary tokens take `ids` in turn, others are [DOC]."""
    ids = iter(ids)
    return tuple(
        np.array([SPECIALS.doc if special else next(ids) for special in pattern], np.int32)
        for pattern in patterns
    )


@st.composite
def cases(draw):
    name = draw(st.sampled_from(sorted(VARIANTS)))
    count = 1 if VARIANTS[name].reads == "blocks" else 2
    return VARIANTS[name], [draw(PATTERN) for _ in range(count)], draw(st.integers(0, 2**32))


def follow(objective, segments, seed=0):
    return trace(objective, PLACE, segments, SPECIALS, seed=seed, epoch=0)


def look_up(traced, name):
    """Where ids of a feature stand in a record whose ordinary ids are all different."""
    places = {id_: i for i, id_ in enumerate(traced.tokens.tolist()) if id_ < 900}
    return [places.get(id_, ADDED) for id_ in traced.example[name].tolist()]


@settings(max_examples=250, deadline=None)
@given(cases())
def test_origins_are_where_distinct_ids_stand(case):
    objective, patterns, seed = case
    traced = follow(objective, record(patterns, itertools.count(4)), seed)
    masked = {m.source: set(m.positions.tolist()) for m in traced.maskings}
    assert set(traced.origins) == {n for n in traced.example if not n.endswith("positions")}
    for name, origins in traced.origins.items():
        for i, (origin, expected) in enumerate(zip(origins, look_up(traced, name), strict=True)):
            if i in masked.get(name, ()):
                continue
            if expected == ADDED and origin != ADDED:  # one [DOC] is like the other
                assert traced.tokens[origin] == traced.example[name][i] == SPECIALS.doc
            else:
                assert origin == expected
        real = origins[origins != ADDED]
        assert (np.diff(real) > 0).all()
    for masking in traced.maskings:
        origins = traced.origins[masking.source][masking.positions]
        assert traced.tokens[origins].tolist() == masking.targets.tolist()
        # <s> in front, </s> behind every segment before it.
        wrapped = 0 if masking.source.startswith("second") else None
        for origin, position in zip(origins.tolist(), masking.positions.tolist(), strict=True):
            second = origin >= traced.ends[0]
            shift = 1 + second if wrapped is None else 1 - traced.ends[0]
            assert position == origin + shift


@settings(max_examples=150, deadline=None)
@given(cases())
def test_noise_does_not_depend_on_the_values_of_ids(case):
    """The same token everywhere: comparing texts could not tell what went."""
    objective, patterns, seed = case
    distinct = follow(objective, record(patterns, itertools.count(4)), seed)
    same = follow(objective, record(patterns, itertools.repeat(7)), seed)
    assert same.is_noise.tolist() == distinct.is_noise.tolist()
    assert same.spans.tolist() == distinct.spans.tolist()
    for name, origins in distinct.origins.items():
        assert same.origins[name].tolist() == origins.tolist()
    for one, other in zip(same.maskings, distinct.maskings, strict=True):
        assert one.fates.tolist() == other.fates.tolist()


@settings(max_examples=150, deadline=None)
@given(cases())
def test_noise_and_spans_are_what_is_missing(case):
    objective, patterns, seed = case
    traced = follow(objective, record(patterns, itertools.count(4)), seed)
    if traced.maskings:
        expected = {t for masking in traced.maskings for t in masking.targets.tolist()}
        assert set(traced.tokens[traced.is_noise].tolist()) == expected
        assert not len(traced.spans)
        return
    left = Counter(traced.example["encoder_input_tokens"].tolist())
    for id_ in set(traced.tokens.tolist()):
        there = np.count_nonzero(traced.tokens == id_)
        assert np.count_nonzero(traced.is_noise & (traced.tokens == id_)) == there - left[id_]
    runs, segment_of = [], np.repeat([0, 1], [traced.ends[0], len(traced.tokens) - traced.ends[0]])
    for i, gone in enumerate(traced.is_noise.tolist()):
        if gone and i and traced.is_noise[i - 1] and segment_of[i - 1] == segment_of[i]:
            runs[-1][1] = i + 1
        elif gone:
            runs.append([i, i + 1])
    assert traced.spans.tolist() == runs
    if isinstance(objective, SpanCorruption | TranslationSpanCorruption):
        target = traced.example["decoder_target_tokens"].tolist()[:-1]
        told: list[list[int]] = []
        for id_ in target:
            if id_ >= SPECIALS.first_sentinel:
                told.append([])
            else:
                told[-1].append(id_)
        told = told[:-1] if objective.final_sentinel else told
        assert told == [traced.tokens[a:b].tolist() for a, b in traced.spans.tolist()]


def test_the_example_is_that_of_training():
    (block,) = record([[False] * 60], itertools.count(4))
    traced = trace(VARIANTS["span_mask"], PLACE, (block,), SPECIALS, seed=5, epoch=3)
    expected = VARIANTS["span_mask"](block, generator(5, 3, PLACE.index), SPECIALS)
    assert {n: ids.tolist() for n, ids in traced.example.items()} == {
        n: ids.tolist() for n, ids in expected.items()
    }


@pytest.mark.parametrize(
    ("mask", "random", "fate"), [(1.0, 0.0, MASKED), (0.0, 1.0, RANDOM), (0.0, 0.0, KEPT)]
)
def test_fates_follow_the_shares(mask, random, fate):
    objective = Mlm(rate=0.5, mask_share=mask, random_share=random)
    (masking,) = follow(objective, record([[False] * 100], itertools.count(4))).maskings
    assert masking.fates.tolist() == [fate] * 50


def test_fates_are_what_stands_there():
    block = record([[False] * 500], itertools.repeat(7))
    (masking,) = follow(VARIANTS["mlm_random"], block).maskings
    example = VARIANTS["mlm_random"](*block, generator(0, 0, PLACE.index), SPECIALS)
    seen = example["encoder_input_tokens"][masking.positions]
    for fate, id_ in zip(masking.fates.tolist(), seen.tolist(), strict=True):
        # A random id may be the very one that stood there.
        assert (
            fate == MASKED
            if id_ == SPECIALS.mask
            else fate in ((KEPT, RANDOM) if id_ == 7 else (RANDOM,))
        )
    counts = np.bincount(masking.fates, minlength=3)
    assert counts[RANDOM] > counts[MASKED] > 0 and counts[KEPT] > 0


@dataclasses.dataclass(frozen=True)
class DropsSevens(Mlm):
    """Looks at ids."""

    def __call__(self, payload_ids, uniform, specials):
        example = super().__call__(payload_ids, uniform, specials)
        kept = example["encoder_input_tokens"][example["encoder_input_tokens"] != 7]
        return example | {"encoder_input_tokens": kept}


@dataclasses.dataclass(frozen=True)
class Reversed(Mlm):
    """Moves the tokens that are odd."""

    def __call__(self, payload_ids, uniform, specials):
        return super().__call__(payload_ids[np.argsort(payload_ids % 2)], uniform, specials)


@dataclasses.dataclass(frozen=True)
class Renamed(Mlm):
    def __call__(self, payload_ids, uniform, specials):
        example = super().__call__(payload_ids, uniform, specials)
        return {f"my_{name}": ids for name, ids in example.items()}


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (DropsSevens(rate=0.01), "depends on the values of ids"),
        (Reversed(rate=0.01), "depends on the values of ids"),
        (Renamed(), "features are my_encoder_input_tokens, my_masked"),
    ],
)
def test_what_cannot_be_followed_is_refused(objective, words):
    ids = [5, 7, 8, 9, 10, 12] * 20
    with pytest.raises(UserError, match=words):
        follow(objective, record([[False] * 120], ids))


def made(tokens, ends, spans, noise, lengths, fates=()):
    """A trace with the given numbers and nothing else in it."""
    example = {name: np.zeros(length, np.int32) for name, length in lengths.items()}
    nothing = np.zeros(len(fates), np.int32)
    maskings = (Masking("x", nothing, nothing, np.array(fates, np.int64)),) if fates else ()
    is_noise = np.isin(np.arange(len(tokens)), noise)
    spans = np.array(spans, np.int64).reshape(-1, 2)
    return Trace(PLACE, np.array(tokens), ends, example, {}, maskings, is_noise, spans)


def test_counts_by_hand():
    german, english = ExampleCounts(), ExampleCounts()
    german.add(
        made([5, 5, 901, 6, 6, 901], (6,), [[0, 3], [4, 5]], [0, 1, 2, 4], {"x": 4}), SPECIALS
    )
    german.add(made([3, 5, 6, 7], (4,), [[2, 3]], [2], {"x": 10}), SPECIALS)
    english.add(made([5, 901, 901, 7], (2, 4), [], [3], {"x": 6, "y": 1}, [0, 0, 2]), SPECIALS)
    assert german == ExampleCounts(
        records=2,
        tokens=10,
        ordinary=7,
        corrupted=4,
        documents_ended=2,
        lengths={"x": [4, 10]},
        spans=Counter({3: 1, 1: 2}),
        spans_per_record=Counter({2: 1, 1: 1}),
    )
    assert (german.noise, german.mean_span) == (4 / 7, 5 / 3)
    assert german.padding("x", 10) == pytest.approx(6 / 20)
    total = ExampleCounts.total({"de": german, "en": english})
    assert total == ExampleCounts(
        records=3,
        tokens=14,
        ordinary=9,
        corrupted=5,
        documents_ended=3,
        lengths={"x": [4, 10, 6], "y": [1]},
        spans=Counter({3: 1, 1: 2}),
        spans_per_record=Counter({2: 1, 1: 1, 0: 1}),
        fates=Counter({MASKED: 2, KEPT: 1}),
    )
    assert german.records == 2 and english.noise == 1 / 2
    assert ExampleCounts().noise == ExampleCounts().mean_span == 0


def test_law_of_poisson_spans():
    name, law = span_law(SpanDenoise("drop", mean_span=3.0), 510)
    assert name == "Poisson(3) given > 0, untrimmed"
    expected = [math.exp(-3) * 3**k / math.factorial(k) / (1 - math.exp(-3)) for k in range(1, 15)]
    assert law[:14] == pytest.approx(expected)
    assert law.sum() == pytest.approx(1)


def test_law_of_corrupted_spans_counts_compositions():
    name, law = span_law(SpanCorruption(rate=0.5, mean_span=3.0), 18)  # 9 tokens, 3 spans
    assert name == "9 tokens cut into 3 spans"
    parts = [c[0] for c in itertools.product(range(1, 10), repeat=3) if sum(c) == 9]
    assert law == pytest.approx([parts.count(length) / len(parts) for length in range(1, 8)])


@pytest.mark.parametrize(
    "objective", [Mlm(), SpanDenoise("drop", sampler="bart_compat"), TranslationSpanCorruption()]
)
def test_other_objectives_have_no_law(objective):
    assert span_law(objective, 100) is None
