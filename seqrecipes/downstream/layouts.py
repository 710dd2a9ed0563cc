"""Tables of results as text for a terminal, Markdown and LaTeX."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from seqrecipes import markdown
from seqrecipes.downstream import tables
from seqrecipes.downstream.results import Statistic
from seqrecipes.downstream.tables import Column, Row, Table

WIDTH = 110

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def terminal(table: Table) -> str:
    """Plain; a table that is too wide is cut, between groups of columns where possible."""
    parts, begin = [], 0
    while begin < len(table.columns):
        later = range(begin + 1, len(table.columns) + 1)
        fitting = [end for end in later if _width(table, begin, end) <= WIDTH] or [begin + 1]
        whole = [end for _, end in _groups(table.columns) if end in fitting]
        end = max(whole or fitting)
        parts.append(_grid(table, begin, end, marks=False))
        begin = end
    return "\n\n".join([table.title, *parts, "\n".join(table.notes)])


def as_markdown(table: Table) -> str:
    """The best figure of a column bold, the second in italics."""
    notes = "\n".join(f"- {note}" for note in table.notes)
    grid = _grid(table, 0, len(table.columns), marks=True)
    return f"## {table.title}\n\n{grid}\n\n{notes}"


def as_latex(table: Table) -> str:
    """A table environment, for the package booktabs; best bold, second underlined."""
    groups = [
        (begin, end, table.columns[begin].metric.group) for begin, end in _groups(table.columns)
    ]
    above = [
        rf"\multicolumn{{{end - begin}}}{{c}}{{{_escaped(group)}}}" for begin, end, group in groups
    ]
    rules = " ".join(rf"\cmidrule(lr){{{begin + 2}-{end + 1}}}" for begin, end, _ in groups)
    marks = _marks(table)
    body = [
        [
            _escaped(_name(row)),
            *(
                _latex_cell(c, cell, m)
                for c, cell, m in zip(table.columns, row.cells, own, strict=True)
            ),
        ]
        for row, own in zip(table.rows, marks, strict=True)
    ]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        _latex_row(["", *above]),
        rules,
        _latex_row(["Model", *(_escaped(column.heading) for column in table.columns)]),
        r"\midrule",
        *map(_latex_row, body),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{_escaped(table.title)}: {_escaped('; '.join(table.notes))}.}}",
        r"\end{table}",
    ]
    return "\n".join(lines).replace("±", r"$\pm$")


def _groups(columns: Sequence[Column]) -> list[tuple[int, int]]:
    """[begin, end) of neighbours under one heading."""
    bounds, begin = [], 0
    for _, members in itertools.groupby(columns, key=lambda c: (c.task, c.metric.group)):
        end = begin + len(list(members))
        bounds.append((begin, end))
        begin = end
    return bounds


def _grid(table: Table, begin: int, end: int, *, marks: bool) -> str:
    """Some columns as Markdown, whose header has one line: the languages are its first row."""
    firsts = {begin, *(first for first, _ in _groups(table.columns))}
    columns = list(enumerate(table.columns))[begin:end]
    header = ["model", *(c.metric.group if n in firsts else "" for n, c in columns)]
    rows = [["", *(column.heading for _, column in columns)]]
    for row, own in zip(table.rows, _marks(table), strict=True):
        cells = [_text(column, row.cells[n]) for n, column in columns]
        if marks:
            signs = {"best": "**", "second": "_", None: ""}
            cells = [
                f"{signs[own[n]]}{cell}{signs[own[n]]}"
                for (n, _), cell in zip(columns, cells, strict=True)
            ]
        rows.append([_name(row).replace("|", "\\|"), *cells])
    return markdown.table(header, rows)


def _width(table: Table, begin: int, end: int) -> int:
    return len(_grid(table, begin, end, marks=False).split("\n", 1)[0])


def _marks(table: Table) -> list[list[str | None]]:
    """'best', 'second' or None, by row and column."""
    found = []
    for number in range(len(table.columns)):
        own = tables.best(table, number, published=False)
        theirs = tables.best(table, number, published=True)
        found.append([a or b for a, b in zip(own, theirs, strict=True)])
    return [list(row) for row in zip(*found, strict=True)]


def _name(row: Row) -> str:
    return f"{row.model} (paper)" if row.published else row.model


def _text(column: Column, cell: Statistic | None) -> str:
    if cell is None:
        return "-"
    mean = f"{cell.mean:.{column.metric.digits}f}"
    return mean if cell.std is None else f"{mean} ±{cell.std:.{column.metric.digits}f}"


def _latex_cell(column: Column, cell: Statistic | None, mark: str | None) -> str:
    mean, plus_minus, std = _text(column, cell).partition(" ±")
    commands = {"best": r"\textbf{%s}", "second": r"\underline{%s}", None: "%s"}
    return commands[mark] % mean + (rf" {{\scriptsize ±{std}}}" if plus_minus else "")


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)
