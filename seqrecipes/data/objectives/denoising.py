"""Span denoising, whose target is the whole original."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar, Literal

import numpy as np

from seqrecipes.data.objectives.base import (
    Example,
    Reads,
    Specials,
    check_choice,
    check_spans,
    decoder_features,
    wrap,
)
from seqrecipes.data.spans import (
    MAX_REDRAWS,
    choose,
    covered,
    place,
    poisson_cdf,
    round_randomly,
)
from seqrecipes.errors import UserError

_SPAN_CAP_DEVIATIONS = 6.0


@dataclasses.dataclass(frozen=True)
class SpanDenoise:
    """Span denoising (Soltan et al. 2023, section 2.1.2): the target is the whole original.

    The exact sampler corrupts B = floor(rate n + U) of the n ordinary tokens of a block. Span
    lengths are Poisson(mean_span) given that they are positive, drawn until they sum to B or
    more, the last one trimmed to hit B and moved to a random place. Given the lengths, every
    placement in which at least one ordinary token lies between two spans and no span crosses a
    special token is equally likely. So exactly B tokens go and spans never touch.

    Lengths are drawn again where they cannot be placed, are more than the static shapes allow (a
    draw beyond 6 standard deviations, probability about 1e-9), or would with their insertions make
    the sequence longer. Where that fails 16 times (text whose documents have one or two tokens),
    the longest runs of ordinary tokens are taken whole until B is reached; B stays exact.

    `bart_compat` samples like the published BART pre-training code instead: B = ceil(rate n),
    zero-length spans are drawn too, and spans start at distinct random tokens whether or not they
    overlap, so that less than B is removed (14.3% of 510 tokens at a rate of 15%).

    With <s>=0, </s>=2, <mask>=88, and the spans [12, 13] and [16] drawn:

        payload               [10, 11, 12, 13, 14, 15, 16, 17]
        decoder_input_tokens  [2, 0, 10, 11, 12, 13, 14, 15, 16, 17]
        decoder_target_tokens [0, 10, 11, 12, 13, 14, 15, 16, 17, 2]
        encoder_input_tokens  [0, 10, 11, 14, 15, 17, 2]            (replace='drop')
        encoder_input_tokens  [0, 10, 11, 88, 14, 15, 88, 17, 2]    (replace='mask')

    Attributes:
      replace: 'drop' removes a span, 'mask' leaves one <mask> in its place.
      rate: fraction of ordinary tokens corrupted.
      mean_span: mean of the Poisson distribution of span lengths, zeros included.
      sampler: 'exact' or 'bart_compat'.
      zero_spans: what a drawn length of zero does: 'ignore' discards it, 'insert' puts one <mask>
        between two random tokens without using up budget ('mask' only).
    """

    reads: ClassVar[Reads] = "blocks"

    replace: Literal["drop", "mask"] = "drop"
    rate: float = 0.15
    mean_span: float = 3.0
    sampler: Literal["exact", "bart_compat"] = "exact"
    zero_spans: Literal["ignore", "insert"] = "ignore"

    def __post_init__(self) -> None:
        check_spans("SpanDenoise", self.rate, self.mean_span)
        check_choice("SpanDenoise.replace", self.replace, ("drop", "mask"))
        check_choice("SpanDenoise.sampler", self.sampler, ("exact", "bart_compat"))
        check_choice("SpanDenoise.zero_spans", self.zero_spans, ("ignore", "insert"))
        if self.zero_spans == "insert" and self.replace != "mask":
            raise UserError(
                "SpanDenoise.zero_spans", self.zero_spans, "inserting needs replace='mask'."
            )

    def __call__(
        self, payload_ids: np.ndarray, uniform: np.random.Generator, specials: Specials
    ) -> Example:
        """See the class."""
        shifted = wrap((specials.eos, specials.bos), payload_ids, eos=specials.eos)
        source = shifted[1:]
        breaks = (~specials.is_ordinary(source)).nonzero()[0]
        budget = self._budget(source.size - breaks.size, uniform)
        if budget:
            sample = self._exact if self.sampler == "exact" else self._bart_compat
            starts, ends, inserted = sample(budget, breaks, uniform)
            if self.replace == "mask":
                # The first position of a span carries the token that stands for it.
                source = source.copy()
                source[starts] = specials.mask
                starts = starts + 1
            source = source[~covered(starts, ends, source.size)]
            if inserted:
                source = _insert(source, specials.mask, inserted, uniform)
        return {"encoder_input_tokens": source} | decoder_features(shifted)

    def payload(self, length: int) -> int:
        """See `Objective.payload`; the target is the longest feature."""
        return length - 2

    def lengths(self, payload: int, max_specials: int) -> dict[str, int]:
        """See `Objective.lengths`; the encoder's is a multiple of 8 unless it is the whole."""
        length = payload + 2
        fewest_removed = math.floor(self.rate * max(payload - max_specials, 0))
        longest = length - fewest_removed
        if self.replace == "mask":
            longest += self._most_spans(math.ceil(self.rate * payload))
        # With runs shorter than a span and its gap, the fallback may leave more masks than that.
        crowded = self.replace == "mask" and max_specials * (self.mean_span + 1) > payload
        if self.sampler == "bart_compat" or crowded:
            longest = length
        return {
            "encoder_input_tokens": min(length, -(-longest // 8) * 8),
            "decoder_input_tokens": length,
            "decoder_target_tokens": length,
        }

    def original(self, *sizes: int) -> int:
        """See `Objective.original`."""
        return sum(sizes) + 2

    def sentinels(self, payload: int) -> int:
        """None."""
        return 0

    def _budget(self, ordinary: int, uniform: np.random.Generator) -> int:
        """How many of so many ordinary tokens to corrupt."""
        if self.sampler == "exact":
            return round_randomly(self.rate * ordinary, uniform)
        return math.ceil(self.rate * ordinary)

    @property
    def _draws_zeros(self) -> bool:
        return self.sampler == "bart_compat" or self.zero_spans == "insert"

    def _most_spans(self, budget: int) -> int:
        """The most spans and insertions allowed: mean + 6 sd of a renewal count.

        More than `budget` would make a sequence longer than it was.
        """
        mean, spread = self._renewal
        deviation = math.sqrt(budget) * spread
        return min(budget, math.ceil(budget / mean + _SPAN_CAP_DEVIATIONS * deviation) + 1)

    @functools.cached_property
    def _renewal(self) -> tuple[float, float]:
        """(mean of a drawn length, sd of the number of lengths that fill a budget of 1)."""
        mean, variance = self.mean_span, self.mean_span
        if not self._draws_zeros:
            positive = 1 - math.exp(-self.mean_span)
            mean = self.mean_span / positive
            variance = (self.mean_span + self.mean_span**2) / positive - mean**2
        return mean, math.sqrt(variance / mean**3)

    def _draw_lengths(
        self, budget: int, count: int, uniform: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        """Positive int64 lengths whose sum is exactly `budget` > 0, and how many zeros came along.

        Lengths and zeros are no more than `count`; where these do not sum to the budget, all are
        drawn again.
        """
        cdf = poisson_cdf(self.mean_span, given_positive=not self._draws_zeros)
        ends = np.zeros(1, np.int64)
        while ends[-1] < budget:
            lengths = cdf.searchsorted(uniform.random(count), "right")
            ends = lengths.cumsum()
        last = int(ends.searchsorted(budget))
        lengths = lengths[: last + 1]
        lengths[last] -= ends[last] - budget
        spans = lengths[lengths > 0] if self._draws_zeros else lengths
        # All but the trimmed one are exchangeable; in a random place it is like the others.
        other = int(uniform.random() * spans.size)
        spans[other], spans[-1] = spans[-1], spans[other]
        return spans, last + 1 - spans.size

    def _exact(
        self, budget: int, breaks: np.ndarray, uniform: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """(starts, ends, insertions) of spans between special tokens, which stand at `breaks`."""
        most = self._most_spans(budget)
        for _ in range(MAX_REDRAWS):
            spans, inserted = self._draw_lengths(budget, most, uniform)
            starts = place(spans, breaks, uniform)
            if starts is not None:
                return starts, starts + spans, inserted
        sizes = breaks[1:] - breaks[:-1] - 1
        longest_first = np.argsort(-sizes, kind="stable")
        taken = np.diff(np.minimum(sizes[longest_first].cumsum(), budget), prepend=0)
        starts, taken = breaks[longest_first[taken > 0]] + 1, taken[taken > 0]
        return starts, starts + taken, 0

    def _bart_compat(
        self, budget: int, breaks: np.ndarray, uniform: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Like `_exact`, with spans that may overlap and stop at the next special token."""
        cuts = breaks - np.arange(breaks.size)
        for _ in range(MAX_REDRAWS):
            # So many draws that, whatever the mean, they reach the budget.
            spans, zeros = self._draw_lengths(budget, 3 * budget + 20, uniform)
            starts = choose(int(cuts[-1]), spans.size, uniform)
            passed = cuts.searchsorted(starts, "right")
            starts += passed
            ends = np.minimum(starts + spans, breaks[passed])
            if self.zero_spans == "ignore" or not zeros:
                break
            # Overlaps can make insertions outnumber removals; the sequence must not grow.
            if zeros + spans.size <= np.count_nonzero(covered(starts, ends, int(breaks[-1]))):
                return starts, ends, zeros
        return starts, ends, 0


def _insert(ids: np.ndarray, token: int, count: int, uniform: np.random.Generator) -> np.ndarray:
    """`ids` with `count` times `token`, each at a random place but not first nor last."""
    places = 1 + (uniform.random(count) * (ids.size - 1)).astype(np.int64)
    places.sort()
    longer = np.full(ids.size + count, token, np.int32)
    is_old = np.ones(longer.size, bool)
    is_old[places + np.arange(count)] = False
    longer[is_old] = ids
    return longer
