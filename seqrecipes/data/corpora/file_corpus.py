"""What corpora of the user's files have in common: settings, languages, shards and splits."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar

from seqrecipes.config.check import Range, check_fields
from seqrecipes.data.corpora.corpus import (
    SPLITS,
    BadRecord,
    Document,
    OnBadRecord,
    Split,
    ValidationEvery,
    digest,
    raising,
    select,
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
      validation_every: every so many documents of a shard, one is kept for validation.
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
        if self.validation_files:
            return records
        return select(records, split, self.validation_every)

    def fingerprint(self) -> str:
        """See `Corpus.fingerprint`; of settings and of the files' names, sizes and times.

        Of a name counts what is inside the folder, or below the fixed folders of the glob, that was
        given: the text may be moved as a whole, as by `mv` or `rsync -a`, which keep times.
        """
        files = [
            (split, language, [(f.name, f.size, f.mtime_ns) for f in unit])
            for split in SPLITS
            for language, shards in sorted(self._shards.get(split, {}).items())
            for shard in shards
            for unit in shard
        ]
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.init and field.name not in _NOT_SETTINGS
        }
        return digest(type(self).__name__, files, settings)

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
