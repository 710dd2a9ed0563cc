"""Masked language modelling of blocks, of translations side by side, and of pairs."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal

import numpy as np

from seqrecipes.data.objectives.base import (
    Example,
    Reads,
    Specials,
    check_choice,
    check_rate,
    wrap,
)
from seqrecipes.data.spans import choose, round_randomly
from seqrecipes.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Masking:
    """Masking after BERT, as all objectives below do it.

    Attributes:
      rate: fraction of ordinary tokens selected.
      mask_share: fraction of the selected tokens that become <mask>.
      random_share: fraction of the selected tokens that become a random ordinary token.
    """

    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_rate(f"{owner}.rate", self.rate)
        for name in ("mask_share", "random_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{owner}.{name}", getattr(self, name), "a share lies in [0, 1].")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise UserError(
                f"{owner}.random_share",
                self.random_share,
                "mask_share + random_share is at most 1.",
            )

    def _mask(
        self, tokens: np.ndarray, uniform: np.random.Generator, specials: Specials
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks `tokens` in place: (tokens, ascending positions, what stood there), int32."""
        eligible = specials.is_ordinary(tokens).nonzero()[0]
        count = round_randomly(self.rate * eligible.size, uniform)
        positions = eligible[choose(eligible.size, count, uniform)]
        targets = tokens[positions]
        fate, pick = uniform.random((2, count))
        ordinary = specials.end_ordinary - specials.first_ordinary
        is_replaced = fate < self.mask_share + self.random_share
        random_ids = (pick * ordinary).astype(np.int32) + specials.first_ordinary
        inputs = np.where(is_replaced, random_ids, targets)
        inputs[fate < self.mask_share] = specials.mask
        tokens[positions] = inputs
        return tokens, positions.astype(np.int32), targets

    def _most_selected(self, tokens: int) -> int:
        """No draw can select more than this of so many tokens."""
        return math.floor(self.rate * tokens) + 1

    def sentinels(self, payload: int) -> int:
        """None."""
        return 0


