"""What holds of every objective: purity, static lengths, tiny texts, and the random bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqrecipes.data.objectives import OBJECTIVES, SpanCorruption, TranslationSpanCorruption
from seqrecipes.data.objectives.base import (
    Specials,
    check_sentinels,
    example_index,
    generator,
    wrap,
)
from seqrecipes.errors import UserError
from tests.data.objectives.harness import (
    BOS,
    EOS,
    LARGE,
    PAD,
    UNK,
    VARIANTS,
    run_lists,
    segments_of,
    text,
)

READS = {
    "mlm": "blocks",
    "span_drop": "blocks",
    "span_mask": "blocks",
    "span_corruption": "blocks",
    "translation_span_corruption": "translations",
    "tlm": "translations",
    "adjacent_mlm": "adjacent",
    "translation_mlm": "translations",
}


def test_names_and_what_they_read():
    assert {name: objective.reads for name, objective in OBJECTIVES.items()} == READS


def test_rates_of_the_papers():
    rates = {name: objective.rate for name, objective in OBJECTIVES.items()}
    assert rates == dict.fromkeys(READS, 0.15) | {
        "translation_span_corruption": 0.5,
        "translation_mlm": 0.25,
    }


@settings(max_examples=400, deadline=None)
@given(run_lists, st.integers(0, 300), st.integers(0, 2**32), st.sampled_from(VARIANTS))
def test_static_lengths_hold(runs, size, index, objective):
    segments = segments_of(objective, runs, size)
    max_specials = sum(int(np.count_nonzero(ids == LARGE.doc)) for ids in segments)
    lengths = objective.lengths(size, max_specials)
    example = objective(*segments, uniform=generator(5, 1, index), specials=LARGE)
    assert list(lengths) == list(example)
    for name, ids in example.items():
        assert ids.dtype == np.int32 and ids.ndim == 1 and ids.size <= lengths[name]
        used = np.count_nonzero((ids >= LARGE.first_sentinel) & (name == "decoder_target_tokens"))
        assert used <= objective.sentinels(size)


@pytest.mark.parametrize("objective", VARIANTS, ids=repr)
def test_payload_is_the_largest_that_fits(objective):
    for length in (*range(8, 40), 512):
        payload = objective.payload(length)
        assert max(objective.lengths(payload, 0).values()) <= length
        assert max(objective.lengths(payload + 1, 0).values()) > length


@pytest.mark.parametrize("objective", VARIANTS, ids=repr)
@pytest.mark.parametrize("runs", [[], [0, 0], [1], [2], [1, 1], [3]])
def test_tiny_texts(objective, runs):
    segments = segments_of(objective, runs, 4)
    tokens = {int(x) for ids in segments for x in ids}
    allowed = {BOS, EOS, LARGE.mask, *tokens, *range(LARGE.first_sentinel, LARGE.vocab_size)}
    for i in range(20):
        example = objective(*segments, uniform=generator(0, 0, i), specials=LARGE)
        for name, ids in example.items():
            # Masking puts in random ids.
            if name.endswith("tokens") and not hasattr(objective, "random_share"):
                assert set(ids.tolist()) <= allowed
            if name.endswith("input_tokens") and "decoder" not in name:
                assert ids[-1] == EOS


@pytest.mark.parametrize("objective", VARIANTS, ids=repr)
def test_noise_is_a_pure_function_of_seed_epoch_and_index(objective):
    segments = segments_of(objective, [250, 200], 512)

    def noise(seed, epoch, index):
        example = objective(*segments, uniform=generator(seed, epoch, index), specials=LARGE)
        return b"".join(ids.tobytes() for ids in example.values())

    keys = list(itertools.product((0, 1), (0, 1, 2), (0, 1, 2**40, 2**63, 2**63 + 1, 2**64)))
    forwards = [noise(*key) for key in keys]
    backwards = [noise(*key) for key in reversed(keys)][::-1]
    assert forwards == backwards
    assert len(set(forwards)) == len(keys)


def test_random_bits_are_what_they_were():
    """Resuming a run with another NumPy must not change its noise."""
    expected = [0.20198689849608187, 0.2491398482856183, 0.49745923104258316]
    assert generator(7, 1, 5).random(3).tolist() == expected
    large = generator(2**64 - 1, 2**64 - 2, 2**127 + 2**63 + 1)
    assert large.random(2).tolist() == [0.286553645749133, 0.9604275987467699]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**128 - 1))
def test_generator_is_philox_with_key_and_counter(seed, epoch, index):
    counter = np.array([0, index // 2**64, epoch, index % 2**64], np.uint64)
    philox = np.random.Philox(key=np.array([seed, 0x6E6F697365], np.uint64), counter=counter)
    expected = np.random.Generator(philox).random(5).tolist()
    assert generator(seed, epoch, index).random(5).tolist() == expected


def test_indices_of_examples():
    assert example_index("de", 0, 5) == (2106599819 << 32) + 5  # CRC-32 of b"de"
    assert example_index("de", 3, 5) == (3 << 64) + (2106599819 << 32) + 5


def test_neighbours_of_any_language_have_noise_of_their_own():
    # The CRC-32 of some names has its highest bit set, so their indices fill 64 bits.
    for language in ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "mr", "pt", "ta", "te"):
        keys = [(0, shard, block) for shard in range(3) for block in range(300)]
        draws = {generator(s, 0, example_index(language, *rest)).random() for s, *rest in keys}
        assert len(draws) == len(keys)


def test_special_ids():
    specials = Specials(BOS, PAD, EOS, UNK, mask=10, doc=11, vocab_size=15, sentinels=3)
    assert specials.first_sentinel == 12
    ordinary = [i for i in range(15) if specials.is_ordinary(np.array([i]))[0]]
    assert ordinary == list(range(4, 10))


def test_wrap():
    first, second = text([2]), text([1])
    assert wrap((7, 8), first, second, eos=9).tolist() == [7, 8, 100, 101, 9, 100, 9]
    assert wrap((), text([]), eos=9).tolist() == [9]


def test_too_few_sentinels_are_refused():
    specials = Specials(BOS, PAD, EOS, UNK, mask=1997, doc=1998, vocab_size=2000, sentinels=29)
    classic = SpanCorruption(roll=False, final_sentinel=False)
    check_sentinels(classic, 568, specials)  # 28 spans
    check_sentinels(OBJECTIVES["mlm"], 510, specials)
    check_sentinels(SpanCorruption(roll=False), 568, specials)
    with pytest.raises(UserError) as error:
        check_sentinels(SpanCorruption(), 568, specials)
    assert error.value.field == "vocabulary"
    for part in ("SpanCorruption", "needs 30 sentinels", "has 29", "--sentinels=30"):
        assert part in str(error.value)


def test_sentinels_are_never_made_up():
    few = Specials(BOS, PAD, EOS, UNK, mask=20_000, doc=20_001, vocab_size=20_004, sentinels=2)
    for objective in (SpanCorruption(), TranslationSpanCorruption(mask_side="one")):
        segments = segments_of(objective, [100], 100)
        with pytest.raises(UserError, match="vocabulary = '2 sentinels': this example needs"):
            objective(*segments, uniform=generator(0, 0, 0), specials=few)
