"""Which rows of a parameter a conversion takes: layers, positions, or vocabulary rows by piece.

The first axis of a leaf counts layers in a stack, positions in a position table and ids in a
vocabulary's tables. A selection says of every row of the result which row of the source it is, or
that it is new and starts as the mean.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from seqrecipes.errors import UserError

MEAN = -1

# Pieces of the source's vocabulary and of the target's, in the order of their ids.
Pieces = tuple[Sequence[str], Sequence[str]]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows of a leaf come from.

    Attributes:
      unit: what is selected, in words; 'layers' are printed one by one, others are counted.
      index: int32 [rows of the result]: a row of the source, at most once each, or MEAN.
      source: rows of the source.
      averaged: MEAN stands for the mean of the source's first so many rows.
    """

    unit: str
    index: np.ndarray
    source: int
    averaged: int

    @property
    def kept(self) -> np.ndarray:
        """Rows of the source that the result holds, in its order."""
        return self.index[self.index != MEAN]

    @property
    def dropped(self) -> np.ndarray:
        """Rows of the source that the result lacks, ascending."""
        return np.setdiff1d(np.arange(self.source), self.kept)

    @property
    def new(self) -> int:
        """Number of rows that start as the mean."""
        return int(np.sum(self.index == MEAN))

    def words(self, rows: np.ndarray, verb: str) -> str:
        """Some of the source's rows: `layers 0 2 of 4`, or `positions: 512 kept`."""
        if self.unit == "layers":
            return f"layers {' '.join(map(str, rows))} of {self.source}"
        return f"{self.unit}: {len(rows):,} {verb}"


# Rows of the source, rows of the target, pieces if given.
Selection = Callable[[int, int, Pieces | None], Rows]


def take(leaf: jax.Array, rows: Rows) -> jax.Array:
    """The rows of a leaf [source rows, ...], never an alias of it; kept rows keep their bits."""
    if np.array_equal(rows.index, np.arange(rows.source)):
        return jnp.copy(leaf)
    # Where the first axis is sharded, every device takes the rows it has and the parts are added to
    # zeros. Adding integers keeps every bit; adding floats loses the sign of -0 and tiny numbers.
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
    bits = jnp.take(bits, np.maximum(rows.index, 0), axis=0, mode="clip")
    taken = jax.lax.bitcast_convert_type(bits, leaf.dtype)
    if not rows.new:
        return taken
    is_new = (rows.index == MEAN).reshape(-1, *[1] * (leaf.ndim - 1))
    return jnp.where(is_new, _mean(leaf[: rows.averaged]).astype(leaf.dtype), taken)


def _mean(leaf: jax.Array) -> jax.Array:
    """The mean over the first axis in float32, to the same bits on any mesh.

    A reduction over a sharded axis adds in an order that depends on the mesh. Here the order is
    written out: halves are added to each other until one row is left.
    """
    count, total = len(leaf), leaf.astype(jnp.float32)
    while len(total) > 1:
        half = -(-len(total) // 2)
        odd_row = [(0, 2 * half - len(total))] + [(0, 0)] * (total.ndim - 1)
        total = total[:half] + jnp.pad(total[half:], odd_row)
    return total[0] / count


def by_piece(source: int, target: int, pieces: Pieces | None) -> Rows:
    """Rows of equal pieces. Rows beyond the source's pieces pad its table and are no source.

    A piece that stands in a vocabulary several times is matched in order: the second to the second.

    Raises:
      UserError: the pieces are not given, or more than the rows of a table.
    """
    if pieces is None:
        raise UserError(
            "WarmStart.conversion",
            "new_vocabulary",
            "needs the pieces of both vocabularies; run `python -m seqrecipes.convert "
            "--conversion=new_vocabulary` first and start from its result with 'identity'",
        )
    for whose, rows, listed in zip(("source", "target"), (source, target), pieces, strict=True):
        if not 0 < len(listed) <= rows:
            raise UserError(
                f"vocabulary of the {whose}",
                f"{len(listed):,} pieces",
                f"the {whose} has a table of {rows:,} rows; give the vocabulary that belongs to it",
            )
    known = {piece: row for row, piece in enumerate(_numbered(pieces[0]))}
    index = np.full(target, MEAN, np.int32)
    for row, piece in enumerate(_numbered(pieces[1])):
        index[row] = known.get(piece, MEAN)
    return Rows("rows by piece", index, source, averaged=len(pieces[0]))


def _numbered(pieces: Iterable[str]) -> Iterable[tuple[str, int]]:
    seen: Counter[str] = Counter()
    for piece in pieces:
        yield piece, seen[piece]
        seen[piece] += 1


def positions(source: int, target: int, _: Pieces | None) -> Rows:
    """The first positions; those beyond the source's are new."""
    index = np.arange(target, dtype=np.int32)
    return Rows("positions", np.where(index < source, index, MEAN), source, averaged=source)


def first_layers(source: int, target: int, _: Pieces | None) -> Rows:
    """Layers 0, 1, ... of the source."""
    return _layers(source, target, start=0, step=1)


def last_layers(source: int, target: int, _: Pieces | None) -> Rows:
    """The source's layers up to its last."""
    return _layers(source, target, start=source - target, step=1)


def every_kth_layer(source: int, target: int, _: Pieces | None) -> Rows:
    """Layers 0, k, 2k, ... with k = source / target."""
    if target <= source and source % target:
        divisors = [str(n) for n in range(1, source + 1) if source % n == 0]
        raise UserError(
            "decoder_layers",
            target,
            f"every k-th of the source's {source} layers: choose {', '.join(divisors)}",
        )
    return _layers(source, target, start=0, step=source // target)


def evenly_spread_layers(source: int, target: int, _: Pieces | None) -> Rows:
    """Layers floor((i + 1/2) source / target): from the middle of each of `target` equal parts."""
    _check_enough(source, target)
    index = (2 * np.arange(target, dtype=np.int32) + 1) * source // (2 * target)
    return Rows("layers", index, source, averaged=source)


def _layers(source: int, target: int, *, start: int, step: int) -> Rows:
    _check_enough(source, target)
    index = np.arange(start, start + step * target, step, dtype=np.int32)
    return Rows("layers", index, source, averaged=source)


def _check_enough(source: int, target: int) -> None:
    if target > source:
        raise UserError(
            "decoder_layers",
            target,
            f"the source has {source}, and each layer is taken at most once; choose at most "
            f"{source}",
        )
