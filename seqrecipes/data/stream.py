"""Streams: example indices -> padded arrays of static shape, by random access.

A stream has no position. Example i is the same whoever asks for it, in whatever order and after
whatever restart, so the state of the data side of a run is one number.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

import numpy as np

from seqrecipes.data.blocks import Blocks
from seqrecipes.data.objectives.base import Objective, check_sentinels, generator
from seqrecipes.data.order import Location, MixedOrder, Order, SequentialOrder
from seqrecipes.errors import UserError

T = TypeVar("T")
ORIGINAL_TOKENS = "original_tokens"
_CHECKED = 64
_MORE_VALIDATION = (
    "lower TextFiles.validation_every or give TextFiles.validation_files (other corpora have "
    "settings of the same name)."
)


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
      pad_id: fills what is not used.
    """

    def __init__(self, blocks: Blocks, objective: Objective, split: str, order: Order, seed: int):
        self.blocks, self.order = blocks, order
        self.size = order.size
        self.features = objective.lengths(blocks.payload, blocks.max_specials)
        self.pad_id = blocks.specials.pad
        check_sentinels(objective, blocks.payload, blocks.specials)
        self._objective, self._split, self._seed = objective, split, seed

    def examples(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """int32[k, length] arrays of the k examples int64[k] `indices`.

        To the features of the objective comes `original_tokens` [k, 1], see `Objective.original`.
        Index -1 gives a row of padding alone (to fill a last batch).
        """
        indices = np.asarray(indices, np.int64)
        return self.at(self.order.locate(np.maximum(indices, 0)), present=indices >= 0)

    def at(self, location: Location, present: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The examples at k locations; rows that are not `present` (bool[k]) are padding alone."""
        size = location.block.size
        rows = {
            name: np.full((size, length), self.pad_id, np.int32)
            for name, length in self.features.items()
        }
        originals = np.zeros((size, 1), np.int32)
        real = range(size) if present is None else np.flatnonzero(present).tolist()
        languages, epochs, blocks = (numbers.tolist() for numbers in location)
        for row in real:
            index, segments = self.blocks.record(self._split, languages[row], blocks[row])
            noise = generator(self._seed, epochs[row], index)
            example = self._objective(*segments, noise, self.blocks.specials)
            for name, ids in example.items():
                rows[name][row, : ids.size] = ids
            originals[row] = self._objective.original(*(ids.size for ids in segments))
        return rows | {ORIGINAL_TOKENS: originals}

    def check_targets(self) -> None:
        """Refuses a stream of which no example has anything to predict.

        A text of one token has no noise, and one of a few may have none.

        Raises:
          UserError: says how to get more text.
        """
        names = [name for name in self.features if name.endswith(("_targets", "_target_tokens"))]
        for first in range(0, self.size, _CHECKED):
            rows = self.examples(np.arange(first, min(first + _CHECKED, self.size)))
            if any((rows[name] != self.pad_id).any() for name in names):
                return
        raise UserError(
            "corpus",
            ", ".join(self.blocks.languages),
            f"none of its {self.size} {self._split} example(s) is long enough to have a token to "
            f"predict; {_MORE_VALIDATION}",
        )


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
            f"it has no validation text; {_MORE_VALIDATION}",
        )
    return Stream(blocks, objective, "validation", order, seed)


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items, made ahead of use in a thread.

    Args:
      items: iterated in the thread. What it raises is raised to the consumer.
      depth: items kept ready at most.
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
        end: BaseException = StopIteration()
        try:
            for item in items:
                if not put((item, None)):
                    return
        except BaseException as error:
            end = error
        put((None, end))

    thread = threading.Thread(target=work, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        stopped.set()
        thread.join()
