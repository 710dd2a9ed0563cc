"""Denoising objectives: how a block of text becomes a training example.

Every objective is a pure function of (token ids, random generator, special ids) written in NumPy
alone. Randomness is drawn as `generator.random(...)` doubles and nothing else, because these are
the bits that NumPy keeps stable over its versions; the generator in turn is a pure function of
(seed, epoch, example), so an example can be made again anywhere, in any order.

Letters used below: n ordinary tokens of a block, B of them corrupted, in k spans.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import Literal, Protocol

import numpy as np

from seqrecipes.data.spans import (
    MAX_REDRAWS,
    choose,
    find_runs,
    place,
    poisson_cdf,
    round_randomly,
)
from seqrecipes.errors import UserError

Example = dict[str, np.ndarray]
_STREAM_TAG = 0x6E6F697365  # keeps noise apart from any other use of the same seed
_SPAN_CAP_DEVIATIONS = 6.0


@dataclasses.dataclass(frozen=True)
class Specials:
    """Ids of the special tokens; ordinary ids lie between the two groups of specials.

    `bos`, `pad`, `eos` and `unk` come first (0 to 3), `mask` and `doc` last.
    """

    bos: int
    pad: int
    eos: int
    unk: int
    mask: int
    doc: int
    vocab_size: int

    @property
    def first_ordinary(self) -> int:
        """The smallest id that is not special."""
        return max(self.bos, self.pad, self.eos, self.unk) + 1

    @property
    def end_ordinary(self) -> int:
        """One past the largest id that is not special."""
        return min(self.mask, self.doc)

    def is_ordinary(self, ids: np.ndarray) -> np.ndarray:
        """bool array shaped like `ids`: True where the id may be corrupted."""
        return (ids >= self.first_ordinary) & (ids < self.end_ordinary)


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random generator of one example in one epoch (counter-based, so seeking is free)."""
    bits = np.random.Philox(key=[seed, _STREAM_TAG], counter=[0, 0, epoch, index])
    return np.random.Generator(bits)


def example_index(language: str, block: int) -> int:
    """The index that, with seed and epoch, fixes the noise of a block of a language.

    It depends on the name of the language instead of its place among others, so that adding a
    language changes the noise of none.
    """
    return zlib.crc32(language.encode()) << 32 | block


class Objective(Protocol):
    """What the loader needs of an objective."""

    def __call__(
        self, payload_ids: np.ndarray, uniform: np.random.Generator, specials: Specials
    ) -> Example:
        """Corrupts int32[n] `payload_ids` into a dict of unpadded int32 arrays."""

    def lengths(self, length: int, max_specials: int) -> dict[str, int]:
        """The static length of every feature.

        Args:
          length: of a whole sequence, <s> and </s> included.
          max_specials: the most special tokens that any block holds.
        """


@dataclasses.dataclass(frozen=True)
class Mlm:
    """Masked language modelling (Soltan et al. 2023, section 2.1.1, after BERT).

    floor(rate n + U) of the n ordinary tokens are selected uniformly without replacement; of
    these, each becomes <mask> with probability `mask_share`, a random ordinary id with
    probability `random_share`, and stays otherwise. Special tokens are never selected.

    With <s>=0, </s>=2 and <mask>=98, two of seven tokens selected, the second one kept:

        payload               [10, 11, 12, 13, 14, 15, 16]
        encoder_input_tokens  [0, 10, 11, 98, 13, 14, 15, 16, 2]
        masked_positions      [3, 6]
        masked_targets        [12, 15]

    Attributes:
      rate: fraction of ordinary tokens selected.
      mask_share: fraction of the selected tokens that become <mask>.
      random_share: fraction of the selected tokens that become a random ordinary token.
    """

    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        _check_rate("Mlm.rate", self.rate)
        for name in ("mask_share", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"Mlm.{name}", getattr(self, name), "a share lies in [0, 1].")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise UserError(
                "Mlm.random_share", self.random_share, "mask_share + random_share is at most 1."
            )

    def __call__(
        self, payload_ids: np.ndarray, uniform: np.random.Generator, specials: Specials
    ) -> Example:
        """See the class; `masked_positions` ascend and index `encoder_input_tokens`."""
        eligible = np.flatnonzero(specials.is_ordinary(payload_ids))
        count = round_randomly(self.rate * eligible.size, uniform)
        positions = np.sort(eligible[choose(eligible.size, count, uniform)])
        fate = uniform.random(count)
        ordinary = specials.end_ordinary - specials.first_ordinary
        random_ids = specials.first_ordinary + (uniform.random(count) * ordinary).astype(np.int32)

        targets = payload_ids[positions]
        encoder = _wrap(payload_ids, specials)
        is_random = fate < self.mask_share + self.random_share
        inputs = np.where(is_random, random_ids, targets)
        inputs[fate < self.mask_share] = specials.mask
        encoder[positions + 1] = inputs
        return {
            "encoder_input_tokens": encoder,
            "masked_positions": (positions + 1).astype(np.int32),
            "masked_targets": targets.astype(np.int32),
        }

    def lengths(self, length: int, max_specials: int) -> dict[str, int]:
        """See `Objective.lengths`; no draw can select more than floor(rate payload) + 1."""
        selected = math.floor(self.rate * (length - 2)) + 1
        return {
            "encoder_input_tokens": length,
            "masked_positions": selected,
            "masked_targets": selected,
        }


