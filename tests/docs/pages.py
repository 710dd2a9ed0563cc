"""The pages of the documentation as their code blocks, and what is written above these.

A block is run as it is printed, unless a comment directly above it says otherwise:

    <!-- dry run: REASON -->  its commands get --dry_run appended
    <!-- not run: REASON -->  it is left alone

where REASON begins with one of `REASONS`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
# In this order: later pages use what earlier ones left.
PAGES = (
    "README.md",
    "docs/planning.md",
    "docs/corpora.md",
    "docs/preparing.md",
    "docs/hugging_face.md",
    "docs/decoding.md",
    "docs/downstream_data.md",
    "docs/finetuning.md",
    "docs/downstream_results.md",
    "docs/two_stage_run.md",
    "docs/ten_models.md",
    "docs/beyond_the_paper.md",
    "docs/performance.md",
    "docs/data_speed.md",
    "docs/reliability.md",
    "docs/dependencies.md",
)
REASONS = (
    "long",  # trains or measures for minutes to days
    "network",  # a hub, a package index, a download
    "cloud",  # a cluster, a bucket
    "accelerator",  # a GPU or TPU, or its compiler
    "torch",  # what the lock leaves out
    "output",  # no command: what one prints or writes, a layout, a formula
    "form",  # has `...` or a name to be filled in
)
_MARK = re.compile(r"<!-- (dry|not) run: (.*) -->")


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
      page: its file.
      line: of its first line.
      text: without indentation or fences.
      mode: 'run', 'dry' or 'not'.
      reason: why it is not run.
    """

    page: str
    line: int
    text: str
    mode: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The name of the gin file that it is, if its first line says so."""
        named = re.match(r"# ([\w/]+\.gin)\n", self.text)
        return named[1] if named else ""

    @property
    def is_gin(self) -> bool:
        """Whether it consists of bindings."""
        return bool(re.match(r"[\w./]+ = ", self.text))


def blocks(page: str) -> list[Block]:
    """Those of a page: fenced, or indented by four spaces after a blank line."""
    lines = (ROOT / page).read_text("utf-8").split("\n")
    found, number = [], 0
    while number < len(lines):
        first = number
        indent = _indented(lines, number)
        if lines[number].startswith("```"):
            number = lines.index("```", number + 1)
            body = lines[first + 1 : number]
        elif indent:
            margin = " " * indent
            while number < len(lines) and (lines[number].startswith(margin) or not lines[number]):
                number += 1
            body = [line[indent:] for line in lines[first:number]]
        else:
            number += 1
            continue
        number += 1
        mode, reason = _mark(lines, first)
        text = "\n".join(body).strip("\n") + "\n"
        found.append(Block(page, first + 1, text, mode, reason))
    return found


def _indented(lines: list[str], number: int) -> int:
    """The indentation of a code block that begins on a line, 0 where none does."""
    match = re.match(r" {4,}(?=\S)", lines[number])
    return len(match[0]) if match and number and not lines[number - 1] else 0


def _mark(lines: list[str], first: int) -> tuple[str, str]:
    above = next((line for line in reversed(lines[:first]) if line.strip()), "")
    if match := _MARK.fullmatch(above.strip()):
        return match[1], match[2]
    return "run", ""
