"""The scaling sheet as small multiples: a column for each axis, a row for each cost."""

from __future__ import annotations

import pathlib
from typing import Any

ROWS = (
    ("seconds", 1e-3, "step time (ms)"),
    ("model_flops", 1e9, "model GFLOPs"),
    ("bytes", 2**20, "memory (MiB)"),
)


def draw(costs: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Logarithmic; dashed, through the base: proportional cost, for devices always the same."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    axes = list(dict.fromkeys(row["axis"] for row in costs))
    kinds = list(dict.fromkeys(row["kind"] for row in costs))
    figure, grid = pyplot.subplots(
        len(ROWS),
        len(axes),
        figsize=(2.6 * len(axes) + 0.8, 2.2 * len(ROWS) + 0.6),
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for panels, (field, unit, label) in zip(grid, ROWS, strict=True):
        panels[0].set_ylabel(label)
        for panel, axis in zip(panels, axes, strict=True):
            for color, kind in enumerate(kinds):
                rows = [row for row in costs if (row["axis"], row["kind"]) == (axis, kind)]
                at = [row["value"] for row in rows]
                middle = next(row for row in rows if row["base"])
                first = middle[field] / unit
                panel.plot(at, [row[field] / unit for row in rows], "o-", color=f"C{color}", ms=4)
                # Devices share one batch, and here the cores too.
                power = 0 if axis == "devices" else 1
                line = [first * (value / middle["value"]) ** power for value in at]
                panel.plot(at, line, "--", color=f"C{color}", alpha=0.5, linewidth=0.9)
            panel.set(xscale="log", yscale="log")
            panel.xaxis.set_major_locator(ticker.FixedLocator(at))
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
            panel.xaxis.set_minor_locator(ticker.NullLocator())
            panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
            panel.grid(alpha=0.3, which="both", linewidth=0.4)
    for panel, axis in zip(grid[-1], axes, strict=True):
        panel.set_xlabel(axis)
    handles = [pyplot.Line2D([], [], color=f"C{i}", marker="o", ms=4) for i in range(len(kinds))]
    handles.append(pyplot.Line2D([], [], color="gray", linestyle="--"))
    figure.legend(
        handles, [*kinds, "proportional (devices: the same)"], loc="outside upper center", ncols=3
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
