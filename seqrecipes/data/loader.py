"""Batches of one process, from streams.

Step s trains on examples s * batch_size ... (s + 1) * batch_size - 1 of the stream, whatever the
number of processes: each makes only the rows that its devices hold.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from seqrecipes.data.stream import Stream, prefetch

Batch = dict[str, np.ndarray]


class Loader:
    """Training and validation batches.

    Args:
      training: endless stream.
      validation: finite stream.
      batch_size: examples in a global batch.
      rows: int64[k], the rows of every global batch that this process makes.
    """

    def __init__(self, training: Stream, validation: Stream, batch_size: int, rows: np.ndarray):
        self._training, self._validation = training, validation
        self._batch_size, self._rows = batch_size, rows

    def train(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start ... stop - 1, made ahead of use."""

        def batch(step: int) -> Batch:
            return self._training.examples(step * self._batch_size + self._rows)

        return prefetch(batch, start, stop)

    def validation(self) -> Iterator[Batch]:
        """The validation stream once; the last batch is filled up with padding."""
        for first in range(0, self._validation.size, self._batch_size):
            indices = first + self._rows
            yield self._validation.examples(np.where(indices < self._validation.size, indices, -1))
