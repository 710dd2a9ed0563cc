"""Pictures of a plan: every recipe over its updates, and the recipes beside each other."""

from __future__ import annotations

import pathlib
from typing import Any

RECIPES_FILE = "recipes.png"

_TRAINED, _FROZEN = "C0", "lightgray"


def draw(document: dict[str, Any], folder: pathlib.Path) -> list[str]:
    """Writes a PNG for each recipe, and `recipes.png` if there are several; returns their names."""
    import matplotlib

    matplotlib.use("Agg")
    recipes = document["recipes"]
    names = []
    for recipe in recipes:
        names.append(f"{recipe['name']}.png")
        _recipe(recipe, folder / names[-1])
    if len(recipes) > 1:
        names.append(RECIPES_FILE)
        _recipes(recipes, folder / RECIPES_FILE)
    return names


def _recipe(recipe: dict[str, Any], path: pathlib.Path) -> None:
    """Learning rate, what is frozen and cumulated compute, over the updates of all stages."""
    from matplotlib import patches, pyplot

    stages = recipe["stages"]
    names = list(dict.fromkeys(n for s in stages for n in s["phases"][0]["parameters"]))
    figure, (rate, sets, compute) = pyplot.subplots(
        3,
        1,
        figsize=(8, 7.5),
        sharex=True,
        layout="constrained",
        height_ratios=(2, 0.35 * len(names) + 0.5, 2),
    )
    begin, units, exact = 0, 0.0, 0.0
    spent: list[tuple[float, float, float]] = [(0, 0.0, 0.0)]
    for stage in stages:
        for axis in (rate, sets, compute):
            for phase in stage["phases"]:
                start = begin + phase["start"]
                first = phase["start"] == 0
                axis.axvline(start, color="gray", linestyle="-" if first else ":", linewidth=0.8)
        rate.plot(
            [begin + step for step, _ in stage["schedule"]], [v for _, v in stage["schedule"]]
        )
        rate.text(
            begin + stage["schedule"][-1][0] / 2,
            0.03,
            stage["name"],
            transform=rate.get_xaxis_transform(),
            ha="center",
            size=8,
        )
        for phase in stage["phases"]:
            left, width = begin + phase["start"], phase["stop"] - phase["start"]
            for name, counts in phase["parameters"].items():
                row, size = names.index(name), sum(counts.values())
                share = counts["trainable"] / size
                # A part of which some trains is filled from above by as much.
                sets.barh(row, width, 0.8, left, color=_FROZEN, edgecolor="white")
                top = row - 0.4 + 0.4 * share
                sets.barh(top, width, 0.8 * share, left, color=_TRAINED, edgecolor="white")
            units += phase["training_units"]
            exact += phase["units_by_flops"]
            spent.append((left + width, units, exact))
        begin += stage["schedule"][-1][0]
    rate.set(ylabel="learning rate", ylim=(0, None), title=recipe["name"])
    sets.set_yticks(range(len(names)), names)
    sets.invert_yaxis()
    handles = [patches.Patch(color=_TRAINED), patches.Patch(color=_FROZEN)]
    sets.legend(
        handles,
        ["trained", "frozen"],
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    steps = [step for step, _, _ in spent]
    compute.plot(steps, [u for _, u, _ in spent], color="black", label="by the paper's rule")
    compute.plot(steps, [e for _, _, e in spent], "--", color="C3", label="by FLOPs")
    scratch = recipe["from_scratch"]
    if scratch:
        for value, color in (
            (scratch["training_units"], "black"),
            (scratch["units_by_flops"], "C3"),
        ):
            compute.axhline(value, color=color, linewidth=0.8, linestyle=":")
        compute.plot([], [], ":", color="gray", label="both models from scratch")
    compute.set(ylabel="compute so far (TU)", xlabel="updates", ylim=(0, None), xlim=(0, begin))
    compute.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    compute.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _recipes(recipes: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Bars of TU, stage by stage, by the paper's rule and by FLOPs."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, 2, figsize=(11, 0.45 * len(recipes) + 1.5), sharey=True, layout="constrained"
    )
    colors: dict[str, str] = {}
    for axis, key, title in (
        (axes[0], "training_units", "TU by the rule of Soltan et al. 2023"),
        (axes[1], "units_by_flops", "TU by FLOPs"),
    ):
        for row, recipe in enumerate(recipes):
            left = 0.0
            for stage in recipe["stages"]:
                color = colors.setdefault(stage["name"], f"C{len(colors) % 10}")
                axis.barh(row, stage[key], 0.7, left, color=color, edgecolor="white")
                left += stage[key]
            label = f" {left:.1f}"
            if scratch := recipe["from_scratch"]:
                label += f"  (saves {1 - left / scratch[key]:.0%})"
                left = max(left, scratch[key])
                axis.plot([scratch[key]] * 2, [row - 0.4, row + 0.4], "--", color="black")
            axis.text(left, row, label, va="center", size=8)
        axis.set(title=title, xlabel="dashed: both models from scratch")
        axis.margins(x=0.4)
    axes[0].set_yticks(range(len(recipes)), [recipe["name"] for recipe in recipes])
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
