"""Denoising objectives: how a block of text, or a pair of segments, becomes a training example.

Every objective is a pure function of (token ids, random generator, special ids) written in NumPy
alone. Randomness is drawn as `generator.random(...)` doubles and nothing else, because these are
the bits that NumPy keeps stable over its versions; the generator in turn is a pure function of
(seed, epoch, example), so an example can be made again anywhere, in any order.

Letters used below: n ordinary tokens of a block, B of them corrupted, in k spans.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from seqrecipes.errors import UserError

Example = dict[str, np.ndarray]
Reads = Literal["blocks", "adjacent", "translations"]
_STREAM_TAG = 0x6E6F697365  # keeps noise apart from any other use of the same seed
_LOW_64 = (1 << 64) - 1


@dataclasses.dataclass(frozen=True)
class Specials:
    """Ids of the special tokens; ordinary ids lie between the two groups of specials.

    `bos`, `pad`, `eos` and `unk` come first (0 to 3), then ordinary ids, `mask` and `doc`, and as
    many sentinels as the vocabulary has.
    """

    bos: int
    pad: int
    eos: int
    unk: int
    mask: int
    doc: int
    vocab_size: int
    sentinels: int = 0

    @property
    def first_sentinel(self) -> int:
        """The id of the first sentinel; the others follow upwards."""
        return self.vocab_size - self.sentinels

    @functools.cached_property
    def first_ordinary(self) -> int:
        """The smallest id that is not special."""
        return max(self.bos, self.pad, self.eos, self.unk) + 1

    @functools.cached_property
    def end_ordinary(self) -> int:
        """One past the largest id that is not special."""
        return min(self.mask, self.doc)

    def is_ordinary(self, ids: np.ndarray) -> np.ndarray:
        """bool array shaped like `ids`: True where the id may be corrupted."""
        return (ids >= self.first_ordinary) & (ids < self.end_ordinary)


class _Key(ISeedSequence):
    """Gives Philox its key as it is.

    Philox(key=...) takes most of its time to gather entropy that it then leaves unused.
    """

    def __init__(self, *words: int):
        self._words = np.array(words, np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return self._words


@functools.lru_cache(maxsize=16)
def _key(seed: int) -> Any:  # NumPy's types know only its own SeedSequence, its code any other
    return _Key(seed, _STREAM_TAG)


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one example in one epoch (counter-based, so seeking is free).

    Args:
      seed: of the run, below 2^64.
      epoch: how often the language was read before, below 2^64.
      index: see `example_index`, below 2^128.
    """
    # As uint64 from the start: a list that mixes small and large integers would become float64.
    counter = np.array((0, index >> 64, epoch, index & _LOW_64), np.uint64)
    return np.random.Generator(np.random.Philox(_key(seed), counter=counter))


def example_index(language: str, shard: int, block: int) -> int:
    """The index that, with seed and epoch, fixes the noise of a block in a shard of a language.

    It depends on the name of the language instead of its place among others, so that adding a
    language changes the noise of none; nor does it depend on what other shards hold.
    """
    return shard << 64 | zlib.crc32(language.encode()) << 32 | block


class Objective(Protocol):
    """What the loader needs of an objective."""

    @property
    def __call__(self) -> Callable[..., Example]:
        """(*segments, uniform, specials) -> the features, unpadded int32 arrays.

        Segments are int32 arrays: a block, or the two of a pair. Features may share memory: copy
        them before writing.
        """

    @property
    def reads(self) -> Reads:
        """What it corrupts: packed blocks, two adjacent segments, or a pair of translations."""

    def payload(self, length: int) -> int:
        """The most tokens a segment may have so that no feature is longer than `length`."""

    def lengths(self, payload: int, max_specials: int) -> dict[str, int]:
        """The static length of every feature.

        Args:
          payload: the most tokens of a segment.
          max_specials: the most special tokens that any record holds.
        """

    def original(self, *sizes: int) -> int:
        """How many tokens a text has before noise, with the special ones around its segments.

        Args:
          *sizes: tokens of its segment, or of the two.
        """

    def sentinels(self, payload: int) -> int:
        """The most sentinels that an example can need."""


def check_rate(field: str, rate: float) -> None:
    """Refuses a rate that is not strictly between 0 and 1."""
    if not 0 < rate < 1:
        raise UserError(field, rate, "a rate lies strictly between 0 and 1.")


def check_spans(owner: str, rate: float, mean_span: float) -> None:
    """Refuses a rate and a mean length that spans which do not touch cannot have."""
    check_rate(f"{owner}.rate", rate)
    if not 1 <= mean_span <= 100:
        raise UserError(f"{owner}.mean_span", mean_span, "choose a mean in [1, 100].")
    most = mean_span / (mean_span + 1)
    if rate >= most:
        raise UserError(
            f"{owner}.rate",
            rate,
            f"spans of mean length {mean_span} that do not touch cover less than {most:.2f} of a "
            "text; lower the rate or raise mean_span.",
        )


def check_choice(field: str, value: object, known: tuple[str, ...]) -> None:
    """Refuses a value that is not among the known ones."""
    if value not in known:
        raise UserError(field, value, f"choose one of {', '.join(known)}.")


def check_sentinels(objective: Objective, payload: int, specials: Specials) -> None:
    """Refuses a vocabulary with fewer sentinels than segments of `payload` tokens can need."""
    needed = objective.sentinels(payload)
    if needed > specials.sentinels:
        raise UserError(
            "vocabulary",
            f"{specials.vocab_size} ids",
            f"{type(objective).__name__} on {payload} tokens needs {needed} sentinels, this "
            f"vocabulary has {specials.sentinels}; train one with --sentinels={needed}, or "
            "shorten the sequences.",
        )


def wrap(start: tuple[int, ...], *segments: np.ndarray, eos: int) -> np.ndarray:
    """int32: the ids of `start`, then every segment followed by `eos`."""
    wrapped = np.empty(len(start) + sum(ids.size for ids in segments) + len(segments), np.int32)
    for position, special in enumerate(start):
        wrapped[position] = special
    position = len(start)
    for ids in segments:
        end = position + ids.size
        wrapped[position:end] = ids
        wrapped[end] = eos
        position = end + 1
    return wrapped


def decoder_features(shifted: np.ndarray) -> Example:
    """The decoder's features from </s> followed by the target; its input is one step behind."""
    return {"decoder_input_tokens": shifted[:-1], "decoder_target_tokens": shifted[1:]}
