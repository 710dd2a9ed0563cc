"""What came out of one or several runs: `python -m seqrecipes.report runs/demo`.

Reads the stages' metrics and ledgers, and writes a table of what was reached, one of what was spent
and a picture of the loss curves. Several runs are drawn together, so that a warm-started model
stands beside one from scratch.
"""

from __future__ import annotations

import json
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from seqrecipes import curves, markdown
from seqrecipes.config import flags as flags_of
from seqrecipes.errors import UserError, exit_status
from seqrecipes.folders import PREDICTIONS_FILE

TABLE_FILE = "report.md"
PICTURE_FILE = "curves.png"
# Below as many updates a run is a trial, and the report says so.
_TRIAL = 5_000

_SPENT = """steps: as often as they were done; repeated: of these, done again after an interruption
TU: of the stage, as planned; of plan: FLOPs over those that the phase is to take
chip-h: hours of training times devices; other: the same for compiling, saving and scoring
use: FLOPs over what the devices could do while training"""

_PREDICTED = """Predictions on validation text, the beginning of each. An encoder fills in what was
masked or replaced, in brackets; a seq2seq model restores the noised text."""


class StageRecord(NamedTuple):
    """What a stage's folder says of it: `stage.json`, rows of `metrics.jsonl`, `ledger.json` and
    `predictions.json`.
    """

    label: str
    folder: pathlib.Path
    facts: dict[str, Any]
    rows: list[dict[str, float]]
    ledger: dict[str, Any] | None
    predictions: list[dict[str, str]]

    @property
    def steps(self) -> int:
        """Updates of all phases."""
        return int(self.facts["phases"][-1]["stop"])

    def curve(self, metric: str) -> tuple[list[float], list[float]]:
        """Steps, and the values of a metric at them."""
        points = [(row["step"], row[metric]) for row in self.rows if metric in row]
        return [step for step, _ in points], [value for _, value in points]

    def probes(self) -> dict[str, list[str]]:
        """{probe: what it was scored on}, in the order of the rows."""
        found: dict[str, list[str]] = {}
        for name in dict.fromkeys(name for row in self.rows for name in row):
            match name.split("/"):
                case ["probes", probe, language]:
                    found.setdefault(probe, []).append(language)
        return found


def read(runs: Sequence[pathlib.Path]) -> list[StageRecord]:
    """The stages of the runs that have begun.

    Raises:
      UserError: a folder holds no run, or a ledger is none.
    """
    from seqrecipes.describe import STAGE_FILE
    from seqrecipes.recipe import RECIPE_FILE
    from seqrecipes.training import ledger
    from seqrecipes.training.reporting import METRICS_FILE, read_metrics

    records = []
    for run in runs:
        if not (run / RECIPE_FILE).is_file():
            raise UserError("MODEL_DIR", str(run), f"holds no run: there is no {RECIPE_FILE}")
        try:
            stages = json.loads((run / RECIPE_FILE).read_text("utf-8"))["stages"]
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                "MODEL_DIR", str(run), f"has a broken {RECIPE_FILE}: {error}"
            ) from error
        for stage in stages:
            folder = run / stage["name"]
            if (folder / STAGE_FILE).is_file():
                label = stage["name"] if len(runs) == 1 else f"{run.name}/{stage['name']}"
                facts = json.loads((folder / STAGE_FILE).read_text("utf-8"))
                rows = read_metrics(folder / METRICS_FILE)
                costs = ledger.read(folder / ledger.LEDGER_FILE)
                predictions = _predictions(folder / PREDICTIONS_FILE)
                records.append(StageRecord(label, folder, facts, rows, costs, predictions))
    return records


def _predictions(file: pathlib.Path) -> list[dict[str, str]]:
    """Those of a stage's folder, see `seqrecipes.samples`; none if there is no such file."""
    if not file.is_file():
        return []
    try:
        return [{**each} for each in json.loads(file.read_text("utf-8"))]
    except (ValueError, TypeError) as error:
        raise UserError("MODEL_DIR", str(file), f"cannot be read: {error}") from error


def predicted(records: Sequence[StageRecord]) -> str:
    """What the stages made of validation examples, stage by stage; empty if none did."""
    lines = []
    for record in records:
        for number, sample in enumerate(record.predictions):
            lines += [] if number else [record.label]
            lines += [f"  {name:<8} {text}" for name, text in sample.items()]
            lines.append("")
    return "\n".join(lines[:-1])