@dataclasses.dataclass(frozen=True)
class SpanDenoise:
    """Span denoising (Soltan et al. 2023, section 2.1.2): the target is the whole original.

    The exact sampler corrupts B = floor(rate n + U) of the n ordinary tokens of a block. Span
    lengths are Poisson(mean_span) given that they are positive, drawn until they sum to B or
    more, the last one trimmed to hit B, then shuffled. Given the lengths, every placement in
    which at least one ordinary token lies between two spans and no span crosses a special token
    is equally likely. So exactly B tokens go and spans never touch.

    Lengths are drawn again where they cannot be placed, are more than the static shapes allow (a
    draw beyond 6 standard deviations, probability about 1e-9), or would with their insertions make
    the sequence longer. Where that fails 16 times (text whose documents have one or two tokens),
    the longest runs of ordinary tokens are taken whole until B is reached; B stays exact.

    `bart_compat` samples like the published BART pre-training code instead: B = ceil(rate n),
    zero-length spans are drawn too, and spans start at distinct random tokens whether or not they
    overlap, so that less than B is removed (14.3% of 510 tokens at a rate of 15%).

    With <s>=0, </s>=2, <mask>=98, and the spans [12, 13] and [16] drawn:

        payload               [10, 11, 12, 13, 14, 15, 16, 17]
        decoder_input_tokens  [2, 0, 10, 11, 12, 13, 14, 15, 16, 17]
        decoder_target_tokens [0, 10, 11, 12, 13, 14, 15, 16, 17, 2]
        encoder_input_tokens  [0, 10, 11, 14, 15, 17, 2]            (replace='drop')
        encoder_input_tokens  [0, 10, 11, 98, 14, 15, 98, 17, 2]    (replace='mask')

    Attributes:
      replace: 'drop' removes a span, 'mask' leaves one <mask> in its place.
      rate: fraction of ordinary tokens corrupted.
      mean_span: mean of the Poisson distribution of span lengths, zeros included.
      sampler: 'exact' or 'bart_compat'.
      zero_spans: what a drawn length of zero does: 'ignore' discards it, 'insert' puts one <mask>
        between two random tokens without using up budget ('mask' only).
    """

    replace: Literal["drop", "mask"] = "drop"
    rate: float = 0.15
    mean_span: float = 3.0
    sampler: Literal["exact", "bart_compat"] = "exact"
    zero_spans: Literal["ignore", "insert"] = "ignore"

    def __post_init__(self) -> None:
        _check_rate("SpanDenoise.rate", self.rate)
        for name, known in (
            ("replace", ("drop", "mask")),
            ("sampler", ("exact", "bart_compat")),
            ("zero_spans", ("ignore", "insert")),
        ):
            if getattr(self, name) not in known:
                raise UserError(
                    f"SpanDenoise.{name}", getattr(self, name), f"choose one of {', '.join(known)}."
                )
        if not 1 <= self.mean_span <= 100:
            raise UserError("SpanDenoise.mean_span", self.mean_span, "choose a mean in [1, 100].")
        if self.rate >= self.mean_span / (self.mean_span + 1):
            raise UserError(
                "SpanDenoise.rate",
                self.rate,
                f"spans of mean length {self.mean_span} that do not touch cover less than "
                f"{self.mean_span / (self.mean_span + 1):.2f} of a text; lower the rate or raise "
                "mean_span.",
            )
        if self.zero_spans == "insert" and self.replace != "mask":
            raise UserError(
                "SpanDenoise.zero_spans", self.zero_spans, "inserting needs replace='mask'."
            )

    def __call__(
        self, payload_ids: np.ndarray, uniform: np.random.Generator, specials: Specials
    ) -> Example:
        """See the class."""
        runs = find_runs(specials.is_ordinary(payload_ids))
        sample = self._exact if self.sampler == "exact" else self._bart_compat
        starts, ends, inserted = sample(runs, uniform)

        # Where a span is replaced by one token, its first position carries that token and stays.
        size, stays = payload_ids.size, int(self.replace == "mask")
        opened, closed = (np.bincount(p, minlength=size + 1) for p in (starts + stays, ends))
        kept = np.cumsum(opened - closed)[:size] == 0
        source = payload_ids.astype(np.int32)
        if self.replace == "mask":
            source[starts] = specials.mask
        source = source[kept]
        if inserted:
            places = (uniform.random(inserted) * (source.size + 1)).astype(np.int64)
            source = np.insert(source, places, specials.mask)

        target = _wrap(payload_ids, specials)
        return {
            "encoder_input_tokens": _wrap(source, specials),
            "decoder_input_tokens": np.concatenate((target[-1:], target[:-1])),
            "decoder_target_tokens": target,
        }

    def lengths(self, length: int, max_specials: int) -> dict[str, int]:
        """See `Objective.lengths`; the encoder's is a multiple of 8, at most `length`."""
        payload = length - 2
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

    def _most_spans(self, budget: int) -> int:
        """The most spans and insertions allowed: mean + 6 sd of a renewal count.

        More than `budget` would make a sequence longer than it was.
        """
        mean, variance = self.mean_span, self.mean_span
        if self.zero_spans == "ignore":
            positive = 1 - math.exp(-self.mean_span)
            mean = self.mean_span / positive
            variance = (self.mean_span + self.mean_span**2) / positive - mean**2
        spread = math.sqrt(budget * variance / mean**3)
        return min(budget, math.ceil(budget / mean + _SPAN_CAP_DEVIATIONS * spread) + 1)

    def _draw_lengths(self, budget: int, uniform: np.random.Generator) -> np.ndarray:
        """int64 lengths, zeros included where inserted, whose sum is exactly `budget` > 0."""
        cdf = poisson_cdf(self.mean_span)
        floor = cdf[0] if self.sampler == "exact" and self.zero_spans == "ignore" else 0.0
        total, drawn = 0, []
        while total < budget:
            uniforms = floor + (1 - floor) * uniform.random(budget)
            lengths = np.searchsorted(cdf, uniforms, side="right")
            drawn.append(lengths)
            total += int(lengths.sum())
        lengths = np.concatenate(drawn) if len(drawn) > 1 else drawn[0]
        ends = np.cumsum(lengths)
        last = int(np.searchsorted(ends, budget))
        lengths = lengths[: last + 1]
        lengths[last] -= ends[last] - budget
        return lengths

    def _exact(
        self, runs: np.ndarray, uniform: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """(starts, ends, number of insertions) of spans in a block with `runs` int64[r, 2]."""
        sizes = runs[:, 1] - runs[:, 0]
        total = int(sizes.sum())
        budget = round_randomly(self.rate * total, uniform)
        if budget == 0:
            nothing = np.zeros(0, np.int64)
            return nothing, nothing, 0
        most = self._most_spans(budget)
        for _ in range(MAX_REDRAWS):
            lengths = self._draw_lengths(budget, uniform)
            if lengths.size > most:
                continue
            spans = lengths[lengths > 0]
            spans = spans[np.argsort(uniform.random(spans.size))]
            starts = place(spans, sizes, uniform)
            if starts is not None:
                # From positions among ordinary tokens to positions in the block.
                run_ends = np.cumsum(sizes)
                starts = starts + (runs[:, 1] - run_ends)[run_ends.searchsorted(starts, "right")]
                return starts, starts + spans, int(lengths.size - spans.size)
        longest_first = np.argsort(-sizes, kind="stable")
        taken = np.minimum(sizes[longest_first], budget)
        taken = np.diff(np.minimum(np.cumsum(taken), budget), prepend=0)
        starts, taken = runs[longest_first[taken > 0], 0], taken[taken > 0]
        return starts, starts + taken, 0

    def _bart_compat(
        self, runs: np.ndarray, uniform: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Like `_exact`, with spans that may overlap and stop at the end of their run."""
        sizes = runs[:, 1] - runs[:, 0]
        budget = math.ceil(self.rate * int(sizes.sum()))
        if budget == 0:
            nothing = np.zeros(0, np.int64)
            return nothing, nothing, 0
        eligible = np.concatenate([np.arange(*run) for run in runs])
        run_ends = np.repeat(runs[:, 1], sizes)
        for _ in range(MAX_REDRAWS):
            lengths = self._draw_lengths(budget, uniform)
            spans = lengths[lengths > 0]
            where = choose(eligible.size, spans.size, uniform)
            starts = eligible[where]
            ends = np.minimum(starts + spans, run_ends[where])
            inserted = int(lengths.size - spans.size) if self.zero_spans == "insert" else 0
            # Overlaps can make insertions outnumber removals; the sequence must not grow.
            if inserted + spans.size <= np.unique(np.concatenate([starts, ends - 1])).size:
                break
        return starts, ends, inserted


def _check_rate(field: str, rate: float) -> None:
    if not 0 < rate < 1:
        raise UserError(field, rate, "a rate lies strictly between 0 and 1.")


def _wrap(ids: np.ndarray, specials: Specials) -> np.ndarray:
    """int32[n + 2]: <s> ids </s>."""
    wrapped = np.empty(ids.size + 2, np.int32)
    wrapped[0], wrapped[1:-1], wrapped[-1] = specials.bos, ids, specials.eos
    return wrapped


OBJECTIVES: dict[str, Objective] = {
    "mlm": Mlm(),
    "span_drop": SpanDenoise("drop"),
    "span_mask": SpanDenoise("mask"),
}
