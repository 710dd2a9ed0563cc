"""What the flags of the data benchmark say; free of libraries, which are imported once pinned."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from seqrecipes.errors import UserError


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
      text: a folder with one folder of text files a language; None for the bundled sample.
      vocabulary: a spm.model; None to train one.
      vocabulary_size: of the one to train; None for one that suits the text.
      characters: of text, at most.
      prepared: a folder of prepared records that are read in place of the text's.
      objectives: names of those to measure; None for all.
      batch_size: examples in a batch.
      repetitions: measurements of each case.
      seconds: of each measurement.
    """

    text: Path | None = None
    vocabulary: Path | None = None
    vocabulary_size: int | None = None
    characters: int = 4_000_000
    prepared: Path | None = None
    objectives: tuple[str, ...] | None = None
    batch_size: int = 256
    repetitions: int = 7
    seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in ("characters", "batch_size", "repetitions", "seconds"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name}", getattr(self, name), "choose more than 0.")
