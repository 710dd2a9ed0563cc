"""Commands run side by side, each with devices of its own and a log of its own."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from seqrecipes.errors import UserError
from seqrecipes.training.accelerators import VISIBLE

_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that is done when its result is there.

    Attributes:
      name: for a person.
      command: program and arguments.
      log: file for what it prints.
      result: file that it writes at its end.
    """

    name: str
    command: Sequence[str]
    log: pathlib.Path
    result: pathlib.Path

    @property
    def done(self) -> bool:
        """Whether it was run to its end, now or before."""
        return self.result.is_file()


@dataclasses.dataclass(frozen=True)
class Failure:
    """A job that ended without its result.

    Attributes:
      job: which.
      status: of its process.
    """

    job: Job
    status: int

    def __str__(self) -> str:
        text = self.job.log.read_text("utf-8", errors="replace").strip()
        return f"{self.job.name}: exit status {self.status}, {text.rpartition(chr(10))[2]}"


def places(count: int, visible: str | None) -> list[dict[str, str]]:
    """Environment variables of so many commands at a time: GPUs are shared out between them.

    Args:
      count: of commands.
      visible: the GPUs that there are, separated by commas; None leaves devices as they are.

    Raises:
      UserError: there are fewer GPUs than commands.
    """
    if count < 1:
        raise UserError("--side_by_side", count, "must be at least 1")
    if visible is None:
        return [{} for _ in range(count)]
    devices = [device for device in visible.split(",") if device]
    if len(devices) < count:
        raise UserError("--side_by_side", count, f"{VISIBLE} has {len(devices)} GPUs")
    share = len(devices) // count
    return [
        {VISIBLE: ",".join(devices[share * place : share * (place + 1)])} for place in range(count)
    ]


# Linux's own: a process may ask for a signal at the death of its parent, whatever that died of.
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
_SET_PDEATHSIG = 1


def _ends_with_its_parent() -> None:
    if _PRCTL is not None:
        _PRCTL(_SET_PDEATHSIG, signal.SIGTERM)


def run(jobs: Sequence[Job], where: Sequence[Mapping[str, str]], *, title: str) -> list[Failure]:
    """Runs what is not done; a failure stops no other job, the end of this process all.

    Args:
      jobs: what to do.
      where: environment variables, one for each command that runs at a time.
      title: of the progress bar.
    """
    waiting = [job for job in jobs if not job.done]
    if len(waiting) < len(jobs):
        print(f"{title}: {len(jobs) - len(waiting)} of {len(jobs)} are done", file=sys.stderr)
    free = list(where)
    running: list[tuple[Job, subprocess.Popen[bytes], Mapping[str, str]]] = []
    failures = []
    try:
        with tqdm(total=len(waiting), desc=title, unit="run", disable=None) as bar:
            while waiting or running:
                while waiting and free:
                    job, place = waiting.pop(0), free.pop()
                    job.log.parent.mkdir(parents=True, exist_ok=True)
                    with job.log.open("ab") as log:
                        process = subprocess.Popen(
                            job.command,
                            stdout=log,
                            stderr=subprocess.STDOUT,
                            env={**os.environ, **place},
                            preexec_fn=_ends_with_its_parent,
                        )
                    running.append((job, process, place))
                time.sleep(_POLL_SECONDS)
                for entry in [each for each in running if each[1].poll() is not None]:
                    job, process, place = entry
                    running.remove(entry)
                    free.append(place)
                    bar.update()
                    if process.returncode or not job.done:
                        failures.append(Failure(job, process.returncode))
                        bar.write(f"failed: {failures[-1]} ({job.log})", file=sys.stderr)
    finally:
        # They save what they have and go on from there.
        for _, process, _ in running:
            process.terminate()
        for _, process, _ in running:
            process.wait()
    return failures
