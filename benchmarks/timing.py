"""Rates of several cases, measured in turns.

The turns (A B C A B C ...) spread whatever slows the machine down for a while over all cases, so
that their ratios stand even where the rates move. Time is the processor time of this process, all
threads together: what a core must spend, whoever else wants it. Wall time is kept beside it; the
two differ where a case waits, or where another process had the core.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal

_POLL_SECONDS, _IDLE_SHARE, _MOST_POLLS = 0.005, 0.1, 400


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that makes batches.

    Attributes:
      group: what it is compared with: cases of one group do the same work.
      name: its own.
      run: makes that many more batches and returns the tokens of text in them. What it leaves to
        its threads is waited for and counted too.
      role: 'ours', a 'peer' that we are held against, or an 'aside' to be seen beside them.
    """

    group: str
    name: str
    run: Callable[[int], int]
    role: Literal["ours", "peer", "aside"] = "peer"


@dataclasses.dataclass(frozen=True)
class Missing:
    """A case that cannot be measured.

    Attributes:
      group: see `Case`.
      name: see `Case`.
      reason: what is missing, and how to get it.
    """

    group: str
    name: str
    reason: str


@dataclasses.dataclass
class Measurement:
    """What was measured of a case.

    Attributes:
      case: which.
      batches: made in each repetition.
      rates: tokens per second of processor time, one a repetition.
      busy: processor time over wall time, one a repetition.
    """

    case: Case
    batches: int
    rates: list[float] = dataclasses.field(default_factory=list)
    busy: list[float] = dataclasses.field(default_factory=list)

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(self.rates)

    def as_json(self) -> dict[str, object]:
        """For a file."""
        return {
            "group": self.case.group,
            "name": self.case.name,
            "role": self.case.role,
            "batches": self.batches,
            "tokens_per_second": self.rate,
            "all_tokens_per_second": self.rates,
            "busy": self.busy,
        }


def measure(cases: Sequence[Case], repetitions: int, seconds: float) -> list[Measurement]:
    """Runs every case `repetitions` times, in turns.

    Args:
      cases: what to run.
      repetitions: so many turns.
      seconds: about so long does a repetition take.
    """
    measurements = [Measurement(case, _batches(case, seconds)) for case in cases]
    # A collection walks all objects alive, so one case would pay for what another keeps.
    gc.collect()
    gc.freeze()
    for _ in range(repetitions):
        for measurement in measurements:
            wall, processor = time.perf_counter(), time.process_time()
            tokens = measurement.case.run(measurement.batches)
            wall, busy = time.perf_counter() - wall, time.process_time() - processor
            # A pipeline with threads goes on filling its buffers, which it found full.
            _settle()
            processor = time.process_time() - processor
            measurement.rates.append(tokens / processor)
            measurement.busy.append(busy / wall)
    gc.unfreeze()
    return measurements


def _batches(case: Case, seconds: float) -> int:
    """How many batches fill `seconds`; running them also warms the case up."""
    case.run(1)
    _settle()
    batches = 1
    while True:
        began = time.process_time()
        case.run(batches)
        _settle()
        spent = time.process_time() - began
        if spent > seconds / 4:
            return max(1, round(batches * seconds / spent))
        batches = min(2 * batches, round(batches * seconds / max(spent, 1e-6)) + 1)


def _settle() -> None:
    """Waits until no thread of this process works any more."""
    for _ in range(_MOST_POLLS):
        wall, processor = time.perf_counter(), time.process_time()
        time.sleep(_POLL_SECONDS)
        if time.process_time() - processor < _IDLE_SHARE * (time.perf_counter() - wall):
            return
