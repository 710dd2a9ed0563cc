"""Text in, text out: lines through a tokenizer, a compiled search and back.

A program is compiled for every width of a batch, so that widths are few: lines of like length are
written together, and what comes out is put back in order.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from seqrecipes.config.finetuning import Search
from seqrecipes.config.training import Partitioning
from seqrecipes.data import pieces
from seqrecipes.data.labelled.alignment import align
from seqrecipes.models import Model
from seqrecipes.models.decoding import ONLY_START, Fixed, make_generate
from seqrecipes.training import partitioning as parts

_NARROWEST = 32


class Hypothesis(NamedTuple):
    """A text, in one line, and its score as `Search` has it."""

    text: str
    score: float


@dataclasses.dataclass(frozen=True)
class Cut:
    """A line that is longer than what the model can read.

    Attributes:
      line: its index among those given.
      tokens: how many it has, <s> and </s> counted.
      read: how many were read.
    """

    line: int
    tokens: int
    read: int


class Writer:
    """Writes texts for texts.

    Args:
      model: a sequence-to-sequence model.
      params: nested dictionary, laid out by `partitioning`.
      vocabulary: the model's.
      search: how texts are looked for.
      batch_size: lines at a time; rounded up to what the devices divide.
      partitioning: devices.
      fixed: tokens that are not looked for.

    Raises:
      UserError: as `make_generate`.
    """

    def __init__(
        self,
        model: Model,
        params: Mapping[str, Any],
        vocabulary: pieces.Model,
        search: Search,
        *,
        batch_size: int,
        partitioning: Partitioning,
        fixed: Fixed = ONLY_START,
    ):
        self._vocabulary, self._specials = vocabulary, pieces.specials(vocabulary)
        self._params, self._partitioning = params, partitioning
        self._mesh = partitioning.mesh()
        self.batch_size = parts.even_batch(batch_size, self._mesh)
        self._longest = model.config.max_positions
        count = min(model.config.vocab_size, self._specials.vocab_size)
        self._generate = make_generate(model, search, pieces=count, fixed=fixed)

    def write(
        self, lines: Sequence[str], done: Callable[[int], object] = lambda _: None
    ) -> tuple[list[list[Hypothesis]], list[Cut]]:
        """The hypotheses of every line, the best first, and the lines that were cut.

        An empty line has none.

        Args:
          lines: texts.
          done: told after every batch how many more are done.
        """
        rows, cuts = [], []
        for number, line in enumerate(lines):
            ids = self._vocabulary.tokenizer.EncodeAsIds(line)
            framed = align([ids], self._longest, self._specials)
            if framed.cut:
                cuts.append(Cut(number, len(ids) + 2, len(framed.tokens)))
            rows.append(framed.tokens if ids else [])
        result: list[list[Hypothesis]] = [[] for _ in lines]
        lengths = [len(ids) for ids in rows]
        for width, chosen in batches(lengths, self._longest, self.batch_size):
            batch = np.full((self.batch_size, width), self._specials.pad, np.int32)
            for row, number in zip(batch, chosen, strict=False):
                row[: lengths[number]] = rows[number]
            for number, hypotheses in zip(chosen, self._write(batch), strict=False):
                result[number] = hypotheses
            done(len(chosen))
        done(lengths.count(0))
        return result, cuts

    def _write(self, batch_BxS: np.ndarray) -> Iterator[list[Hypothesis]]:
        with self._partitioning.on(self._mesh):
            found = self._generate(
                self._params, jax.device_put(batch_BxS, parts.batch_sharding(self._mesh))
            )
        for row in zip(*jax.device_get(found), strict=True):
            yield [
                Hypothesis(text(self._vocabulary, ids[:length].tolist()), float(score))
                for ids, length, score in zip(*row, strict=True)
                if length
            ]


def batches(
    lengths: Sequence[int], longest: int, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """Widths, and which rows are read at that width together; rows of no length are left out.

    >>> list(batches([5, 40, 0, 7, 30], longest=48, batch_size=2))
    [(32, [0, 3]), (32, [4]), (48, [1])]
    """

    def width(number: int) -> int:
        doubled = _NARROWEST << max(0, (lengths[number] - 1) // _NARROWEST).bit_length()
        return min(doubled, longest)

    rows = [number for number, length in enumerate(lengths) if length]
    for each, group in itertools.groupby(sorted(rows, key=width), key=width):
        alike = sorted(group, key=lengths.__getitem__)
        for start in range(0, len(alike), batch_size):
            yield each, alike[start : start + batch_size]


def text(vocabulary: pieces.Model, ids: Sequence[int]) -> str:
    """The text of generated ids, as scoring reads them (`pieces.decode`), in one line."""
    found = pieces.decode(vocabulary.tokenizer, pieces.specials(vocabulary), np.array(ids))
    return " ".join(found.splitlines())
