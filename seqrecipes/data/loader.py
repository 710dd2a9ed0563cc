"""Batches of one process, from streams.

Step s trains on examples s * batch_size ... (s + 1) * batch_size - 1 of the stream, whatever the
number of processes: each makes only the rows that its devices hold.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from seqrecipes.data.order import Location
from seqrecipes.data.stream import Stream, prefetch

_LOCATE = 4096
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

        return prefetch(self._batches(start, stop))

    def _batches(self, start: int, stop: int) -> Iterator[Batch]:
        # Finding many examples at a time costs far less than a batch at a time.
        window = max(1, _LOCATE // max(self._rows.size, 1))
        for first in range(start, stop, window):
            steps = np.arange(first, min(first + window, stop))
            indices = steps[:, None] * self._batch_size + self._rows
            location = self._training.order.locate(indices.reshape(-1))
            for i in range(steps.size):
                rows = slice(i * self._rows.size, (i + 1) * self._rows.size)
                yield self._training.at(Location(*(numbers[rows] for numbers in location)))

    def validation(self) -> Iterator[Batch]:
        """The validation stream once; the last batch is filled up with padding."""
        for first in range(0, self._validation.size, self._batch_size):
            indices = first + self._rows
            yield self._validation.examples(np.where(indices < self._validation.size, indices, -1))
