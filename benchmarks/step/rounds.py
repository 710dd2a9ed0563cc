"""Runs the programs of a case in turns, each in a fresh process, and gathers what they say.

The turns (A B C, A B C, ...) spread whatever slows the machine down for a while over all programs
of a case, so that their ratios stand even where the times move.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.step import programs
from benchmarks.step.cases import Case, Job
from benchmarks.timing import Missing

# How glibc gives memory back. By default large blocks are returned to the system when they are
# freed, and have to be filled with zeros again, page by page and update by update. Kept, they serve
# the next update, at the price of up to twice the memory; on huge pages a fault brings 2 MB.
ALLOCATORS: dict[str, dict[str, str]] = {
    "keep": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "1000000000000",
        "MALLOC_TOP_PAD_": "268435456",
        "MALLOC_ARENA_MAX": "1",
    },
    "huge": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "default": {},
}

# Torch computes an update on processors before it returns. JAX would take the next update's memory
# while the last one still has its own, so that kept memory has to hold two updates.
_TOGETHER = {"JAX_CPU_ENABLE_ASYNC_DISPATCH": "false"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A program on a case: all rounds together.

    Attributes:
      case: its name.
      program: its name.
      tokens: positions of the original sequences in a batch.
      seconds: of every measured update.
      first: seconds from the start of a process to the end of its first update, one a round.
      faults: minor page faults of an update, one a round.
      memory: bytes at the peak, the most of any round.
      flops: {part: model FLOPs of an update}.
      product: operations a second of a product of two square matrices, the most of any round.
      about: all else that the first round's process said.
    """

    case: str
    program: str
    tokens: int
    seconds: list[float]
    first: list[float]
    faults: list[float]
    memory: int
    flops: dict[str, float]
    product: float
    about: dict[str, Any]

    @property
    def step(self) -> float:
        """Seconds of an update: the median."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Seconds that a quarter of the updates stay below, and that a quarter exceed."""
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    @property
    def rate(self) -> float:
        """Tokens a second at the median."""
        return self.tokens / self.step

    def utilisation(self, peak: float) -> dict[str, float]:
        """{part: its model FLOPs over what the device could have done in the step's time}."""
        return {part: cost / (self.step * peak) for part, cost in self.flops.items()}

    @classmethod
    def gather(cls, case: str, job: Job, rounds: Sequence[dict[str, Any]]) -> Measured:
        """One from what the rounds' processes wrote."""
        together = {"seconds", "first", "faults", "memory", "flops", "product"}
        return cls(
            case=case,
            program=job.program,
            tokens=job.tokens,
            seconds=[time for each in rounds for time in each["seconds"]],
            first=[each["first"] for each in rounds],
            faults=[each["faults"] for each in rounds],
            memory=max(each["memory"] for each in rounds),
            flops=rounds[0]["flops"],
            product=max(each["product"] for each in rounds),
            about={name: x for name, x in rounds[0].items() if name not in together},
        )


def jobs(
    case: Case,
    chosen: Sequence[str],
    overrides: Mapping[str, Any],
    *,
    warmup: int,
    steps: int,
) -> list[Job]:
    """What to measure of a case: t5x has no models for MLM, and freezes nothing by itself.

    Raises:
      UserError: an override names no field of a model, or has a value that it cannot have.
    """
    from seqrecipes.models import config

    model = config.load(
        f"configs/{case.file}.py",
        size=case.size,
        vocab_size=case.vocab_size,
        overrides={**case.overrides, **overrides},
    ).to_dict()
    every = [
        Job(program, model, case.batch, case.length, case.frozen, warmup, steps)
        for program in chosen
    ]
    return [job for job in every if job.program != programs.T5X or (job.seq2seq and not job.frozen)]


def run(
    case: str,
    todo: Sequence[Job],
    rounds: int,
    allocator: str,
    *,
    on_cpu: bool,
    say: Callable[[str], None],
) -> tuple[list[Measured], list[Missing]]:
    """All programs of a case, in turns; what cannot be run is left out of the next turns."""
    absent: dict[str, str] = {}
    found: dict[str, list[dict[str, Any]]] = {job.program: [] for job in todo}
    for job in todo:
        if reason := programs.missing(job.program, on_cpu=on_cpu):
            absent[job.program] = reason
    for turn in range(rounds):
        for job in todo:
            if job.program in absent:
                continue
            try:
                result = worker(job.to_json(), allocator)
            except Failed as error:
                absent[job.program] = f"failed: {error}"
                continue
            found[job.program].append(result)
            step = statistics.median(result["seconds"])
            say(f"{case}, {job.program}, round {turn + 1} of {rounds}: {step:.3g} s a step")
    measured = [
        Measured.gather(case, job, found[job.program]) for job in todo if job.program not in absent
    ]
    return measured, [Missing(case, program, reason) for program, reason in absent.items()]


class Failed(Exception):
    """A process did not get to its end; says how, and the last line of its errors."""


def worker(argument: str, allocator: str, module: str = "benchmarks.step.worker") -> Any:
    """What a process of a module says.

    Raises:
      Failed: it says nothing.
    """
    command = [sys.executable, "-m", module, argument]
    names = {name for setting in ALLOCATORS.values() for name in setting}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    environment = inherited | ALLOCATORS[allocator] | _TOGETHER
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        # Negative: the signal that ended it; 9 is the system's when memory runs out.
        last = done.stderr.strip().rpartition("\n")[2]
        raise Failed(f"exit status {done.returncode}: {last}")
    return json.loads(done.stdout.strip().rpartition("\n")[2])
