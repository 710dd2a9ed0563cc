"""What a corpus is: documents, or pairs of translations, of one language at a time.

A corpus streams: nothing larger than a document is held. It is cut into shards that can be read
apart from each other, by other processes and in any order; all that follows from text (packing,
noise, order) depends on the shards and never on who reads them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Protocol, TypeVar, get_args

from seqrecipes.config.check import Range
from seqrecipes.errors import UserError

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = get_args(Split)
OnBadRecord = Literal["raise", "skip"]
# With 1 nothing would be left for training.
ValidationEvery = Annotated[int, Range(2)]
Document = str | tuple[str, str]  # a text, or a text and its translation
T = TypeVar("T")
R = TypeVar("R", bound="Document | BadRecord")

LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # what a language may be called
_BATCH = 256
_BATCH_CHARACTERS = 1 << 20
_HASHES = 1 << 64
SMALL_BYTES = 4 << 20  # text that is read once more, for `exact_limit`


@dataclasses.dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used, in the place where its text would have come.

    Attributes:
      field: the setting that named the file.
      where: file and line.
      problem: what is wrong, and what mends it.
    """

    field: str
    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"

    def error(self) -> UserError:
        """The same as an error."""
        return UserError(self.field, self.where, self.problem)


class Corpus(Protocol):
    """Documents in several languages, split for training and validation."""

    @property
    def parallel(self) -> bool:
        """Whether documents are pairs of translations."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Their names in a fixed order: `de`, or `de-en` for pairs of German and English."""

    def shards(self, language: str, split: Split) -> int:
        """Into how many shards a language is cut."""

    def documents(self, language: str, split: Split, shard: int) -> Iterator[Document | BadRecord]:
        """The documents of a shard in a fixed order; some may be empty.

        Raises:
          UserError: while iterating, at a bad record, unless the corpus is told to skip those.
            Then it yields a `BadRecord` in its place.
        """

    def contents(self) -> dict[str, str]:
        """What the text is made of, by name, such as a file and its checksum.

        It changes whenever the text or the documents made of it may have changed.
        """

    def fingerprint(self) -> str:
        """A hash of `contents`."""


def all_documents(corpus: Corpus, language: str, split: Split) -> Iterator[Document | BadRecord]:
    """The documents of all shards of a language."""
    for shard in range(corpus.shards(language, split)):
        yield from corpus.documents(language, split, shard)


def texts(corpus: Corpus, language: str, split: Split) -> Iterator[str]:
    """All usable texts of a language, for a vocabulary; of a pair, both sides."""
    for document in all_documents(corpus, language, split):
        if isinstance(document, str):
            yield document
        elif not isinstance(document, BadRecord):
            yield from document


def batches(documents: Iterable[T]) -> Iterator[list[T]]:
    """Several documents at a time, bounded in number and in characters."""
    batch: list[T] = []
    characters = 0
    for document in documents:
        batch.append(document)
        if isinstance(document, str):
            characters += len(document)
        elif isinstance(document, tuple):
            characters += sum(map(len, document))
        if len(batch) == _BATCH or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def raising(records: Iterable[T], setting: str) -> Iterator[T]:
    """The same documents; a bad record is raised, with `setting` named as what would skip it."""
    for record in records:
        if isinstance(record, BadRecord):
            problem = f"{record.problem} Or skip such records: {setting} = 'skip'."
            raise dataclasses.replace(record, problem=problem).error()
        yield record


def hold_out(records: Iterable[R], split: Split, limit: int) -> Iterator[R]:
    """The documents of a split: for validation are those whose `content_hash` is below `limit`.

    So what is the same text lies on one side, whichever file, shard or language it comes from.
    Documents without text are never for validation. Bad records come with the training split, so
    that the two splits, which are read from the same files, tell of each once.
    """
    for record in records:
        held = (
            not isinstance(record, BadRecord) and has_text(record) and content_hash(record) < limit
        )
        if held == (split == "validation"):
            yield record


def hold_out_limit(every: int) -> int:
    """The limit below which one hash in `every` lies, on average."""
    return _HASHES // every


def exact_limit(records: Iterable[Document | BadRecord], every: int) -> int:
    """The limit below which just one in `every` of these documents lies, and one at least.

    What a small text needs, of which chance would often hold out nothing. Documents that are the
    same count once; of a single one nothing is held out.
    """
    hashes = {content_hash(r) for r in records if not isinstance(r, BadRecord) and has_text(r)}
    held = min(max(len(hashes) // every, 1), len(hashes) - 1)
    return sorted(hashes)[held] if held > 0 else 0


def has_text(document: Document) -> bool:
    """Whether there is any, in a pair on both sides."""
    return all(document) if isinstance(document, tuple) else bool(document)


def content_hash(document: Document) -> int:
    """A number in [0, 2**64) from the text alone."""
    text = "\t".join(document) if isinstance(document, tuple) else document
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def digest(*parts: object) -> str:
    """sha256 of the parts as JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