def expected(records: Sequence[StageRecord]) -> str:
    """What may be expected of trainings as short as these; empty if none is."""
    short = sorted({record.steps for record in records if record.steps < _TRIAL})
    if not short:
        return ""
    counts = " or ".join(f"{steps:,}" for steps in short)
    return (
        f"What to expect: in {counts} updates a model learns which tokens are frequent and little "
        "more,\nso that it writes these everywhere; the paper's have 350,000 updates and more."
    )


def table(records: Sequence[StageRecord]) -> str:
    """A Markdown table, one row a stage; losses in nats per target token."""
    header = (
        "stage",
        "objective",
        "parameters",
        "steps",
        "tokens",
        "TU",
        "validation loss",
        "accuracy",
        "unigram entropy",
        "padding",
    )
    rows = []
    for record in records:
        facts = record.facts

        def last(metric: str, digits: int, record: StageRecord = record) -> str:
            values = record.curve(metric)[1]
            return f"{values[-1]:.{digits}f}" if values else "-"

        steps = max((int(row["step"]) for row in record.rows), default=0)
        rows.append(
            (
                record.label,
                facts["objective"],
                f"{facts['parameters']:,}",
                f"{steps:,} of {record.steps:,}",
                f"{facts['tokens']:,}",
                f"{facts['training_units']:.3g}",
                last("validation/loss", 3),
                last("validation/accuracy", 3),
                f"{facts['unigram_entropy']:.3f}",
                last("train/padding", 4),
            )
        )
    return markdown.table(header, rows)


def spent(records: Sequence[StageRecord]) -> str:
    """A Markdown table of the ledgers, one row a phase, and below it what its columns mean.

    Empty if no stage has a ledger.
    """
    header = ["stage", "phase", "steps", "repeated", "TU", "PFLOPs", "of plan", "chip-h", "other"]
    header += ["use"]
    rows = []
    for record in records:
        units = f"{record.facts['training_units']:.3g}"
        if record.ledger is None:
            rows.append((record.label, *["-"] * 3, units, *["-"] * 5))
            continue
        for number, phase in enumerate(record.ledger["phases"]):
            hours = {kind: value / 3600 for kind, value in phase["chip_seconds"].items()}
            use = phase["utilisation"]
            rows.append(
                (
                    "" if number else record.label,
                    str(number),
                    f"{phase['steps']:,}",
                    f"{phase['repeated']:,}",
                    "" if number else units,
                    f"{phase['flops'] / 1e15:.3g}",
                    _share_of_plan(phase, record.facts["phases"][number]),
                    f"{hours.pop('training'):.3g}",
                    f"{sum(hours.values()):.3g}",
                    "-" if use is None else f"{use:.0%}",
                )
            )
    if not any(record.ledger for record in records):
        return ""
    return f"{markdown.table(header, rows)}\n\n{_SPENT}"


def _share_of_plan(spent: dict[str, Any], facts: dict[str, Any]) -> str:
    """FLOPs of a phase over what it was planned to take."""
    from seqrecipes import describe

    return f"{spent['flops'] / describe.phase_flops(facts):.0%}"


def write(runs: Sequence[pathlib.Path], output: pathlib.Path) -> str:
    """Writes table and picture to `output`; returns the text for the terminal."""
    records = read(runs)
    text, costs = table(records), spent(records)
    if costs:
        text += f"\n\nSpent, all sessions together:\n\n{costs}"
    if samples := predicted(records):
        text += f"\n\n{_PREDICTED}\n\n```\n{samples}\n```"
    if words := expected(records):
        text += f"\n\n{words}"
    output.mkdir(parents=True, exist_ok=True)
    (output / TABLE_FILE).write_text(text + "\n", "utf-8")
    curves.draw(records, output / PICTURE_FILE)
    folders = "\n".join(f"  {record.folder}/checkpoints" for record in records)
    return (
        f"\n{text}\n\nlosses in nats per target token; curves in {output / PICTURE_FILE}\n"
        f"checkpoints:\n{folders}\n"
        f"next: python -m tensorboard.main --logdir {shlex.quote(str(runs[0]))}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = flags_of.Parser("report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=flags_of.path, metavar="MODEL_DIR")
    parser.add_argument("--output", type=flags_of.path, help="folder; default: the first MODEL_DIR")
    flags = parser.parse_args(argv)
    return exit_status(lambda: print(write(flags.runs, flags.output or flags.runs[0])))


if __name__ == "__main__":
    sys.exit(main())
