"""What a comparison with transformers found: how large differences are, and which are too large."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

ABSOLUTE = 1e-4  # largest difference of a logit or of a hidden state, in float32
# Score ties come out differently (`tokenizer.py`).
TOKENS = 1e-3  # largest share of differing token ids


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Largest differences over the real positions of some examples.

    Attributes:
      name: of the examples.
      positions: number of them.
      absolute: largest absolute difference; NaN where either side is.
      relative: the same, over the largest absolute value.
    """

    name: str
    positions: int
    absolute: float
    relative: float


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """Lines of text through both tokenizers, and the differing ones and ids among them."""

    lines: int
    differing_lines: int
    tokens: int
    differing_tokens: int


@dataclasses.dataclass(frozen=True)
class Generated:
    """Sentences generated from both sides' logits, and how many came out differently."""

    method: str
    sentences: int
    differing: int


@dataclasses.dataclass(frozen=True)
class Parity:
    """The report of `verify`.

    Attributes:
      model_class: the class in transformers.
      versions: {package: version}.
      compared: 'logits' or 'hidden states'.
      comparisons: of them.
      tokenizer: None where there is nothing to compare.
      generated: empty for an encoder.
      checksums: {name of a tensor in the files: its shape and the SHA-256 of its float32 values}.
      problems: what is wrong with the weights, a line each.
    """

    model_class: str
    versions: Mapping[str, str]
    compared: str
    comparisons: tuple[Comparison, ...]
    tokenizer: Tokenized | None
    generated: tuple[Generated, ...]
    checksums: Mapping[str, Mapping[str, Any]]
    problems: tuple[str, ...]

    @property
    def failures(self) -> list[str]:
        """What is not as it should be, a line each."""
        lines = list(self.problems)
        for each in self.comparisons:
            if not each.absolute <= ABSOLUTE:  # so that NaN fails
                lines.append(
                    f"{self.compared} of {each.name} differ by {each.absolute:.1e}, more than "
                    f"{ABSOLUTE:.0e}"
                )
        if self.tokenizer and self.tokenizer.differing_tokens > TOKENS * self.tokenizer.tokens:
            lines.append(
                f"the tokenizer gives other ids for {self.tokenizer.differing_lines} of "
                f"{self.tokenizer.lines} lines"
            )
        for made in self.generated:
            if made.differing:
                lines.append(
                    f"{made.differing} of {made.sentences} sentences differ by {made.method}"
                )
        return lines

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "passed": self.passed,
            "failures": self.failures,
            "allowed_difference": ABSOLUTE,
            **dataclasses.asdict(self),
        }

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        width = max(len(each.name) for each in self.comparisons)
        lines = [
            f"{self.model_class} in float32 ({versions})",
            f"{self.compared:{width}}  positions  absolute  relative",
            *(
                f"{each.name:{width}}  {each.positions:9,}  {each.absolute:8.1e}  "
                f"{each.relative:8.1e}"
                for each in self.comparisons
            ),
            f"weights: {len(self.checksums):,} tensors, "
            + (f"{len(self.problems):,} problems" if self.problems else "equal to the bit"),
        ]
        if self.tokenizer:
            lines.append(
                f"tokenizer: {self.tokenizer.differing_lines:,} of {self.tokenizer.lines:,} lines "
                "have other ids"
            )
        for made in self.generated:
            same = made.sentences - made.differing
            lines.append(f"generation, {made.method}: {same} of {made.sentences} sentences alike")
        lines += [f"FAILED: {line}" for line in self.failures] or ["passed"]
        return "\n".join(lines)
