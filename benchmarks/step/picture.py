"""Bars of tokens a second, the programs of a case beside each other."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from benchmarks.step.rounds import Measured


def draw(measured: Sequence[Measured], path: pathlib.Path) -> None:
    """Writes a picture; the ending of `path` says of what kind. Whiskers are quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(dict.fromkeys(each.case for each in measured))
    programs = list(dict.fromkeys(each.program for each in measured))
    figure, axes = pyplot.subplots(figsize=(8, 0.32 * len(measured) + 1.4), layout="constrained")
    row, ticks = 0.0, []
    for case in cases:
        members = [each for each in measured if each.case == case]
        ticks.append(row + (len(members) - 1) / 2)
        for each in members:
            low, high = (each.tokens / seconds for seconds in reversed(each.quartiles))
            color = f"C{programs.index(each.program)}"
            axes.barh(row, each.rate, 0.85, color=color, edgecolor="white")
            axes.errorbar(
                each.rate, row, xerr=[[each.rate - low], [high - each.rate]], color="black"
            )
            axes.text(high, row, f"  {each.rate:,.0f}", va="center", size=8)
            row += 1
        row += 0.6
    for index, program in enumerate(programs):
        axes.barh(0, 0, color=f"C{index}", label=program)
    axes.set_yticks(ticks, cases)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="tokens a second (median, quartiles)", xlim=(0, None))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(programs), frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
