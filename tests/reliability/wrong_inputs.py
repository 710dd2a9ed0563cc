"""Wrong inputs to every command, made from declarations and by hand, and what the commands say.

`python -m tests.reliability.wrong_inputs` gives all of them and prints counts; `--show=accepted`
(or traceback, unclear, hung) prints those. Each is given to a copy of one process that has imported
the libraries and has not yet looked for devices, in an empty folder of its own.

What is right: status 2 and one line that begins with `error: ` and names field, value and remedy.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import os
import pathlib
import re
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 120

COMMANDS = (
    *("train", "finetune", "protocol", "plan", "prepare", "convert"),
    *("train_vocabulary", "inspect_task", "report", "tables", "evaluate", "generate"),
)


class Case(NamedTuple):
    """A command and what it is given; `{tmp}` is the folder of files, `{run}` a new one."""

    command: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.command} {' '.join(self.arguments)}"


class Outcome(NamedTuple):
    """How a command ended: `clear`, `unclear`, `traceback`, `accepted`, `hung` or `aborted`."""

    kind: str
    text: str


class _Running(NamedTuple):
    case: Case
    process: int
    folder: tempfile.TemporaryDirectory[str]
    start: float

    @property
    def log(self) -> pathlib.Path:
        return pathlib.Path(self.folder.name, "log")

    def outcome(self) -> Outcome | None:
        """None while it runs."""
        ended, status = os.waitpid(self.process, os.WNOHANG)
        if not ended and time.monotonic() - self.start < SECONDS:
            return None
        if not ended:
            os.kill(self.process, signal.SIGKILL)
            os.waitpid(self.process, 0)
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        self.folder.cleanup()
        if not ended:
            return Outcome("hung", text)
        return classified(os.waitstatus_to_exitcode(status), text)


def _start(case: Case, files: pathlib.Path) -> _Running:
    folder = tempfile.TemporaryDirectory()
    child = os.fork()
    if not child:
        _become(case, files, pathlib.Path(folder.name, "run"), pathlib.Path(folder.name, "log"))
    return _Running(case, child, folder, time.monotonic())


def classified(status: int, text: str) -> Outcome:
    """The outcome of a status and of what was printed."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if status < 0:
        kind = "aborted"
    elif "Traceback (most recent call last)" in text:
        kind = "traceback"
    elif status == 0:
        kind = "accepted"
    elif status == 2 and len(errors) == 1 and lines[-1] == errors[0] and ": " in errors[0][7:]:
        kind = "clear"
    else:
        kind = "unclear"
    return Outcome(kind, text)


def _become(case: Case, files: pathlib.Path, new: pathlib.Path, log: pathlib.Path) -> None:
    status = 70
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(output, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(ROOT)
        arguments = [
            each.replace("{tmp}", str(files)).replace("{run}", str(new)) for each in case.arguments
        ]
        main = importlib.import_module(f"seqrecipes.{case.command}").main
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


def preload() -> None:
    """Imports what the commands import, and starts nothing."""
    from seqrecipes import configuration

    configuration.quiet_tensorflow()
    for module in (
        "seqrecipes.runner",
        "seqrecipes.downstream.runs",
        "seqrecipes.downstream.evaluation",
        "seqrecipes.downstream.writing",
        "seqrecipes.report",
        "seqrecipes.planning.text",
        "seqrecipes.hugging_face",
        "seqrecipes.downstream.tables",
        "tasks.pretrain",
        "tasks.downstream",
    ):
        importlib.import_module(module)
    for command in COMMANDS:
        importlib.import_module(f"seqrecipes.{command}")


def outcomes(
    cases: Sequence[Case],
    files: pathlib.Path,
    side_by_side: int = 2,
    shown: Collection[str] = (),
) -> dict[Case, Outcome]:
    """What comes of all of them; those of the kinds to be shown are printed with their text."""
    waiting, running = list(reversed(cases)), list[_Running]()
    done: dict[Case, Outcome] = {}
    while waiting or running:
        while waiting and len(running) < side_by_side:
            running.append(_start(waiting.pop(), files))
        time.sleep(0.01)
        for each in list(running):
            if outcome := each.outcome():
                running.remove(each)
                done[each.case] = outcome
                if outcome.kind in shown:
                    text = outcome.text.strip()[-600:]
                    print(f"--- {outcome.kind}: {each.case}\n{text}", flush=True)
                if sys.stderr.isatty() or len(done) % 100 == 0:
                    print(f"\r{len(done)} of {len(cases)}", end="", file=sys.stderr, flush=True)
    return {case: done[case] for case in cases}


def main() -> int:
    """Runs all; returns 1 if any is not clear."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", default="", help="kinds to print with their text, by commas")
    parser.add_argument("--only", default="", help="a regular expression over inputs")
    parser.add_argument("--side_by_side", type=int, default=2)
    flags = parser.parse_args()
    from tests.reliability import wrong_input_cases

    preload()
    with tempfile.TemporaryDirectory() as folder:
        files = pathlib.Path(folder)
        wrong_input_cases.write_files(files)
        cases = [each for each in wrong_input_cases.all_cases() if re.search(flags.only, str(each))]
        start = time.monotonic()
        found = outcomes(cases, files, flags.side_by_side, flags.show.split(","))
        seconds = time.monotonic() - start
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for case, outcome in found.items():
        counts[case.command][outcome.kind] += 1
        counts["all"][outcome.kind] += 1
    kinds = ("clear", "unclear", "traceback", "accepted", "hung", "aborted")
    print(f"| command | inputs | {' | '.join(kinds)} |\n|{'---|' * (len(kinds) + 2)}")
    for command, by_kind in counts.items():
        if command != "all":
            print(_row(command, by_kind, kinds))
    print(_row("all", counts["all"], kinds))
    print(f"{seconds:.0f} seconds")
    return 0 if counts["all"]["clear"] == len(found) else 1


def _row(name: str, counts: collections.Counter[str], kinds: tuple[str, ...]) -> str:
    return f"| {name} | {counts.total()} | {' | '.join(str(counts[kind]) for kind in kinds)} |"


if __name__ == "__main__":
    sys.exit(main())
