"""Span denoising as the published BART pre-training code samples it, in NumPy and in PyTorch.

B = ceil(rate n) of the n tokens between <s> and </s> are the budget. Lengths are drawn from a table
of Poisson probabilities until they sum to B, the last one trimmed. Those of zero insert a <mask>
somewhere; the others start at distinct random tokens, run on over one another where they meet,
and stop before </s>. So fewer tokens go than the budget: 14.3% of 510 at a rate of 15%. A span
leaves one <mask> (replace_length=1) or nothing (0); zero lengths insert a <mask> in both.

A batch holds the corrupted sequence, the original as target, and the target turned by one as
decoder input, all padded on the right to the longest of the batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What both implementations need.

    Attributes:
      mask: id of <mask>.
      pad: fills what is not used.
      replace_length: 1 or 0.
      rate: fraction of tokens in the budget.
      mean_span: mean of the Poisson distribution.
    """

    mask: int
    pad: int
    replace_length: int
    rate: float = 0.15
    mean_span: float = 3.0

    def table(self) -> np.ndarray:
        """float64: probabilities of the lengths 0, 1, ... that are not negligible."""
        x = np.arange(128)
        logarithms = x * math.log(self.mean_span) - self.mean_span
        probabilities = np.exp(logarithms - np.array([math.lgamma(i + 1) for i in x]))
        probabilities = probabilities[: np.flatnonzero(probabilities > 1e-7)[-1] + 1]
        return probabilities / probabilities.sum()


class NumpyDenoising:
    """The NumPy implementation; sequences are int64[n] with <s> and </s>."""

    def __init__(self, settings: Settings, seed: int = 0):
        self._settings, self._random = settings, np.random.default_rng(seed)
        self._ends = np.cumsum(settings.table())

    def corrupt(self, sequence: np.ndarray) -> np.ndarray:
        """int64: the sequence with noise."""
        settings, size = self._settings, sequence.size
        budget = math.ceil(settings.rate * (size - 2))
        lengths = self._draw(budget)
        ends = np.cumsum(lengths)
        while ends[-1] < budget:
            lengths = np.concatenate((lengths, self._draw(budget)))
            ends = np.cumsum(lengths)
        last = int(np.searchsorted(ends, budget))
        lengths[last] -= ends[last] - budget
        lengths = lengths[: last + 1]
        spans = lengths[lengths > 0]
        insertions = lengths.size - spans.size

        places = self._random.permutation(size - 2)[: spans.size] + 1
        source, kept = sequence.copy(), np.ones(size, bool)
        if settings.replace_length:
            source[places] = settings.mask
        else:
            kept[places] = False
        left = spans - 1
        while places.size:
            places, left = places + 1, left - 1
            inside = (left >= 0) & (places < size - 1)
            places, left = places[inside], left[inside]
            kept[places] = False
        source = source[kept]
        if not insertions:
            return source
        result = np.empty(source.size + insertions, np.int64)
        is_new = np.zeros(result.size, bool)
        is_new[self._random.permutation(result.size - 2)[:insertions] + 1] = True
        result[is_new], result[~is_new] = settings.mask, source
        return result

    def batch(self, sequences: Sequence[np.ndarray]) -> Batch:
        """Padded int64 arrays of the sequences."""
        sources = [self.corrupt(sequence) for sequence in sequences]
        return {
            "source": self._pad(sources),
            "target": self._pad(sequences),
            "decoder_input": self._pad([np.roll(sequence, 1) for sequence in sequences]),
        }

    def _draw(self, count: int) -> np.ndarray:
        return self._ends.searchsorted(self._random.random(count) * self._ends[-1], "right")

    def _pad(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        longest = max(sequence.size for sequence in sequences)
        padded = np.full((len(sequences), longest), self._settings.pad, np.int64)
        for row, sequence in zip(padded, sequences, strict=True):
            row[: sequence.size] = sequence
        return padded


class TorchDenoising:
    """The PyTorch implementation, as the published code uses it; sequences are int64[n]."""

    def __init__(self, settings: Settings, seed: int = 0):
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self._torch, self._settings = torch, settings
        self._lengths = torch.distributions.Categorical(torch.from_numpy(settings.table()))

    def corrupt(self, sequence: Any) -> Any:
        """The sequence with noise."""
        torch, settings = self._torch, self._settings
        size = sequence.numel()
        budget = math.ceil(settings.rate * (size - 2))
        lengths = self._lengths.sample((budget,))
        ends = lengths.cumsum(0)
        while ends[-1] < budget:
            lengths = torch.cat((lengths, self._lengths.sample((budget,))))
            ends = lengths.cumsum(0)
        last = int(torch.searchsorted(ends, budget))
        lengths[last] -= ends[last] - budget
        lengths = lengths[: last + 1]
        spans = lengths[lengths > 0]
        insertions = lengths.numel() - spans.numel()

        places = torch.randperm(size - 2)[: spans.numel()] + 1
        source, kept = sequence.clone(), torch.ones(size, dtype=torch.bool)
        if settings.replace_length:
            source[places] = settings.mask
        else:
            kept[places] = False
        left = spans - 1
        while places.numel():
            places, left = places + 1, left - 1
            inside = (left >= 0) & (places < size - 1)
            places, left = places[inside], left[inside]
            kept[places] = False
        source = source[kept]
        if not insertions:
            return source
        result = torch.full((source.numel() + insertions,), settings.mask)
        is_old = torch.ones(result.numel(), dtype=torch.bool)
        is_old[torch.randperm(result.numel() - 2)[:insertions] + 1] = False
        result[is_old] = source
        return result

    def batch(self, sequences: Sequence[Any]) -> Batch:
        """Padded int64 tensors of the sequences."""
        sources = [self.corrupt(sequence) for sequence in sequences]
        return {
            "source": self._pad(sources),
            "target": self._pad(sequences),
            "decoder_input": self._pad([sequence.roll(1) for sequence in sequences]),
        }

    def _pad(self, sequences: Sequence[Any]) -> Any:
        longest = max(sequence.numel() for sequence in sequences)
        padded = self._torch.full((len(sequences), longest), self._settings.pad)
        for row, sequence in zip(padded, sequences, strict=True):
            row[: sequence.numel()] = sequence
        return padded
