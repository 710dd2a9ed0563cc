"""The picture of a report: losses over updates, and what probes found."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from seqrecipes.downstream.results import AVERAGE

if TYPE_CHECKING:
    from seqrecipes.report import StageRecord


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
        _draw_entropies(axis, members)
        axis.set(title=title, xlabel="updates", ylabel="loss (nats per target token)")
        axis.margins(y=0.08)
        axis.grid(alpha=0.25)
        axis.legend(
            fontsize=8,
            title="line: validation; pale: training; dotted: unfreezing",
            title_fontsize=7,
        )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_entropies(axis: Any, members: Sequence[StageRecord]) -> None:
    """The unigram entropies of the validation texts: one line each, named where they differ."""
    found: dict[float, list[int]] = {}
    for number, record in enumerate(members):
        found.setdefault(round(record.facts["unigram_entropy"], 3), []).append(number)
    for entropy, numbers in found.items():
        names = ", ".join(members[number].label for number in numbers)
        axis.axhline(
            entropy,
            color="gray" if len(found) == 1 else f"C{numbers[0]}",
            linestyle="--",
            linewidth=1,
            label=f"unigram entropy of {names if len(found) > 1 else 'the validation text'}",
        )


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
