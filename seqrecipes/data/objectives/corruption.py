"""Span corruption with sentinels, of blocks and of translations."""

from __future__ import annotations

import bisect
import dataclasses
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
from seqrecipes.data.spans import alternate, covered, cut, noise_counts, roll
from seqrecipes.errors import UserError

_NO_EDGES = np.zeros(0, np.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Corruption:
    """What both objectives below share: how spans are drawn, and what becomes of them.

    Attributes: see `SpanCorruption`.
    """

    _segments: ClassVar[int] = 1

    rate: float = 0.15
    mean_span: float = 3.0
    roll: bool = True
    final_sentinel: bool = True
    bos: bool = False

    def __post_init__(self) -> None:
        check_spans(type(self).__name__, self.rate, self.mean_span)

    def _sample(self, size: int, uniform: np.random.Generator) -> np.ndarray:
        """The edges of the spans in a text of `size` tokens."""
        noise, spans = noise_counts(size, self.rate, self.mean_span)
        if not noise:
            return _NO_EDGES
        edges = alternate(size, noise, spans, uniform)
        return roll(edges, size, int(uniform.random() * size)) if self.roll else edges

    def _corrupt(
        self, segments: tuple[np.ndarray, ...], edges: np.ndarray, specials: Specials
    ) -> Example:
        """The example of `segments`; `edges` count their tokens and the </s> after each."""
        starts, ends = edges[0::2], edges[1::2]
        count = starts.size
        used = count + self.final_sentinel
        if used > specials.sentinels:
            raise UserError(
                "vocabulary", f"{specials.sentinels} sentinels", f"this example needs {used}."
            )
        sentinels = np.arange(specials.first_sentinel, specials.first_sentinel + used)

        # A slot ahead of the first token, so that every span has a token before it.
        start = (specials.eos, specials.bos) if self.bos else (specials.eos,)
        tokens = wrap(start, *segments, eos=specials.eos)
        starts = starts + len(start)
        is_noise = covered(starts, ends + len(start), tokens.size)

        # Spans never touch: the token before a span is kept, and its place free in the target.
        prompted, is_target = tokens.copy(), is_noise.copy()
        prompted[starts - 1] = sentinels[:count]
        is_target[starts - 1] = True
        spans = prompted[is_target]
        shifted = np.empty(spans.size + self.final_sentinel + 2, np.int32)
        shifted[0] = shifted[-1] = specials.eos
        shifted[1 : spans.size + 1] = spans
        if self.final_sentinel:
            shifted[-2] = sentinels[-1]

        tokens[starts] = sentinels[:count]
        is_noise[starts] = False
        return {"encoder_input_tokens": tokens[1:][~is_noise[1:]]} | decoder_features(shifted)

    def _candidates(self, payload: int) -> int:
        """The most tokens that noise is drawn over, where segments have `payload` tokens."""
        return payload

    @property
    def _extra_spans(self) -> int:
        """How often a drawn span can be cut in two."""
        return int(self.roll)

    def _most_noise(self, payload: int) -> tuple[int, int]:
        """(tokens, spans) at the most."""
        noise, spans = noise_counts(self._candidates(payload), self.rate, self.mean_span)
        return noise, min(noise, spans + self._extra_spans)

    def lengths(self, payload: int, max_specials: int) -> dict[str, int]:
        """See `Objective.lengths`; special tokens in a text change nothing."""
        noise, spans = self._most_noise(payload)
        target = noise + spans + self.final_sentinel + 1
        return {
            "encoder_input_tokens": self.bos + self._segments * (payload + 1) - noise + spans,
            "decoder_input_tokens": target,
            "decoder_target_tokens": target,
        }

    def original(self, *sizes: int) -> int:
        """See `Objective.original`."""
        return self.bos + sum(sizes) + len(sizes)

    def sentinels(self, payload: int) -> int:
        """See `Objective.sentinels`."""
        return self._most_noise(payload)[1] + self.final_sentinel

    def payload(self, length: int) -> int:
        """See `Objective.payload`."""
        # Corruption leaves at least half of a text on one side or the other.
        return bisect.bisect_right(
            range(1, 2 * length + 1), length, key=lambda n: max(self.lengths(n, 0).values())
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(_Corruption):
    """Span corruption (Raffel et al. 2020, section 3.1.4; Ma et al. 2021, section 2.3).

    Of n tokens, N = round(rate n) are noise, at least one and not all of them, in
    S = round(N / mean_span) spans, at least one. Both are rounded half to even, as T5, Python and
    NumPy do it. The lengths of the spans are a composition of N into S positive parts, and the
    lengths of what lies between them one of n - N, all compositions equally likely; the text
    starts with what stays. So spans never touch. As in T5 every token may be noise, [DOC] and
    <unk> too. A text of one token has no noise.

    Each span becomes one sentinel in the input; the target holds the sentinels, each followed by
    its span. With </s>=2, sentinels from 90 on, and the spans [12, 13] and [16] drawn:

        payload               [10, 11, 12, 13, 14, 15, 16, 17]
        encoder_input_tokens  [10, 11, 90, 14, 15, 91, 17, 2]
        decoder_input_tokens  [2, 90, 12, 13, 91, 16, 92]
        decoder_target_tokens [90, 12, 13, 91, 16, 92, 2]

    T5's own code is `SpanCorruption(roll=False, final_sentinel=False)`; its sentinels descend from
    the last id, these ascend to it.

    Attributes:
      rate: fraction of tokens that are noise.
      mean_span: mean length of a span of noise.
      roll: move the noise by a random number of tokens, around the end of the text. Without, the
        first token is never noise and the last one always is. A span that reaches over the end
        becomes two.
      final_sentinel: close the target with one more sentinel (before </s>).
      bos: put <s> in front of the input, for an encoder that was trained with one.
    """

    reads: ClassVar[Reads] = "blocks"

    def __call__(
        self, payload_ids: np.ndarray, uniform: np.random.Generator, specials: Specials
    ) -> Example:
        """See the class.

        Raises:
          UserError: the vocabulary has too few sentinels.
        """
        return self._corrupt((payload_ids,), self._sample(payload_ids.size, uniform), specials)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationSpanCorruption(_Corruption):
    """Span corruption of a pair of translations (Ma et al. 2021, section 2.3).

    Noise is drawn as by `SpanCorruption`. With `mask_side` 'both' it is drawn over the two sides
    as one text; a span that reaches from the first into the second becomes two, and the </s>
    between them is never noise. With 'one' it is drawn over one side, either equally likely, and
    the other side stays whole (Chi et al. 2021).

    With </s>=2, sentinels from 90 on, and the spans [12, 20] and [23] drawn:

        first                 [10, 11, 12]
        second                [20, 21, 22, 23]
        encoder_input_tokens  [10, 11, 90, 2, 91, 21, 22, 92, 2]
        decoder_input_tokens  [2, 90, 12, 91, 20, 92, 23, 93]
        decoder_target_tokens [90, 12, 91, 20, 92, 23, 93, 2]

    Attributes:
      rate: fraction of tokens (of both sides, or of the one) that are noise.
      mean_span: mean length of a span of noise.
      roll: see `SpanCorruption`.
      final_sentinel: see `SpanCorruption`.
      bos: see `SpanCorruption`.
      mask_side: 'both' or 'one'.
    """

    reads: ClassVar[Reads] = "translations"
    _segments: ClassVar[int] = 2

    rate: float = 0.5
    mask_side: Literal["both", "one"] = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("TranslationSpanCorruption.mask_side", self.mask_side, ("both", "one"))

    def __call__(
        self,
        first: np.ndarray,
        second: np.ndarray,
        uniform: np.random.Generator,
        specials: Specials,
    ) -> Example:
        """See the class.

        Raises:
          UserError: the vocabulary has too few sentinels.
        """
        if self.mask_side == "both":
            edges, before = cut(self._sample(first.size + second.size, uniform), first.size)
            edges[before:] += 1
        elif uniform.random() < 0.5:
            edges = self._sample(first.size, uniform)
        else:
            edges = self._sample(second.size, uniform) + first.size + 1
        return self._corrupt((first, second), edges, specials)

    def _candidates(self, payload: int) -> int:
        return payload * (2 if self.mask_side == "both" else 1)

    @property
    def _extra_spans(self) -> int:
        return self.roll + (self.mask_side == "both")
