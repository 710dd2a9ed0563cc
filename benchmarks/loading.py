"""Our side: prepared records on disk to finished host batches, and raw text to records."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from pathlib import Path

import numpy as np

from benchmarks.material import Material
from benchmarks.timing import Case
from seqrecipes.data.blocks import Blocks
from seqrecipes.data.loader import Loader
from seqrecipes.data.objectives.base import Objective
from seqrecipes.data.stream import training_stream

OURS = "this package"
RAW = "raw text"
_WARM_UP = 8
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def loader(blocks: Blocks, objective: Objective, batch_size: int) -> Loader:
    """A loader of whole batches, as a process that is alone has it."""
    stream = training_stream(blocks, objective, alpha=1.0, seed=0)
    return Loader(stream, stream, batch_size, np.arange(batch_size))


def loading_case(blocks: Blocks, name: str, objective: Objective, batch_size: int) -> Case:
    """Iterates a loader, its thread included."""
    source = loader(blocks, objective, batch_size)
    per_batch = batch_size * blocks.tokens("train") / int(blocks.counts("train").sum())
    start = itertools.count()

    def run(batches: int) -> int:
        # Far apart, so that none is in a cache because it was just read.
        first = next(start) * 1_000_003
        for _ in source.train(first, first + batches):
            pass
        return round(batches * per_batch)

    return Case(name, OURS, run, "ours")


def raw_cases(material: Material) -> list[Case]:
    """From text to blocks on disk, and SentencePiece alone on the same documents in memory."""
    tokenizer, passes = material.vocabulary.tokenizer, itertools.count()

    def prepare(batches: int) -> int:
        return sum(material.prepare_raw(next(passes)) for _ in range(batches))

    def encode(batches: int) -> int:
        encoded = [tokenizer.encode(material.documents) for _ in range(batches)]
        return sum(len(ids) for documents in encoded for ids in documents)

    return [
        Case(RAW, f"{OURS}: text to packed blocks", prepare, "ours"),
        Case(RAW, "SentencePiece encode(list)", encode),
    ]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Of a loader, in bytes.

    Attributes:
      batch: one batch.
      bound: of the batches alive at once: those ready, one being made, one in use.
      growth: of the resident set while `batches` are read, its peak over what it was before; None
        where the system does not say.
      late_growth: the peak in the second half over that in the first, about 0 where memory is
        bounded.
      batches: so many.
    """

    batch: int
    bound: int
    growth: int | None
    late_growth: int | None
    batches: int


def memory(source: Loader, batches: int, depth: int = 2) -> Memory:
    """Memory while a loader is read; to be measured before anything else in the process."""
    for _ in source.train(0, _WARM_UP):  # what libraries allocate once and keep
        pass
    size, before = 0, _resident("VmRSS")
    peaks = []
    for start, stop in ((0, batches // 2), (batches // 2, batches)):
        _forget_peak()
        for batch in source.train(start, stop):
            size = sum(array.nbytes for array in batch.values())
        peaks.append(_resident("VmHWM"))
    first, second = peaks
    bound = (depth + 2) * size
    if before is None or first is None or second is None:
        return Memory(size, bound, None, None, batches)
    return Memory(size, bound, max(first, second) - before, second - first, batches)


def _resident(field: str) -> int | None:
    """The resident set in bytes, now (VmRSS) or at its peak (VmHWM), where Linux tells it."""
    if not _STATUS.exists():
        return None
    fields = dict(line.split(":", 1) for line in _STATUS.read_text("utf-8").splitlines())
    return int(fields[field].split()[0]) * 1024


def _forget_peak() -> None:
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def seek_seconds(
    folder: Path, objective: Objective, batch_size: int, example: int, repetitions: int
) -> float:
    """From a folder of prepared records to the batch that begins near example `example`."""
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        step = example // batch_size
        for _ in loader(Blocks(folder), objective, batch_size).train(step, step + 1):
            pass
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
