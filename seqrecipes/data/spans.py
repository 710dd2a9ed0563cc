"""Sampling spans: how long they are and where they lie.

Random numbers are doubles from `generator.random` alone, see `seqrecipes.data.objectives.base`.

Several spans are written as their `edges`: start, end, start, end, ... in ascending order.
"""

from __future__ import annotations

import functools
import math

import numpy as np

MAX_REDRAWS = 16
_SPARSE = 6  # to choose fewer than one in so many, it costs little to draw some twice
_MANY_CROSSINGS = 3.0  # from here on counting places spans sooner than trying does
_SOON = 2.7  # so few trials cost less one by one than all together
_MANY_REPEATS = 2.0  # from here on few draws of several indices are without repeats
_RESCALE_ABOVE = 1e200


def round_randomly(expected: float, uniform: np.random.Generator) -> int:
    """floor(expected + U): an integer whose mean is `expected`."""
    return math.floor(expected + uniform.random())


def choose(size: int, count: int, uniform: np.random.Generator) -> np.ndarray:
    """int64[count]: distinct ascending indices below `size`; every such set is equally likely."""
    if count * _SPARSE > size:
        chosen = np.argpartition(uniform.random(size), count - 1)[:count]
        chosen.sort()
        return chosen
    is_chosen = np.zeros(size, bool)
    missing = count
    while missing:
        # What hits an index chosen before counts for nothing, so no set is favoured.
        is_chosen[(uniform.random(missing) * size).astype(np.int64)] = True
        missing = count - int(np.count_nonzero(is_chosen))
    return is_chosen.nonzero()[0]


def covered(starts: np.ndarray, ends: np.ndarray, size: int) -> np.ndarray:
    """bool[size]: True inside the spans; these may be empty, touch or overlap."""
    opened = np.bincount(starts, minlength=size + 1)
    opened -= np.bincount(ends, minlength=size + 1)
    return opened.cumsum()[:size] > 0


# Spans whose lengths are drawn, and which keep clear of special tokens.


@functools.cache
def poisson_cdf(mean: float, given_positive: bool = False) -> np.ndarray:
    """P(X <= x) for x = 0, 1, ... until it is 1 in double precision.

    `uniform` numbers searched in it ("right") are Poisson numbers, positive ones on request.
    """
    table: list[float] = []
    term, total, x = math.exp(-mean), 0.0, 0
    while x <= mean or term > 1e-17:
        total += term
        table.append(total)
        x += 1
        term *= mean / x
    cdf = np.array(table[:-1])
    return (cdf - cdf[0]) / (1 - cdf[0]) if given_positive else cdf


def place(
    lengths: np.ndarray, breaks: np.ndarray, uniform: np.random.Generator
) -> np.ndarray | None:
    """Starts of spans of `lengths`, in order, in a text; None if there is no room.

    Uniform over all placements with at least one ordinary token between two spans and no special
    token in any.

    Args:
      lengths: int64[k], all positive.
      breaks: int64[r], where special tokens stand, ascending. The first and the last token of the
        text are special.
      uniform: draws.
    """
    # Special tokens are taken out, and become cuts that no span may cross.
    cuts = breaks - np.arange(breaks.size)
    total, ends = int(cuts[-1]), lengths.cumsum()
    budget, shift = int(ends[-1]), ends - lengths
    slots = total - budget + 1  # around the tokens that stay; each holds at most one span
    if lengths.size > slots:
        return None
    if breaks.size == 2:
        return choose(slots, lengths.size, uniform) + shift + 1
    crossings = (breaks.size - 2) * (budget - lengths.size) / total  # to be expected
    if crossings < _MANY_CROSSINGS:
        for _ in range(MAX_REDRAWS):
            starts = _choose_often(slots, lengths.size, math.exp(crossings), uniform) + shift
            passed = cuts.searchsorted(starts, "right")
            fits = (starts + lengths <= cuts[passed]).all(axis=1)
            if fits.any():
                return (starts + passed)[fits.argmax()]
    placed = _place_by_counting(lengths, cuts, uniform)
    return placed if placed is None else placed + cuts.searchsorted(placed, "right")


