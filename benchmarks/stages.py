"""Where the time of an example goes: each part of what a loader does, run on its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from seqrecipes.data.blocks import Blocks
from seqrecipes.data.objectives.base import Objective, generator
from seqrecipes.data.order import Location
from seqrecipes.data.stream import training_stream

_BATCHES = 8
_LOCATED = 4096  # as many as a loader looks up at once
_REPETITIONS = 5


def stages(blocks: Blocks, objective: Objective, batch_size: int) -> dict[str, float]:
    """Microseconds of processor time an example, by part.

    order: finding which record an example is, many at a time. read: that record from its file.
    generator: making its random generator. objective: the noise. arrays: the rest, that is making
    the padded arrays of a batch and filling them.
    """
    stream = training_stream(blocks, objective, alpha=1.0, seed=0)
    location = stream.order.locate(np.arange(_BATCHES * batch_size))
    batches = [
        Location(*(numbers[start : start + batch_size] for numbers in location))
        for start in range(0, _BATCHES * batch_size, batch_size)
    ]
    places = list(zip(*(numbers.tolist() for numbers in location), strict=True))
    records = [blocks.record("train", language, block) for language, _, block in places]
    noise = generator(0, 0, 0)

    def order() -> None:
        stream.order.locate(np.arange(_LOCATED))

    def read() -> None:
        for language, _, block in places:
            blocks.record("train", language, block)

    def generators() -> None:
        for (_, epoch, _), (index, _) in zip(places, records, strict=True):
            generator(0, epoch, index)

    def objectives() -> None:
        for _, segments in records:
            objective(*segments, noise, blocks.specials)

    def everything() -> None:
        for batch in batches:
            stream.at(batch)

    times = {
        "order": _seconds(order) / _LOCATED,
        "read": _seconds(read) / len(places),
        "generator": _seconds(generators) / len(places),
        "objective": _seconds(objectives) / len(places),
    }
    rows = _seconds(everything) / len(places)
    times["arrays"] = rows + times["order"] - sum(times.values())
    return {name: seconds * 1e6 for name, seconds in times.items()}


def _seconds(run: Callable[[], None]) -> float:
    run()
    seconds = []
    for _ in range(_REPETITIONS):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)
