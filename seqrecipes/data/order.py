"""The order of examples: which block of which language is example i.

Both orders are pure functions of their arguments, so reaching a late position costs nothing and
needs no state but i. Permutations come from a small keyed cipher instead of stored shuffles.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from seqrecipes.errors import UserError

_ROUNDS = 6
_CELL = 1024
_KEPT_CELLS = 64


class Location(NamedTuple):
    """Three int64[n] arrays: language, how often the language was read before, block in it."""

    language: np.ndarray
    epoch: np.ndarray
    block: np.ndarray


class Order(Protocol):
    """A map from example indices to blocks."""

    size: int

    def locate(self, indices: np.ndarray) -> Location:
        """Where the examples int64[n] `indices` lie."""


def language_shares(counts: Sequence[int] | np.ndarray, alpha: float) -> np.ndarray:
    """q_l = p_l^alpha / sum p^alpha with p_l = n_l / sum n (Conneau et al. 2020, section 3.1).

    Args:
      counts: n_l of each language, in any unit; a language with none gets no share.
      alpha: 1 keeps the natural proportions, 0 makes all languages equal.

    Returns:
      float64[languages] that sum to 1.

    Raises:
      UserError: alpha outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise UserError("alpha", alpha, "the smoothing exponent of languages lies in [0, 1].")
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    weights = np.zeros_like(counts)
    weights[present] = (counts[present] / counts.sum()) ** alpha
    return weights / weights.sum()


