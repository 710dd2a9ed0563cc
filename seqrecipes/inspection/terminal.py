"""Examples and statistics for a terminal: in colour, or with brackets that say the same."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections.abc import Iterator

from seqrecipes.inspection.findings import Findings
from seqrecipes.inspection.panes import SPACE, Pane, Role, Shown, Token, legend, texts
from seqrecipes.inspection.tables import span_histogram, tables

Cell = tuple[str, str]  # a character and its style

_SIDE_BY_SIDE = 100  # columns from which on panes stand beside each other
_BETWEEN = " │ "
_GAP = "‸"
_SPECIAL = "36"
_FATES: dict[Role, str] = {"masked": "222", "random": "210", "kept": "151"}
_GROUPS = ("222", "151", "153", "218", "187", "183")  # pale, so that black letters stand out
_BRACKETS: dict[Role, str] = {"masked": "[", "random": "[~", "kept": "[=", "removed": "["}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclasses.dataclass(frozen=True)
class Terminal:
    """How to write.

    Attributes:
      width: columns.
      colour: use colours, in place of brackets.
      ids: write the id behind every token.
    """

    width: int
    colour: bool
    ids: bool

    def findings(self, findings: Findings) -> str:
        """Everything, as one text."""
        parts = [self._title(findings)]
        if findings.examples:
            parts += [self._legend(findings), *(self.example(e) for e in findings.examples)]
        for text in [*(table.text() for table in tables(findings)), span_histogram(findings)]:
            title, _, rest = text.partition("\n")
            parts += [f"{self._styled(title, '1')}\n{rest}"] if text else []
        parts += [f"note: {note}" for note in findings.notes]
        return "\n\n".join(parts)

    def example(self, example: Shown) -> str:
        """A heading, and the panes."""
        lines = [self._styled(f"── {example.heading}", "1")]
        for number, (left, right) in enumerate(example.rows):
            lines += [""] if number else []
            apart = self.width < _SIDE_BY_SIDE or left.right_to_left or right.right_to_left
            lines += self._stacked(left, right) if apart else self._beside(left, right)
        return "\n".join(lines)

    def _title(self, findings: Findings) -> str:
        facts = [f"  {name}: {value}" for name, value in findings.facts.items()]
        return "\n".join([self._styled(findings.title, "1"), *facts])

    def _legend(self, findings: Findings) -> str:
        return "\n".join(
            "".join(self._render(self._cells(Pane("", [sample])))) + f"  {meaning}"
            for sample, meaning in legend(findings.examples)
        )

    def _stacked(self, *panes: Pane) -> list[str]:
        lines = []
        for pane in panes:
            lines += [self._styled(pane.title, "4"), *self._lines(pane, self.width), ""]
        return lines[:-1]

    def _beside(self, left: Pane, right: Pane) -> list[str]:
        width = (self.width - len(_BETWEEN)) // 2
        columns = [
            [(self._styled(pane.title, "4"), len(pane.title)), *self._measured(pane, width)]
            for pane in (left, right)
        ]
        return [
            f"{one}{' ' * (width - size)}{_BETWEEN}{other}".rstrip()
            for (one, size), (other, _) in itertools.zip_longest(*columns, fillvalue=("", 0))
        ]

    def _lines(self, pane: Pane, width: int) -> list[str]:
        return [line for line, _ in self._measured(pane, width)]

    def _measured(self, pane: Pane, width: int) -> list[tuple[str, int]]:
        """(line, its columns); every segment begins a line."""
        lines = []
        for _, tokens in itertools.groupby(pane.tokens, lambda token: token.segment):
            for line in wrap(self._cells(Pane("", list(tokens))), width):
                lines.append(("".join(self._render(line)), sum(columns(c) for c, _ in line)))
        return lines

    def _cells(self, pane: Pane) -> list[Cell]:
        cells: list[Cell] = []
        for run in pane.runs():
            role, first = run[0].role, run[0]
            style = self._style(first)
            text = "".join(map(self._written, texts(run), run))
            stripped = text.lstrip(" ")
            if first.gap is not None:
                cells.append((_GAP, self._group(first.gap)))
            cells += [(" ", "")] * (len(text) - len(stripped))
            # What <mask> is the fate of needs no bracket.
            is_open = self.colour or (role == "masked" and first.was)
            bracket = "" if is_open else _BRACKETS.get(role, "")
            cells += [(c, style) for c in bracket + stripped + ("]" if bracket else "")]
        return cells

    def _written(self, text: str, token: Token) -> str:
        if not self.ids or token.id < 0:
            return text
        return (text if text.strip() else SPACE) + str(token.id).translate(_SUBSCRIPTS)

    def _style(self, token: Token) -> str:
        if token.group is not None:
            return self._group(token.group)
        if token.role in _FATES:
            return f"30;48;5;{_FATES[token.role]}"
        return "" if token.role == "plain" else _SPECIAL

    def _group(self, group: int) -> str:
        return f"30;48;5;{_GROUPS[group % len(_GROUPS)]}"

    def _render(self, cells: list[Cell]) -> Iterator[str]:
        for style, run in itertools.groupby(cells, lambda cell: cell[1]):
            yield self._styled("".join(c for c, _ in run), style)

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self.colour and style else text


def wrap(cells: list[Cell], width: int) -> list[list[Cell]]:
    """Lines of at most `width` columns, broken at spaces and beside wide characters."""
    lines: list[list[Cell]] = []
    line: list[Cell] = []
    used, place = 0, 0  # columns of the line; where it may be broken
    for cell in cells:
        size = columns(cell[0])
        if line and used + size > width:
            end = len(line) if cell[0] == " " else place or len(line)
            lines.append(_trimmed(line[:end]))
            line = line[end:]
            used, place = sum(columns(c) for c, _ in line), 0
        if line or cell != (" ", ""):
            line.append(cell)
            used += size
        if cell[0] == " " or size == 2:
            place = len(line)
    return [*lines, _trimmed(line)] if line else lines


def _trimmed(line: list[Cell]) -> list[Cell]:
    while line and line[-1][0] == " ":
        line = line[:-1]
    return line


def columns(character: str) -> int:
    """How many columns of a terminal a character takes."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
