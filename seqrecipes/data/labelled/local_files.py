"""The user's own files of labelled sets, by folder and name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import gin

from seqrecipes.config.check import check_fields
from seqrecipes.data.corpora.lines import File
from seqrecipes.data.labelled.records import SPLITS, LabelledSplit
from seqrecipes.errors import UserError

# What files call a split; ours come first.
_NAMES: dict[LabelledSplit, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("dev", "validation", "eval"),
    "test": ("test",),
}


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LabelledFiles:
    """Where labelled sets lie.

    Attributes:
      folder: a folder that has a folder named after each set; or set -> its folder. A set without
        a folder is read from TFDS where that has it.
    """

    folder: str | Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def of(self, name: str) -> Path | None:
        """The folder of a set.

        Raises:
          UserError: it is not there.
        """
        if not self.folder:
            return None
        if isinstance(self.folder, Mapping):
            if name not in self.folder:
                return None
            path = Path(self.folder[name]).expanduser()
        else:
            path = Path(self.folder).expanduser() / name
        if not path.is_dir():
            remedy = "no such folder; see docs/downstream_data.md for what it should hold."
            raise UserError(field(name), str(path), remedy)
        return path


@dataclasses.dataclass(frozen=True)
class FolderOfSet:
    """The files of one set.

    Attributes:
      name: of the set.
      folder: where they lie.
      templates: their names below it, alternatives of each other; `{split}`, `{language}` and
        `{LANGUAGE}` (in capitals) stand for those. Any may end in .gz besides.
    """

    name: str
    folder: Path
    templates: Sequence[str]

    def splits(self, language: str) -> tuple[LabelledSplit, ...]:
        """Those that have files."""
        return tuple(split for split in SPLITS if self._found(language, split))

    def files(self, language: str, split: LabelledSplit) -> tuple[File, ...]:
        """The file of a split; of a pair such as en-de the two files, of en first.

        Raises:
          UserError: it is not there, or there are two.
        """
        found = self._found(language, split)
        if not found:
            there = ", ".join(self.splits(language)) or "nothing"
            wanted = " or ".join(self._names(language.split("-")[0], split))
            remedy = f"no {split} split of {language}: no {wanted}; there is {there}."
            raise UserError(field(self.name), str(self.folder), remedy)
        return found

    def _found(self, language: str, split: LabelledSplit) -> tuple[File, ...]:
        """The files, one for each side of a pair, or nothing unless all are there."""
        files = []
        for side in language.split("-"):
            names = self._names(side, split)
            paths = [self.folder / f"{name}{gz}" for name in names for gz in ("", ".gz")]
            there = [path for path in paths if path.exists()]
            if not there:
                return ()
            if len(there) > 1:
                both = " and ".join(str(path) for path in there)
                raise UserError(field(self.name), both, "both could be meant; remove one.")
            files.append(File.at(field(self.name), there[0], there[0].name))
        return tuple(files)

    def _names(self, language: str, split: LabelledSplit) -> list[str]:
        names = [
            template.format(split=name, language=language, LANGUAGE=language.upper())
            for template in self.templates
            for name in _NAMES[split]
        ]
        return list(dict.fromkeys(names))


def field(name: str) -> str:
    """What errors call the folder of a set."""
    return f"LabelledFiles.folder[{name!r}]"
