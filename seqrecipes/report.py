"""What came out of one or several runs: `python -m seqrecipes.report runs/demo`.

Reads the stages' metrics and ledgers, and writes a table of what was reached, one of what was spent
and a picture of the loss curves. Several runs are drawn together, so that a warm-started model
stands beside one from scratch.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from seqrecipes import markdown
from seqrecipes.downstream.results import AVERAGE
from seqrecipes.errors import UserError, exit_status

TABLE_FILE = "report.md"
PICTURE_FILE = "curves.png"

_SPENT = """steps: as often as they were done; repeated: of these, done again after an interruption
TU: of the stage, as planned; of plan: FLOPs over those that the phase is to take
chip-h: hours of training times devices; other: the same for compiling, saving and scoring
use: FLOPs over what the devices could do while training"""


class StageRecord(NamedTuple):
    """What a stage's folder says of it: `stage.json`, rows of `metrics.jsonl`, `ledger.json`."""

    label: str
    folder: pathlib.Path
    facts: dict[str, Any]
    rows: list[dict[str, float]]
    ledger: dict[str, Any] | None

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
        for stage in json.loads((run / RECIPE_FILE).read_text("utf-8"))["stages"]:
            folder = run / stage["name"]
            if (folder / STAGE_FILE).is_file():
                label = stage["name"] if len(runs) == 1 else f"{run.name}/{stage['name']}"
                facts = json.loads((folder / STAGE_FILE).read_text("utf-8"))
                rows = read_metrics(folder / METRICS_FILE)
                costs = ledger.read(folder / ledger.LEDGER_FILE)
                records.append(StageRecord(label, folder, facts, rows, costs))
    return records


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
                f"{steps:,} of {facts['phases'][-1]['stop']:,}",
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

    Empty if no stage has a ledger: runs from before there was one have none.
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
    """FLOPs of a phase over what it was planned to take; runs of before have no such plan."""
    if "flops" not in facts:
        return "-"
    from seqrecipes import describe

    return f"{spent['flops'] / describe.phase_flops(facts):.0%}"


def draw(records: Sequence[StageRecord], path: pathlib.Path) -> None:
    """Loss over updates, one panel for each objective, and what probes found; written to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: dict[str, list[StageRecord]] = {}  # losses of two objectives do not compare
    for record in records:
        panels.setdefault(record.facts["objective"], []).append(record)
    probes = dict.fromkeys(name for record in records for name in record.probes())
    count = len(panels) + len(probes)
    figure, axes = pyplot.subplots(
        1, count, figsize=(6.4 * count, 4.4), squeeze=False, layout="constrained"
    )
    for axis, probe in zip(axes[0, len(panels) :], probes, strict=True):
        _draw_probe(axis, probe, records)
    for axis, (title, members) in zip(axes[0], panels.items(), strict=False):
        for number, record in enumerate(members):
            color = f"C{number}"
            steps, values = record.curve("train/loss")
            axis.plot(steps, values, color=color, alpha=0.35, linewidth=1)
            steps, values = record.curve("validation/loss")
            axis.plot(steps, values, color=color, marker="o", markersize=3, label=record.label)
            for phase in record.facts["phases"][1:]:
                axis.axvline(phase["start"], color=color, linestyle=":", linewidth=1)
        axis.axhline(
            members[0].facts["unigram_entropy"],
            color="gray",
            linestyle="--",
            linewidth=1,
            label="unigram entropy of the validation text",
        )
        axis.set(title=title, xlabel="updates", ylabel="loss (nats per target token)")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.legend(
            fontsize=8,
            title="line: validation; pale: training; dotted: unfreezing",
            title_fontsize=7,
        )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_probe(axis: Any, probe: str, records: Sequence[StageRecord]) -> None:
    """What one probe found in every stage: its averages if it has any, and each language pale."""
    for number, record in enumerate(record for record in records if probe in record.probes()):
        languages = record.probes()[probe]
        for language in languages:
            steps, values = record.curve(f"probes/{probe}/{language}")
            named = language in (languages[0], AVERAGE)
            axis.plot(
                steps,
                values,
                color=f"C{number}",
                linestyle="--" if language == AVERAGE else "-",
                marker="o",
                markersize=3,
                alpha=1.0 if named else 0.25,
                label=f"{record.label}, {language}" if named else None,
            )
    axis.set(title=f"probe: {probe}", xlabel="updates", ylabel="validation split")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, title="pale: other languages", title_fontsize=7)


def write(runs: Sequence[pathlib.Path], output: pathlib.Path) -> str:
    """Writes table and picture to `output`; returns the text for the terminal."""
    records = read(runs)
    text, costs = table(records), spent(records)
    if costs:
        text += f"\n\nSpent, all sessions together:\n\n{costs}"
    output.mkdir(parents=True, exist_ok=True)
    (output / TABLE_FILE).write_text(text + "\n", "utf-8")
    draw(records, output / PICTURE_FILE)
    folders = "\n".join(f"  {record.folder}/checkpoints" for record in records)
    return (
        f"\n{text}\n\nlosses in nats per target token; curves in {output / PICTURE_FILE}\n"
        f"checkpoints:\n{folders}\n"
        f"next: tensorboard --logdir {runs[0]}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m seqrecipes.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="MODEL_DIR")
    parser.add_argument("--output", type=pathlib.Path, help="folder; default: the first MODEL_DIR")
    flags = parser.parse_args(argv)
    return exit_status(lambda: print(write(flags.runs, flags.output or flags.runs[0])))


if __name__ == "__main__":
    sys.exit(main())
