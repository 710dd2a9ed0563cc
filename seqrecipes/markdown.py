"""Markdown tables that read well on a terminal too."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns have one width each."""
    lines = [header, ["---"] * len(header), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        f"| {' | '.join(_padded(cell, width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def _padded(cell: str, width: int) -> str:
    return cell.ljust(width, "-" if cell == "---" else " ")
