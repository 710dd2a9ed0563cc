"""Sampling spans: how long they are and where they lie.

Random numbers are doubles from `generator.random` alone, see `seqrecipes.data.objectives`.
"""

from __future__ import annotations

import functools
import math

import numpy as np

MAX_REDRAWS = 16
_FEW_RUNS = 20  # up to here blind placements succeed often enough to be the faster way
_RESCALE_ABOVE = 1e200


def round_randomly(expected: float, uniform: np.random.Generator) -> int:
    """floor(expected + U): an integer whose mean is `expected`."""
    return math.floor(expected + uniform.random())


def choose(size: int, count: int, uniform: np.random.Generator) -> np.ndarray:
    """`count` distinct indices below `size`, uniformly and in random order."""
    keys = uniform.random(size)
    if count == 0:
        return np.zeros(0, np.int64)
    return np.argpartition(keys, count - 1)[:count]


def find_runs(ordinary: np.ndarray) -> np.ndarray:
    """int64[r, 2]: start and end of each maximal run of True."""
    padded = np.zeros(ordinary.size + 2, bool)
    padded[1:-1] = ordinary
    return np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)


@functools.cache
def poisson_cdf(mean: float) -> np.ndarray:
    """P(X <= x) for x = 0, 1, ... until it is 1 in double precision."""
    table: list[float] = []
    term, total, x = math.exp(-mean), 0.0, 0
    while x <= mean or term > 1e-17:
        total += term
        table.append(total)
        x += 1
        term *= mean / x
    return np.array(table[:-1])


def place(spans: np.ndarray, sizes: np.ndarray, uniform: np.random.Generator) -> np.ndarray | None:
    """Starts of `spans` (in order) in runs of `sizes` laid end to end; None if there is no room.

    Uniform over all placements that leave at least one token between spans and let none cross
    from one run into the next.
    """
    kept = int(sizes.sum() - spans.sum())
    if spans.size > kept + 1 or spans.max() > sizes.max():
        return None
    if sizes.size > _FEW_RUNS:
        return _place_in_runs(spans, sizes, uniform)
    run_ends, shift = np.cumsum(sizes), np.cumsum(spans) - spans
    for _ in range(MAX_REDRAWS):
        # Kept tokens have kept + 1 slots around them, and a slot holds at most one span.
        starts = np.sort(choose(kept + 1, spans.size, uniform)) + shift
        first, last = (run_ends.searchsorted(p, "right") for p in (starts, starts + spans - 1))
        if (first == last).all():
            return starts
    return _place_in_runs(spans, sizes, uniform)


def _place_in_runs(
    spans: np.ndarray, sizes: np.ndarray, uniform: np.random.Generator
) -> np.ndarray | None:
    """`place` by counting, for runs so many that a blind placement would hardly ever fit."""
    total, lengths = int(sizes.sum()), spans.tolist()
    room = np.concatenate(([0], *(np.arange(1, size + 1) for size in sizes.tolist())))
    fits = {span: (room >= span).astype(np.float64) for span in set(lengths)}
    # ways[i][p]: placements of the first i + 1 spans that end at or before p, up to a factor.
    ways, before = np.zeros((spans.size, total + 1)), np.ones(total + 1)
    for i, span in enumerate(lengths):
        reach = span + (i > 0)  # with the gap before it
        if reach > total:
            return None
        row = ways[i, reach:]
        np.multiply(before[:-reach], fits[span][reach:], out=row)
        np.cumsum(row, out=row)
        if row[-1] == 0:
            return None
        if row[-1] > _RESCALE_ABOVE:
            row /= row[-1]
        before = ways[i]
    starts, last = [0] * len(lengths), total
    for i in range(len(lengths) - 1, -1, -1):
        row = ways[i]
        # 1 - U lies in (0, 1], so that the search never lands on an end without placements.
        end = int(row.searchsorted((1 - uniform.random()) * row[last]))
        starts[i] = end - lengths[i]
        last = starts[i] - 1
    return np.array(starts)
