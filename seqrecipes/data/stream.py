"""Streams: example indices -> padded arrays of static shape, by random access.

A stream has no position. Example i is the same whoever asks for it, in whatever order and after
whatever restart, so the state of the data side of a run is one number.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np

from seqrecipes.data.blocks import Blocks
from seqrecipes.data.objectives import Objective, example_index, generator
from seqrecipes.data.order import MixedOrder, Order, SequentialOrder
from seqrecipes.errors import UserError

T = TypeVar("T")


class Stream:
    """The examples of a split under an objective, in an order.

    Args:
      blocks: prepared text.
      objective: makes an example of a block.
      split: 'train' or 'validation'.
      order: says which block example i is.
      seed: of the noise.

    Attributes:
      features: feature name -> static length.
      size: examples of one pass: of a global epoch in training, of all in validation.
      length: tokens of a sequence, <s> and </s> included.
      pad_id: fills what is not used.
    """

    def __init__(self, blocks: Blocks, objective: Objective, split: str, order: Order, seed: int):
        self.blocks, self.order = blocks, order
        self.size, self.length = order.size, blocks.payload + 2
        self.features = objective.lengths(self.length, blocks.max_specials)
        self.pad_id = blocks.specials.pad
        self._objective, self._split, self._seed = objective, split, seed

    def examples(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """int32[k, length] arrays of the k examples int64[k] `indices`.

        Index -1 gives a row of padding alone (to fill a last batch).
        """
        indices = np.asarray(indices, np.int64)
        rows = {
            name: np.full((indices.size, length), self.pad_id, np.int32)
            for name, length in self.features.items()
        }
        real = np.flatnonzero(indices >= 0)
        location = self.order.locate(indices[real])
        for row, language, epoch, block in zip(real, *(a.tolist() for a in location), strict=True):
            index = example_index(self.blocks.languages[language], block)
            example = self._objective(
                self.blocks.block(self._split, language, block),
                generator(self._seed, epoch, index),
                self.blocks.specials,
            )
            for name, ids in example.items():
                rows[name][row, : ids.size] = ids
        return rows


def training_stream(blocks: Blocks, objective: Objective, *, alpha: float, seed: int) -> Stream:
    """An endless stream of the training split, languages mixed with exponent `alpha`."""
    order = MixedOrder(blocks.counts("train"), alpha, seed)
    return Stream(blocks, objective, "train", order, seed)


def validation_stream(
    blocks: Blocks, objective: Objective, *, seed: int, max_examples: int | None = None
) -> Stream:
    """The validation split once, its noise always the same; evenly thinned to `max_examples`.

    Raises:
      UserError: the corpus has no validation text.
    """
    order = SequentialOrder(blocks.counts("validation"), max_examples)
    if not order.size:
        raise UserError(
            "corpus",
            ", ".join(blocks.languages),
            "it has no validation text; lower TextFiles.validation_every or give "
            "TextFiles.validation_files.",
        )
    return Stream(blocks, objective, "validation", order, seed)


def prefetch(
    make_batch: Callable[[int], T], start: int, stop: int, depth: int = 2
) -> Generator[T, None, None]:
    """make_batch(start), ..., make_batch(stop - 1), made ahead of use in a thread.

    Args:
      make_batch: called in order, in the thread. What it raises is raised to the consumer.
      start: the first argument.
      stop: one past the last argument.
      depth: batches kept ready at most.
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for step in range(start, stop):
                if not put((make_batch(step), None)):
                    return
        except BaseException as error:
            put((None, error))

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        for _ in range(start, stop):
            batch, error = ready.get()
            if error is not None:
                raise error
            yield batch
    finally:
        stopped.set()
        thread.join()
