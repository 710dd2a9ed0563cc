"""Training batches of a small set: every example once an epoch, each epoch in its own order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from seqrecipes.data.order import permute
from seqrecipes.data.stream import prefetch
from seqrecipes.errors import UserError


class Epochs:
    """Batches by random access: batch s is a pure function of (seed, s).

    Examples follow each other without end, an epoch after the other, and batches cut that into
    equal pieces; where the number of examples is no multiple of the batch size, some batches hold
    the end of one epoch and the beginning of the next.

    Args:
      features: arrays of one length N > 0.
      batch_size: examples in a batch of all processes.
      seed: of the orders.
      rows: int64[k], the rows of every batch that this process makes; None for all.
    """

    def __init__(
        self,
        features: Mapping[str, np.ndarray],
        batch_size: int,
        seed: int,
        rows: np.ndarray | None = None,
    ):
        if batch_size < 1:
            raise UserError("batch_size", batch_size, "choose 1 or more.")
        self._features, self._batch_size, self._seed = dict(features), batch_size, seed
        self._rows = np.arange(batch_size) if rows is None else rows
        (self.size,) = {len(values) for values in features.values()}
        if not self.size:
            raise UserError("features", "", "there is no example to train on.")

    @property
    def steps_per_epoch(self) -> int:
        """The fewest steps that see every example at least once."""
        return -(-self.size // self._batch_size)

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The rows of the batch of a step, from 0."""
        index = step * self._batch_size + self._rows
        epoch, position = np.divmod(index.astype(np.int64), self.size)
        chosen = permute(position, self.size, self._seed, epoch)
        return {name: values[chosen] for name, values in self._features.items()}

    def train(self, start: int, stop: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches of steps start ... stop - 1, made ahead of use."""
        return prefetch(self.batch(step) for step in range(start, stop))
