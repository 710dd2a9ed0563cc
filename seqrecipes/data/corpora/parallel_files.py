"""The user's own parallel text: pairs of translations."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

import gin

from seqrecipes.data.corpora.corpus import LANGUAGE, BadRecord
from seqrecipes.data.corpora.file_corpus import FileCorpus
from seqrecipes.data.corpora.file_sets import Unit, find_files
from seqrecipes.data.corpora.lines import File, read_lines
from seqrecipes.errors import UserError

_TSV = (".tsv", ".tsv.gz")
Pair = tuple[str, str]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class ParallelFiles(FileCorpus):
    """The user's own parallel text, a pair of translations a line.

    For the pair 'de-en', files ending in .tsv or .tsv.gz hold German, a tab and English in every
    line. A file ending in .de or .de.gz is German and has the English of its lines beside it, under
    the same name but for .en or .en.gz, as OPUS and Moses name them (news.de-en.de and
    news.de-en.en). A file named after another pair with one of these languages (news.ar-en.en) is
    left alone where it has no such partner.

    Attributes:
      files: pair -> a folder (read with its subfolders), a glob, or a list of these. All TSV files
        of a folder are read, so folders with those of several pairs need a glob.
      max_document_bytes: of a line.

    The other settings are those of `FileCorpus`.
    """

    parallel: ClassVar[bool] = True

    def _example(self) -> str:
        return "a folder or glob per pair, such as {'de-en': 'opus/de-en', 'fr-en': 'fr-en.tsv.gz'}"

    def _check_language(self, language: str) -> None:
        names = language.split("-")
        if len(names) != 2 or names[0] == names[1] or not all(map(LANGUAGE.fullmatch, names)):
            raise UserError(
                self._field("files"),
                language,
                "name a pair by two languages of letters, digits and _, such as de-en.",
            )

    def _units(self, field: str, language: str, patterns: str | Sequence[str]) -> list[Unit]:
        first, second = language.split("-")
        endings = [f".{side}{gz}" for side in (first, second) for gz in ("", ".gz")]
        units: dict[str, Unit] = {}
        for file in find_files(field, patterns, (*_TSV, *endings)):
            sides = (file,) if file.path.name.endswith(_TSV) else _sides(file, first, second)
            if sides:
                units[str(sides[0].path)] = sides
        if not units:
            raise UserError(
                field,
                patterns,
                f"no pairs: it has no .tsv files and no .{first} files with .{second} files beside "
                "them.",
            )
        return list(units.values())

    def _read(self, language: str, unit: Unit) -> Iterator[Pair | BadRecord]:
        if len(unit) == 1:
            yield from self._tab_separated(unit[0])
        else:
            yield from self._aligned(*unit)

    def _tab_separated(self, file: File) -> Iterator[Pair | BadRecord]:
        for number, line in enumerate(read_lines(file, self.max_document_bytes), start=1):
            if isinstance(line, BadRecord):
                yield line
                continue
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) == 2:
                yield fields[0].strip(), fields[1].strip()
            else:
                yield file.bad_line(
                    number, f"has {len(fields)} field(s); it should be a text, a tab, a translation"
                )

    def _aligned(self, first: File, second: File) -> Iterator[Pair | BadRecord]:
        sides = (read_lines(file, self.max_document_bytes) for file in (first, second))
        for number, (one, two) in enumerate(itertools.zip_longest(*sides)):
            if one is None or two is None:
                short, long = (first, second) if one is None else (second, first)
                yield short.bad(
                    f"{long.path} has more lines than this file, which ends after line {number:,}; "
                    "they should be translations line by line"
                )
                return
            if isinstance(one, BadRecord):
                yield one
            elif isinstance(two, BadRecord):
                yield two
            else:
                yield one.strip(), two.strip()


def _sides(file: File, first: str, second: str) -> Unit:
    """A file and its partner in the order of the pair; nothing if it is of another pair."""
    stem, gz = file.name.removesuffix(".gz"), ".gz" if file.name.endswith(".gz") else ""
    stem, _, side = stem.rpartition(".")
    other = second if side == first else first
    partner = file.path.with_name(f"{stem.rpartition('/')[2]}.{other}{gz}")
    if not partner.exists():
        pair = stem.rpartition("/")[2].rpartition(".")[2].split("-")
        if len(pair) == 2 and side in pair and set(pair) != {first, second}:
            return ()
        raise UserError(file.field, str(file.path), f"its translations are missing: no {partner}.")
    both = file, File.at(file.field, partner, f"{stem}.{other}{gz}")
    return both if side == first else both[::-1]
