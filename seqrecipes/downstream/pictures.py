"""A picture of fine-tuning results: a panel for each task, models as rows, bars for the seeds."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seqrecipes.downstream import tables
from seqrecipes.downstream.results import AVERAGE, Result
from seqrecipes.downstream.tables import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE_FILE = "scores.png"

_PANELS_PER_ROW = 5
_TRAINED, _OTHERS = ("C0", "o"), ("C1", "D")


def draw(results: Sequence[Result], path: pathlib.Path) -> None:
    """Means over seeds of the language trained on and of avg-0s, with deviations, to a PNG.

    Args:
      results: every model and task once.
      path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import lines, pyplot

    models = list(dict.fromkeys(result.model for result in results))
    panels = [(task, metric) for task in _tasks(results) for metric in _metrics(results, task)]
    height = -(-len(panels) // _PANELS_PER_ROW)
    width = -(-len(panels) // height)  # rows as even as can be
    figure, axes = pyplot.subplots(
        height,
        width,
        figsize=(1.8 + 2.5 * width, height * (0.26 * len(models) + 0.9) + 0.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (task, metric) in zip(axes.flat, panels, strict=False):
        _panel(axis, [r for r in results if r.task == task], metric, models)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    axes[0][0].set_yticks(range(len(models)), models)
    axes[0][0].set_ylim(len(models) - 0.5, -0.5)
    handles = [
        lines.Line2D([], [], color=color, marker=marker, linestyle="", markersize=5)
        for color, marker in (_TRAINED, _OTHERS)
    ]
    trained = " ".join(dict.fromkeys(result.trained for result in results))
    figure.legend(
        handles,
        [f"trained on: {trained}", "mean of the others"],
        title="bars: standard deviation over seeds",
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        title_fontsize=7,
        frameon=False,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _panel(axis: Axes, results: Sequence[Result], metric: Metric, models: Sequence[str]) -> None:
    """The two averages lie a little above and below the model's line, so that bars stay apart."""
    for shift, (color, marker) in ((-0.12, _TRAINED), (0.12, _OTHERS)):
        for result in results:
            of = result.trained if shift < 0 else AVERAGE
            if value := result.statistic(metric.key, of):
                axis.errorbar(
                    value.mean,
                    models.index(result.model) + shift,
                    xerr=value.std,
                    color=color,
                    marker=marker,
                    markersize=3,
                    capsize=3,
                    linewidth=1,
                )
    axis.set_title(f"{metric.group} {metric.label}".strip(), size=9)
    axis.tick_params(labelsize=8)
    axis.margins(x=0.1)
    axis.grid(alpha=0.25)


def _tasks(results: Sequence[Result]) -> list[str]:
    """In the tables' order."""
    found = list(dict.fromkeys(result.task for result in results))
    known = [*tables.ENCODER_TASKS, *tables.SEQ2SEQ_TASKS]
    return sorted(found, key=lambda task: known.index(task) if task in known else len(known))


def _metrics(results: Sequence[Result], task: str) -> Sequence[Metric]:
    return tables.metrics(next(result for result in results if result.task == task))