def _choose_often(size: int, count: int, wanted: float, uniform: np.random.Generator) -> np.ndarray:
    """int64[m, count]: some of the sets that `choose` gives, about `wanted` of them or none."""
    repeats = count * count / (2 * size)  # to be expected among `count` draws
    if wanted < _SOON or repeats > _MANY_REPEATS:
        return choose(size, count, uniform)[None]
    rows = math.ceil(2 * wanted * math.exp(repeats))
    drawn = (uniform.random((rows, count)) * size).astype(np.int64)
    drawn.sort(axis=1)
    return drawn[(drawn[:, 1:] > drawn[:, :-1]).all(axis=1)]


def _place_by_counting(
    lengths: np.ndarray, cuts: np.ndarray, uniform: np.random.Generator
) -> np.ndarray | None:
    """`place` without its blind trials, for text where they would hardly ever succeed."""
    total, spans = int(cuts[-1]), lengths.tolist()
    # fits[l, p]: whether a span of l tokens may end at p, as a factor.
    room = np.arange(total + 1)
    room[1:] -= cuts[:-1].repeat(cuts[1:] - cuts[:-1])
    fits = (room >= np.arange(max(spans) + 1)[:, None]).astype(np.float64)
    # ways[i, p]: placements of the first i + 1 spans that end at or before p, up to a factor.
    ways, before = np.zeros((len(spans), total + 1)), np.ones(total + 1)
    for i, span in enumerate(spans):
        reach = span + (i > 0)  # with the gap before it
        if reach > total:
            return None
        row = ways[i, reach:]
        np.multiply(before[:-reach], fits[span, reach:], out=row)
        row.cumsum(out=row)
        if row[-1] == 0:
            return None
        if row[-1] > _RESCALE_ABOVE:
            row /= row[-1]
        before = ways[i]
    starts, last = [0] * len(spans), total
    # 1 - U lies in (0, 1], so that the search never lands on an end without placements.
    for i, share in zip(
        reversed(range(len(spans))), (1 - uniform.random(len(spans))).tolist(), strict=True
    ):
        row = ways[i]
        starts[i] = int(row.searchsorted(share * row[last])) - spans[i]
        last = starts[i] - 1
    return np.array(starts)


# Spans that alternate with what stays, as in T5.


def noise_counts(size: int, rate: float, mean_span: float) -> tuple[int, int]:
    """(tokens, spans) of noise in a text of `size` tokens, as T5 counts them.

    rate size tokens, but at least one and not all, in tokens / mean_span spans, at least one.
    Both are rounded half to even, in double precision. A text of a single token has no noise.
    """
    if size < 2:
        return 0, 0
    noise = min(max(round(rate * size), 1), size - 1)
    # Short texts may have fewer tokens that stay than there would be spans to part.
    return noise, min(max(round(noise / mean_span), 1), size - noise)


def alternate(size: int, noise: int, spans: int, uniform: np.random.Generator) -> np.ndarray:
    """Edges int64[2 spans] of `noise` tokens in `spans` > 0 spans that alternate with the rest.

    The text starts with what stays and ends in noise. The lengths of either are a composition of
    their sum into positive parts, all compositions equally likely (Raffel et al. 2020, the code).
    """
    noise_ends = _composition(noise, spans, uniform)
    rest_ends = _composition(size - noise, spans, uniform)
    edges = np.empty((spans, 2), np.int64)
    edges[:, 0] = rest_ends
    edges[1:, 0] += noise_ends[:-1]
    edges[:, 1] = rest_ends + noise_ends
    return edges.ravel()


def _composition(total: int, parts: int, uniform: np.random.Generator) -> np.ndarray:
    """int64[parts]: where each of the positive parts of `total` ends."""
    ends = np.empty(parts, np.int64)
    ends[:-1] = choose(total - 1, parts - 1, uniform)
    ends[:-1] += 1
    ends[-1] = total
    return ends


def cut(edges: np.ndarray, position: int) -> tuple[np.ndarray, int]:
    """Cuts a span with `position` inside it in two.

    Returns:
      (edges, how many of them belong to spans that end at `position` or before it)
    """
    before = int(edges.searchsorted(position))
    if before % 2 == 0:
        return edges, before
    if edges[before] != position:
        edges = np.concatenate((edges[:before], (position, position), edges[before:]))
    return edges, before + 1


def roll(edges: np.ndarray, size: int, offset: int) -> np.ndarray:
    """Moves spans in a text of `size` tokens to the right, around its end.

    What reaches over the end becomes two spans.
    """
    edges, before = cut(edges, size - offset)
    return np.concatenate((edges[before:] - (size - offset), edges[:before] + offset))