class _EncoderMasking(_Masking):
    """What `Mlm` and `Tlm` share: all segments are one input, each with </s> after it."""

    _segments: ClassVar[int] = 1

    def _example(
        self, segments: tuple[np.ndarray, ...], uniform: np.random.Generator, specials: Specials
    ) -> Example:
        tokens = wrap((specials.bos,), *segments, eos=specials.eos)
        tokens, positions, targets = self._mask(tokens, uniform, specials)
        return {
            "encoder_input_tokens": tokens,
            "masked_positions": positions,
            "masked_targets": targets,
        }

    def payload(self, length: int) -> int:
        """See `Objective.payload`."""
        return (length - 1) // self._segments - 1

    def original(self, *sizes: int) -> int:
        """See `Objective.original`."""
        return 1 + sum(sizes) + len(sizes)

    def lengths(self, payload: int, max_specials: int) -> dict[str, int]:
        """See `Objective.lengths`."""
        selected = self._most_selected(self._segments * payload)
        return {
            "encoder_input_tokens": 1 + self._segments * (payload + 1),
            "masked_positions": selected,
            "masked_targets": selected,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlm(_EncoderMasking):
    """Masked language modelling (Soltan et al. 2023, section 2.1.1, after BERT).

    floor(rate n + U) of the n ordinary tokens are selected uniformly without replacement; of
    these, each becomes <mask> with probability `mask_share`, a random ordinary id with
    probability `random_share`, and stays otherwise. Special tokens are never selected.

    With <s>=0, </s>=2 and <mask>=88, two of seven tokens selected, the second one kept:

        payload               [10, 11, 12, 13, 14, 15, 16]
        encoder_input_tokens  [0, 10, 11, 88, 13, 14, 15, 16, 2]
        masked_positions      [3, 6]
        masked_targets        [12, 15]

    Attributes:
      rate: fraction of ordinary tokens selected.
      mask_share: fraction of the selected tokens that become <mask>.
      random_share: fraction of the selected tokens that become a random ordinary token.
    """

    reads: ClassVar[Reads] = "blocks"

    def __call__(
        self, payload_ids: np.ndarray, uniform: np.random.Generator, specials: Specials
    ) -> Example:
        """See the class; `masked_positions` ascend and index `encoder_input_tokens`."""
        return self._example((payload_ids,), uniform, specials)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tlm(_EncoderMasking):
    """Translation language modelling (Conneau and Lample 2019): `Mlm` over a pair side by side.

    Tokens of both sides are selected as if they were one text. Positions run on from the first
    side into the second. XLM masks 15%; VECO (section 3) 25% of bilingual text.

    With <s>=0, </s>=2 and <mask>=88, one token of each side selected, the second one kept:

        first                 [10, 11, 12]
        second                [20, 21, 22, 23]
        encoder_input_tokens  [0, 10, 88, 12, 2, 20, 21, 22, 23, 2]
        masked_positions      [2, 7]
        masked_targets        [11, 22]

    Attributes:
      rate: fraction of ordinary tokens selected.
      mask_share: fraction of the selected tokens that become <mask>.
      random_share: fraction of the selected tokens that become a random ordinary token.
    """

    reads: ClassVar[Reads] = "translations"
    _segments: ClassVar[int] = 2

    def __call__(
        self,
        first: np.ndarray,
        second: np.ndarray,
        uniform: np.random.Generator,
        specials: Specials,
    ) -> Example:
        """See the class; `masked_positions` ascend and index `encoder_input_tokens`."""
        return self._example((first, second), uniform, specials)


@dataclasses.dataclass(frozen=True)
class PairMlm(_Masking):
    """Two segments, each masked on its own, for the two MLM tasks of VECO (section 2.2).

    Either segment is wrapped and masked as `Mlm` does it, so that a model can encode each alone
    and predict one with the other at hand. VECO masks 15% of monolingual and 25% of bilingual
    text (section 3).

    With <s>=0, </s>=2 and <mask>=88, one token of each segment selected, the second one kept:

        first                    [10, 11, 12]
        second                   [20, 21, 22, 23]
        first_input_tokens       [0, 10, 88, 12, 2]
        first_masked_positions   [2]
        first_masked_targets     [11]
        second_input_tokens      [0, 20, 21, 22, 23, 2]
        second_masked_positions  [3]
        second_masked_targets    [22]

    Attributes:
      reads: 'adjacent' segments of a document, or 'translations'.
      rate: fraction of ordinary tokens of a segment that are selected.
      mask_share: fraction of the selected tokens that become <mask>.
      random_share: fraction of the selected tokens that become a random ordinary token.
    """

    reads: Literal["adjacent", "translations"]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("PairMlm.reads", self.reads, ("adjacent", "translations"))

    def __call__(
        self,
        first: np.ndarray,
        second: np.ndarray,
        uniform: np.random.Generator,
        specials: Specials,
    ) -> Example:
        """See the class; positions ascend and index the input of their segment."""
        example = {}
        for name, ids in (("first", first), ("second", second)):
            tokens = wrap((specials.bos,), ids, eos=specials.eos)
            tokens, positions, targets = self._mask(tokens, uniform, specials)
            example[f"{name}_input_tokens"] = tokens
            example[f"{name}_masked_positions"] = positions
            example[f"{name}_masked_targets"] = targets
        return example

    def payload(self, length: int) -> int:
        """See `Objective.payload`."""
        return length - 2

    def original(self, *sizes: int) -> int:
        """See `Objective.original`."""
        return sum(sizes) + 2 * len(sizes)

    def lengths(self, payload: int, max_specials: int) -> dict[str, int]:
        """See `Objective.lengths`."""
        selected = self._most_selected(payload)
        return {
            f"{name}_{feature}": length
            for name in ("first", "second")
            for feature, length in (
                ("input_tokens", payload + 2),
                ("masked_positions", selected),
                ("masked_targets", selected),
            )
        }
