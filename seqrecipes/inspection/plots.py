"""The statistics as pictures, drawn one by one for a page, or together with the tables as a PNG."""

from __future__ import annotations

import io
import itertools
import math
import pathlib
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrecipes.inspection.findings import Findings
from seqrecipes.inspection.tables import FATES, span_rows, tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[["Axes", Findings], None]

_DARK, _PALE, _RED = "#3b6ea5", "#9dbad9", "#c4472b"
# In inches: a picture; of the text, its margin, the height of a line and the width of a letter.
_PANEL = (5.2, 3.2)
_MARGIN, _LINE, _LETTER = 0.25, 0.165, 0.0765
_LETTERS = 80  # of a line
_COLUMNS = 2
_MAX_FEATURES = 4


def panels(findings: Findings) -> dict[str, Draw]:
    """The pictures that there is something to draw in, by title."""
    total = findings.total
    drawn: dict[str, Draw] = {}
    if total.spans:
        drawn["Lengths of removed spans"] = _spans
        drawn["Removed spans in an example"] = _spans_per_record
    if total.fates:
        drawn["What stands where a token is to be predicted"] = _fates
    drawn["Lengths of features (dotted: in a batch)"] = _lengths
    drawn["Padding in a batch"] = _padding
    if any(text.characters_per_token for text in findings.texts.values()):
        drawn["Characters per token"] = _characters
    if any(text.unknown_tokens for text in findings.texts.values()):
        drawn["Unknown tokens"] = _unknown
    if findings.shares:
        drawn["Shares of the languages"] = _shares
    return drawn


def svg(draw: Draw, findings: Findings) -> bytes:
    """One picture."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "seqrecipes", "svg.fonttype": "path"}):
        figure = _figure(*_PANEL)
        draw(figure.add_subplot(), findings)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def write_png(findings: Findings, path: pathlib.Path) -> None:
    """Tables and all pictures in one file.

    Examples are left out: the font that comes with matplotlib lacks many scripts.
    """
    drawn = panels(findings)
    rows = math.ceil(len(drawn) / _COLUMNS)
    text = "\n\n".join(_paragraphs(findings))
    lines = text.split("\n")
    text_width = _LETTER * max(map(len, lines)) + 2 * _MARGIN
    height = max(_LINE * len(lines) + 2 * _MARGIN, _PANEL[1] * rows)
    figure = _figure(text_width + _PANEL[0] * _COLUMNS, height)
    left, right = figure.subfigures(1, 2, width_ratios=[text_width, _PANEL[0] * _COLUMNS])
    left.text(
        _MARGIN / text_width,
        1 - _MARGIN / height,
        text,
        family="monospace",
        fontsize=9,
        va="top",
        linespacing=_LINE * 72 / 9 / 1.16,  # in heights of DejaVu's letters
    )
    axes = right.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis in axes[len(drawn) :]:
        axis.set_axis_off()
    for axis, (title, draw) in zip(axes, drawn.items(), strict=False):
        draw(axis, findings)
        axis.set_title(title, fontsize=10)
    figure.savefig(path, format="png", dpi=110)


def _paragraphs(findings: Findings) -> Iterator[str]:
    facts = [f"{name}: {value}" for name, value in findings.facts.items()]
    yield "\n".join([findings.title, *itertools.chain.from_iterable(map(_wrap, facts))])
    for table in tables(findings):
        yield table.text()
    for note in [*findings.notes, "Examples are in the HTML page (--output=FILE.html)."]:
        yield "\n".join(_wrap(note))


def _wrap(line: str) -> list[str]:
    return textwrap.wrap(line, _LETTERS, subsequent_indent="  ")


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    return Figure(figsize=(width, height), layout=engine)


def _spans(axis: Axes, findings: Findings) -> None:
    rows = span_rows(findings)
    names, shares, expected = zip(*rows, strict=True)
    axis.bar(names, shares, color=_PALE, label="observed")
    if findings.law is not None:
        axis.plot(names, expected, "o-", color=_RED, markersize=4, label=findings.law[0])
        axis.legend(fontsize=8)
    axis.set(xlabel="tokens", ylabel="share of spans")
    _decorate(axis)


def _spans_per_record(axis: Axes, findings: Findings) -> None:
    counted = findings.total.spans_per_record
    axis.bar(list(counted), [n / findings.total.records for n in counted.values()], color=_PALE)
    axis.set(xlabel="spans", ylabel="share of examples")
    axis.locator_params(axis="x", integer=True)
    _decorate(axis)


def _fates(axis: Axes, findings: Findings) -> None:
    fates = findings.total.fates
    shares = [fates[fate] / fates.total() for fate in FATES]
    _bars(axis, list(FATES.values()), shares, "share of the tokens to predict", ".1%")


def _lengths(axis: Axes, findings: Findings) -> None:
    groups = findings.features()[:_MAX_FEATURES]
    edges = np.linspace(0, max(findings.static[names[0]] for names in groups), 42)
    for number, names in enumerate(groups):
        lengths = findings.total.lengths[names[0]]
        weights = np.full(len(lengths), 1 / len(lengths))
        label, color = "\n".join(names), f"C{number}"
        axis.hist(lengths, edges.tolist(), weights=weights, color=color, alpha=0.55, label=label)
        axis.axvline(findings.static[names[0]], color=color, linestyle=":")
    axis.set(xlabel="tokens", ylabel="share of examples")
    axis.legend(fontsize=7)
    _decorate(axis)


def _padding(axis: Axes, findings: Findings) -> None:
    groups = findings.features()
    values = [findings.total.padding(names[0], findings.static[names[0]]) for names in groups]
    _bars(axis, ["\n".join(names) for names in groups], values, "share of padding", ".1%")
    axis.set_xlim(0, 1.12)
    axis.axvline(0.5, color=_RED, linestyle="--", linewidth=1)


def _characters(axis: Axes, findings: Findings) -> None:
    values = [text.characters_per_token or 0 for text in findings.texts.values()]
    _bars(axis, list(findings.texts), values, "characters per token", ".2f")


def _unknown(axis: Axes, findings: Findings) -> None:
    values = [t.unknown_tokens / max(t.tokens, 1) for t in findings.texts.values()]
    _bars(axis, list(findings.texts), values, "share of unknown tokens", ".2%")


def _shares(axis: Axes, findings: Findings) -> None:
    names, values = list(findings.shares), list(findings.shares.values())
    _bars(axis, names, values, "share of examples in training", ".1%")


def _bars(axis: Axes, names: list[str], values: list[float], label: str, form: str) -> None:
    size = max(2.0, min(8.0, 190 / len(names)))  # so that the names of 100 languages keep apart
    bars = axis.barh(range(len(names)), values, color=_PALE)
    labels = [format(value, form) for value in values]
    axis.bar_label(bars, labels, padding=3, fontsize=size, color=_DARK)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel(label)
    axis.margins(x=0.15)
    _decorate(axis)
    axis.tick_params(axis="y", labelsize=size)


def _decorate(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.xaxis.label.set_fontsize(9)
    axis.yaxis.label.set_fontsize(9)
