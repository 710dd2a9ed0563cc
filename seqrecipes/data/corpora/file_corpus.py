"""What corpora of the user's files have in common: settings, languages, shards and splits."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

from seqrecipes.config.check import Range, check_fields
from seqrecipes.data.corpora import contents
from seqrecipes.data.corpora.corpus import (
    SMALL_BYTES,
    SPLITS,
    BadRecord,
    Document,
    OnBadRecord,
    Split,
    ValidationEvery,
    digest,
    exact_limit,
    hold_out,
    hold_out_limit,
    raising,
)
from seqrecipes.data.corpora.file_sets import Unit, group
from seqrecipes.data.corpora.lines import CutOff
from seqrecipes.errors import UserError

Sources = Mapping[str, str | Sequence[str]]
Files = Annotated[
    str | Sources | None,
    "set it to a folder or glob per language, such as {'en': 'texts/en'}, or per pair of "
    "translations, such as {'de-en': 'opus/de-en'}",
]
_NOT_SETTINGS = ("files", "validation_files", "languages")


@dataclasses.dataclass(frozen=True)
class FileCorpus(abc.ABC):
    """A corpus of the user's files; what they are is up to its subclasses.

    The files are looked up once, when the corpus is made; its shards and its fingerprint are of
    that moment.

    Attributes:
      files: language -> a folder (read with its subfolders), a glob, or a list of these.
      validation_every: one in so many documents of a language is kept for validation, chosen by a
        hash of its text: the same text is never on both sides. Of a language with little text just
        so many, and one at least.
      validation_files: like `files`, used for validation instead; `files` are then all trained on.
      languages: those to read; empty for all that `files` has.
      on_bad_record: whether to 'raise' at a record that cannot be used, or to 'skip' it, in which
        case the reader of the corpus is told of it.
      max_document_bytes: of UTF-8; more makes a line or a document a bad record. To tokenize a
        document takes about 40 times its bytes.
      shard_bytes: consecutive files make a shard until they have so many bytes on disk. A file is
        never cut: one large file is read by one process alone.
    """

    parallel: ClassVar[bool]

    files: Files = None
    validation_every: ValidationEvery = 100
    validation_files: Files = None
    languages: tuple[str, ...] = ()
    on_bad_record: OnBadRecord = "raise"
    max_document_bytes: Annotated[int, Range(1)] = 16 << 20
    shard_bytes: Annotated[int, Range(1)] = 64 << 20
    _shards: dict[str, dict[str, list[list[Unit]]]] = dataclasses.field(
        init=False, repr=False, compare=False
    )
    # Found by reading a language once, and needed for both splits.
    _limits: dict[str, int] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.files:
            raise self._error("files", f"no text given; set it to {self._example()}.")

        sources = {"train": self._by_language("files", self.files)}
        known = set(sources["train"])
        if strangers := set(self.languages or ()) - known:
            raise UserError(
                self._field("languages"),
                sorted(strangers),
                f"not in {self._field('files')}, which has {', '.join(sorted(known))}.",
            )
        if self.validation_files:
            sources["validation"] = self._by_language("validation_files", self.validation_files)
            if strangers := set(sources["validation"]) - known:
                raise UserError(
                    self._field("validation_files"),
                    sorted(strangers),
                    f"these languages have no training files; {self._field('files')} has "
                    f"{', '.join(sorted(known))}.",
                )
        languages = tuple(sorted(set(self.languages or known)))
        for language in languages:
            self._check_language(language)
        shards: dict[str, dict[str, list[list[Unit]]]] = {}
        for split, by_language in sources.items():
            names = "files" if split == "train" else "validation_files"
            shards[split] = {
                language: group(
                    self._units(f"{self._field(names)}[{language!r}]", language, patterns),
                    self.shard_bytes,
                )
                for language, patterns in by_language.items()
                if language in languages
            }
        object.__setattr__(self, "languages", languages)
        object.__setattr__(self, "_shards", shards)
        self._check_apart()

    def shards(self, language: str, split: Split) -> int:
        """See `Corpus.shards`."""
        return len(self._units_of(language, split))

    def documents(self, language: str, split: Split, shard: int) -> Iterator[Document | BadRecord]:
        """See `Corpus.documents`."""
        units = self._units_of(language, split)[shard]
        records: Iterator[Document | BadRecord] = (
            record for unit in units for record in self._until_cut_off(language, unit)
        )
        if self.on_bad_record == "raise":
            records = raising(records, self._field("on_bad_record"))
        if not self.validation_files:
            records = hold_out(records, split, self._limit(language))
        yield from records

    def versions(self) -> dict[str, contents.Version]:
        """The files by split, language and name: `train/en/news.txt`.

        Of a name counts what is inside the folder, or below the fixed folders of the glob, that
        was given: the text may be moved or copied as a whole. Where two files are called alike, a
        number tells them apart.
        """
        found: dict[str, contents.Version] = {}
        for split in SPLITS:
            for language, shards in sorted(self._shards.get(split, {}).items()):
                for file in (file for shard in shards for unit in shard for file in unit):
                    name = f"{split}/{language}/{file.name}"
                    number = 2
                    while name in found:
                        name = f"{split}/{language}/{file.name} ({number})"
                        number += 1
                    found[name] = file.version
        return found

    def contents(self) -> dict[str, str]:
        """See `Corpus.contents`; checksums of the files, in their order, and settings.

        Raises:
          UserError: a file cannot be read.
        """
        versions = self.versions()
        checksums = contents.checksums(self._field("files"), versions.values())
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.init and field.name not in _NOT_SETTINGS
        }
        return dict(zip(versions, checksums, strict=True)) | {"settings": json.dumps(settings)}

    def fingerprint(self) -> str:
        """See `Corpus.fingerprint`."""
        return digest(type(self).__name__, list(self.contents().items()))

    @abc.abstractmethod
    def _example(self) -> str:
        """What `files` may look like."""

    @abc.abstractmethod
    def _check_language(self, language: str) -> None:
        """Raises a UserError if the name is not one of a language, or of a pair."""

    @abc.abstractmethod
    def _units(self, field: str, language: str, patterns: str | Sequence[str]) -> list[Unit]:
        """The files of a language in their order."""

    @abc.abstractmethod
    def _read(self, language: str, unit: Unit) -> Iterator[Document | BadRecord]:
        """The documents of a unit; raises CutOff where it cannot be read on."""

    def _limit(self, language: str) -> int:
        """Below it lie the hashes of documents that are for validation."""
        if language not in self._limits:
            self._limits[language] = self._find_limit(language)
        return self._limits[language]

    def _find_limit(self, language: str) -> int:
        units = [unit for shard in self._units_of(language, "train") for unit in shard]
        if sum(file.size for unit in units for file in unit) > SMALL_BYTES:
            return hold_out_limit(self.validation_every)
        records = (record for unit in units for record in self._until_cut_off(language, unit))
        return exact_limit(records, self.validation_every)

    def _check_apart(self) -> None:
        """Refuses files that are read as two languages, or both trained on and validated on."""
        read_as: dict[tuple[tuple[int, int], ...], str] = {}
        trained_on: set[tuple[int, int]] = set()
        for split in SPLITS:
            for language, shards in self._shards.get(split, {}).items():
                for unit in (unit for shard in shards for unit in shard):
                    other = read_as.setdefault(tuple(file.inode for file in unit), language)
                    if other != language:
                        remedy = f"is read as {other} too; name it for one of the two."
                        raise UserError(unit[0].field, str(unit[0].path), remedy)
                    for file in unit:
                        if split == "train":
                            trained_on.add(file.inode)
                        elif file.inode in trained_on:
                            remedy = f"is trained on too; take it out of {self._field('files')}."
                            raise UserError(file.field, str(file.path), remedy)

    def _by_language(self, name: str, files: str | Sources) -> Sources:
        """What a setting says of each language."""
        if not isinstance(files, Mapping):
            raise self._error(name, f"set it to {self._example()}.")
        return files

    def _until_cut_off(self, language: str, unit: Unit) -> Iterator[Document | BadRecord]:
        try:
            yield from self._read(language, unit)
        except CutOff as cut:
            yield cut.record

    def _units_of(self, language: str, split: Split) -> list[list[Unit]]:
        return self._shards[split if self.validation_files else "train"].get(language, [])

    def _field(self, name: str) -> str:
        return f"{type(self).__name__}.{name}"

    def _error(self, name: str, remedy: str) -> UserError:
        return UserError(self._field(name), getattr(self, name), remedy)