class MixedOrder:
    """Training order: languages mixed by `language_shares`, without end.

    A global epoch has N examples, as many as there are blocks; about q_l N of them, at least one,
    belong to language l. It is cut into cells of about 1,024 examples (one more or less for each
    language), over which the examples of every language are spread evenly. Within a cell languages
    come shuffled. A language's examples, counted in this order, run through its blocks: all of them
    once in one permutation, then all of them again in another.

    Which cell an example lies in, and how many examples of each language came before the cell, is
    arithmetic on whole numbers. So an example costs one cell, however late it comes, and cells that
    were needed last are kept.

    Args:
      blocks: number of blocks of each language.
      alpha: see `language_shares`.
      seed: of all permutations.
    """

    def __init__(self, blocks: Sequence[int] | np.ndarray, alpha: float, seed: int):
        self._blocks = np.asarray(blocks, np.int64)
        self._seed = seed
        if not self._blocks.sum():
            raise UserError("blocks", list(blocks), "the corpus has no training text.")
        slots = np.rint(language_shares(blocks, alpha) * self._blocks.sum()).astype(np.int64)
        self.slots = np.where(self._blocks > 0, np.maximum(slots, 1), 0)
        self.size = int(self.slots.sum())
        self._cells = -(-self.size // _CELL)  # of a global epoch
        self._cell = functools.lru_cache(maxsize=_KEPT_CELLS)(self._make_cell)

    def locate(self, indices: np.ndarray) -> Location:
        """See `Order.locate`; indices are any numbers from 0 on."""
        indices = np.asarray(indices, np.int64)
        cells = self._cells_of(indices)
        language, reading = np.empty_like(indices), np.empty_like(indices)
        for cell in np.unique(cells).tolist():
            here = cells == cell
            first, languages, readings = self._cell(cell)
            language[here] = languages[indices[here] - first]
            reading[here] = readings[indices[here] - first]
        blocks = self._blocks[language]
        epoch, position = np.divmod(reading, blocks)
        block = permute(position, blocks, self._seed, epoch, language + 1)
        return Location(language, epoch, block)

    def _before(self, cells: np.ndarray) -> np.ndarray:
        """int64[cells, languages]: examples of each language before a cell; cells have no end.

        Of a global epoch's examples of a language, a share of cell / cells comes before the cell.
        That is rounded down, after a random fraction was added that stays the same throughout the
        epoch: so a language with few examples has them anywhere.
        """
        global_epoch, cell = np.divmod(cells[:, None], self._cells)
        keys = _key(self._seed, global_epoch, -np.arange(1, self.slots.size + 1))
        fractions = (keys % np.uint64(self._cells)).astype(np.int64)
        return global_epoch * self.slots + (cell * self.slots + fractions) // self._cells

    def _cells_of(self, indices: np.ndarray) -> np.ndarray:
        """int64[n]: the cells of n examples."""

        def begins(cells: np.ndarray) -> np.ndarray:
            distinct, inverse = np.unique(cells, return_inverse=True)
            return self._before(distinct).sum(axis=1)[inverse]

        global_epoch, place = np.divmod(indices, self.size)
        cells = global_epoch * self._cells + place * self._cells // self.size
        # Rounding moves where a cell begins by less than an example for each language.
        while (early := indices < begins(cells)).any() | (
            late := indices >= begins(cells + 1)
        ).any():
            cells = cells - early + late
        return cells

    def _make_cell(self, cell: int) -> tuple[int, np.ndarray, np.ndarray]:
        """(its first example, int64 languages, int64 how often each was drawn before)."""
        start, stop = self._before(np.array([cell, cell + 1]))
        counts = stop - start
        size = int(counts.sum())
        shuffled = permute(np.arange(size), size, self._seed, cell, 0)
        languages = np.repeat(np.arange(counts.size), counts)[shuffled]
        readings = np.empty(size, np.int64)
        # By language, and of each language in the order in which its examples come.
        by_language = np.argsort(languages, kind="stable")
        ahead = np.cumsum(counts) - counts
        readings[by_language] = np.arange(size) + np.repeat(start - ahead, counts)
        return int(start.sum()), languages, readings


class SequentialOrder:
    """Validation order: every block once, language by language, or an even subset of them.

    Args:
      blocks: number of blocks of each language.
      limit: at most so many examples; None for all.
    """

    def __init__(self, blocks: Sequence[int] | np.ndarray, limit: int | None = None):
        self._blocks = np.asarray(blocks, np.int64)
        self._total = int(self._blocks.sum())
        self.size = self._total if limit is None else min(limit, self._total)

    def locate(self, indices: np.ndarray) -> Location:
        """See `Order.locate`; indices lie in [0, size)."""
        position = np.asarray(indices, np.int64) * self._total // max(self.size, 1)
        ends = np.cumsum(self._blocks)
        language = np.searchsorted(ends, position, side="right")
        block = position - (ends - self._blocks)[language]
        return Location(language, np.zeros_like(position), block)


def permute(index: np.ndarray, size: np.ndarray | int, *key: np.ndarray | int) -> np.ndarray:
    """A keyed pseudorandom permutation of range(size), evaluated at `index`.

    A Feistel cipher over the smallest even number of bits that holds `size`; values that fall
    outside are enciphered again until they fall inside (cycle walking), on average less than
    four times.

    Args:
      index: int64[n] with 0 <= index < size.
      size: int64[n] or one number.
      *key: numbers, each an int64[n] or one number; another key is another permutation.

    Returns:
      int64[n] with values below `size`.
    """
    shape = np.shape(index)
    value = np.array(index, np.uint64).reshape(-1)
    limit = np.broadcast_to(np.asarray(size, np.uint64), shape).reshape(-1)
    mixed = np.broadcast_to(_key(*key), shape or 1).reshape(-1)
    # frexp's exponent of size - 1 is its number of bits (exact below 2^53).
    bits = np.frexp(np.maximum(limit, 2).astype(np.float64) - 1)[1]
    half = ((bits + 1) // 2).astype(np.uint64)
    outside = np.arange(value.size)
    while outside.size:
        value[outside] = _encipher(value[outside], half[outside], mixed[outside])
        outside = outside[value[outside] >= limit[outside]]
    return value.astype(np.int64).reshape(shape)


def _key(*words: np.ndarray | int) -> np.ndarray:
    """uint64[1 or more]: the numbers mixed into one."""
    mixed: np.ndarray = np.zeros(1, np.uint64)  # no scalar, which would warn of overflow
    for word in words:
        mixed = _mix(mixed ^ np.asarray(word, np.int64).astype(np.uint64))
    return mixed


def _encipher(value: np.ndarray, half: np.ndarray, key: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for round_number in range(_ROUNDS):
        noise = _mix(right ^ _mix(key + np.uint64(round_number)))
        left, right = right, left ^ (noise & mask)
    return (left << half) | right


def _mix(words: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of uint64."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
