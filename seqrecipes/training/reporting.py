"""What a person sees of a run: a progress bar or plain lines, TensorBoard, `metrics.jsonl`."""

from __future__ import annotations

import json
import logging
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Protocol

from tqdm import tqdm

from seqrecipes.folders import write_file

log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"


class Writer(Protocol):
    """Where the scalars of a run go."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...


class TqdmHandler(logging.Handler):
    """Prints log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class JsonLines:
    """One JSON object a line: `{"step": 50, "train/loss": 7.1}`.

    Lines past the step at which a run goes on belong to work that was lost; they are dropped, so
    that the file reads as one undisturbed run.
    """

    def __init__(self, path: pathlib.Path, start: int):
        self._path = path
        kept = [row for row in read_metrics(path) if row["step"] <= start]
        write_file(path, "".join(json.dumps(row) + "\n" for row in kept))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line."""
        row = {"step": step} | {name: float(value) for name, value in scalars.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def flush(self) -> None:
        """Nothing to do: every line is on disk."""


class TensorBoard:
    """Event files for TensorBoard, in a stage's folder."""

    def __init__(self, folder: pathlib.Path):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the values of a step."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Writes what was added."""
        self._writer.flush()


def reported(path: pathlib.Path, step: int) -> dict[str, dict[str, float]]:
    """What a `metrics.jsonl` has of a step: {'validation': {metric: value}, 'probes': ...}."""
    found: dict[str, dict[str, float]] = {}
    for row in read_metrics(path):
        for name, value in row.items() if row["step"] == step else ():
            kind, _, metric = name.partition("/")
            found.setdefault(kind, {})[metric] = value
    return found


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


class Reporter:
    """Collects a stage's metrics and shows them.

    Args:
      name: the stage's name.
      writers: where scalars go.
      start: step at which this run of the stage begins.
      stop: last step of the stage.
      flops_limit: FLOPs a second of all devices together, if known.
      quiet: show nothing (all processes but the first).
    """

    def __init__(
        self,
        name: str,
        writers: list[Writer],
        *,
        start: int,
        stop: int,
        flops_limit: float | None,
        quiet: bool,
    ):
        self._name, self._writers, self._stop = name, writers, stop
        self._flops_limit, self._quiet = flops_limit, quiet
        self._bar = tqdm(
            desc=name,
            initial=start,
            total=stop,
            unit="step",
            dynamic_ncols=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._clock = time.monotonic(), start

    def restart_clock(self, step: int) -> float:
        """Leaves what was done up to `step` (compiling, validating, saving) out of the speeds.

        Returns:
          Seconds since the clock was last restarted.
        """
        seconds = self.seconds()
        self._clock = time.monotonic(), step
        return seconds

    def seconds(self) -> float:
        """Seconds since the clock was last restarted; a report restarts it as well."""
        return time.monotonic() - self._clock[0]

    def train(
        self, step: int, rows: list[Mapping[str, float]], steps: int, flops_per_step: float
    ) -> None:
        """Reports the mean over the steps since the last report.

        Args:
          step: updates done.
          rows: metrics of these steps, as `make_train_step` returns them, of finite updates alone.
          steps: how many steps that were.
          flops_per_step: model FLOPs of one step.
        """
        since, first = self._clock
        seconds_per_step = (time.monotonic() - since) / max(step - first, 1)
        self.restart_clock(step)
        if skipped := steps - len(rows):
            self._write(step, {"train/skipped": skipped})
        if not rows:
            return
        mean = {name: sum(float(row[name]) for row in rows) / len(rows) for name in rows[0]}
        tokens = mean.pop("tokens")
        scalars = {f"train/{name}": value for name, value in mean.items()} | {
            "train/tokens_per_step": tokens,
            "speed/tokens_per_second": tokens / seconds_per_step,
            "speed/seconds_per_step": seconds_per_step,
        }
        if self._flops_limit:
            scalars["speed/model_flop_utilisation"] = (
                flops_per_step / seconds_per_step / self._flops_limit
            )
        self._write(step, scalars)
        speed = f"{scalars['speed/tokens_per_second']:,.0f} tokens/s"
        if self._bar.disable:
            left = (self._stop - step) * seconds_per_step
            self._say(
                f"step {step:,}/{self._stop:,}  loss {mean['loss']:.4f}  "
                f"accuracy {mean['accuracy']:.3f}  {speed}  {tqdm.format_interval(left)} left"
            )
        else:
            self._bar.set_postfix_str(f"loss {mean['loss']:.4f}, {speed}", refresh=False)
            self._bar.update(step - self._bar.n)

    def validation(self, step: int, scalars: Mapping[str, float]) -> None:
        """Reports validation metrics."""
        self._write(step, {f"validation/{name}": value for name, value in scalars.items()})
        values = "  ".join(f"{name} {value:.4f}" for name, value in scalars.items())
        self._say(f"step {step:,}  validation {values}")

    def probes(self, step: int, scalars: Mapping[str, float]) -> None:
        """Reports what probes found."""
        self._write(step, {f"probes/{name}": value for name, value in scalars.items()})
        values = "  ".join(f"{name} {value:.1f}" for name, value in scalars.items())
        self._say(f"step {step:,}  probes {values}")

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def _say(self, text: str) -> None:
        if not self._quiet:
            log.info("%s: %s", self._name, text)

    def close(self) -> None:
        """Ends the bar and flushes the writers."""
        self._bar.close()
        for writer in self._writers:
            writer.flush()


def log_to_terminal(process_index: int) -> None:
    """Sends the package's log to stderr: from the first process all, from others warnings."""
    handler = TqdmHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("seqrecipes")
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if process_index else logging.INFO)
    logger.propagate = False
