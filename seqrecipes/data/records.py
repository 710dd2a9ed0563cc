"""From the documents of a shard to its packed records, in NumPy.

A record is a block of tokens or a pair of segments (`seqrecipes.data.packing`). Documents stream:
some are tokenized, packed and gone before the next ones are read.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import sentencepiece

from seqrecipes.data.corpora.corpus import BadRecord, Document, batches
from seqrecipes.data.objectives.base import Reads
from seqrecipes.data.packing import Pair, adjacent_segments, join_pairs, pack
from seqrecipes.data.vocabulary import Vocabulary
from seqrecipes.errors import UserError

DEFAULT_LENGTH = 512
MAX_PROBLEMS = 20  # so many bad records of a shard are named; all are counted


class Tokenized(NamedTuple):
    """Several documents, one after the other.

    Attributes:
      tokens: int32[all tokens].
      lengths: int32[documents, 1], or [documents, 2] of pairs: how many of them each side has.
      characters: int[documents], of both sides.
      problems: of each document why it was skipped, in which case it is empty; else ''.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    characters: np.ndarray
    problems: list[str]


def tokenize(
    tokenizer: sentencepiece.SentencePieceProcessor,
    batched: Iterable[list[Document | BadRecord]],
    sides: int,
) -> Iterator[Tokenized]:
    """Tokenizes documents; texts of 5 and 3 characters become [17, 8, 4], [[2], [1]], [5, 3], ....

    Args:
      tokenizer: of the vocabulary.
      batched: several documents at a time, see `corpora.corpus.batches`.
      sides: 1, or 2 of pairs of translations.
    """
    for documents in batched:
        texts: list[str] = []
        problems = []
        for document in documents:
            if isinstance(document, BadRecord):
                problems.append(str(document))
                texts += [""] * sides
                continue
            problems.append("")
            texts += (document,) if isinstance(document, str) else document
        tokens, lengths = encode(tokenizer, texts)
        characters = np.array([len(text) for text in texts]).reshape(-1, sides).sum(axis=1)
        yield Tokenized(tokens, lengths.reshape(-1, sides), characters, problems)


def encode(
    tokenizer: sentencepiece.SentencePieceProcessor, texts: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """int32 ids of all texts one after the other, and int32[texts], how many each has."""
    ids = tokenizer.encode(texts)
    lengths = np.array([len(text) for text in ids], np.int32)
    flat = itertools.chain.from_iterable(ids)
    return np.fromiter(flat, np.int32, int(lengths.sum())), lengths


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the documents of a shard become records.

    Attributes:
      vocabulary: tokenizes.
      reads: 'blocks' of tokens, or which pairs of segments.
      payload: the most tokens of a block or a segment.
      join_pairs: whether consecutive pairs are put together, see `packing.join_pairs`.
    """

    vocabulary: Vocabulary
    reads: Reads = "blocks"
    payload: int = DEFAULT_LENGTH - 2
    join_pairs: bool = False

    def __post_init__(self) -> None:
        if self.payload < 1:
            raise UserError("sequence_length", self.payload, "is too short for a token of text.")

    def records(
        self, documents: Iterable[Document | BadRecord], seen: Summary
    ) -> Iterator[tuple[np.ndarray, int]]:
        """The records of a shard's documents, see `segments`."""
        tokenizer, sides = self.vocabulary.tokenizer, 2 if self.reads == "translations" else 1
        return self.segments(tokenize(tokenizer, batches(documents), sides), seen)

    def segments(
        self, batched: Iterator[Tokenized], seen: Summary
    ) -> Iterator[tuple[np.ndarray, int]]:
        """The records of one shard, made as they are asked for.

        Documents [[10, 11], [20]] become ([10, 11, DOC, 20], 4).

        Args:
          batched: its documents.
          seen: counts what is read.

        Yields:
          (int32 tokens of all segments, number of those of the first segment)
        """
        doc = self.vocabulary.doc_id
        if self.reads == "blocks":
            blocks = pack((d[0] for d in seen.documents_of(batched)), self.payload, doc)
            yield from ((block, block.size) for block in blocks)
            return
        if self.reads == "adjacent":
            pairs = adjacent_segments(seen.paired(batched, self.payload), self.payload)
        else:
            pairs = seen.cut_pairs(batched, self.payload)
        if self.join_pairs:
            pairs = join_pairs(pairs, self.payload, doc)
        yield from ((np.concatenate(pair), pair[0].size) for pair in pairs)


@dataclasses.dataclass
class Summary:
    """What was read of a shard.

    Attributes:
      problems: the first bad records, in words.
      documents: documents, or pairs.
      empty_documents: of these, those without tokens (on a side of a pair).
      cut_documents: of these, those that did not go into pairs as a whole.
      bad_records: what was skipped because it could not be used.
      characters: of all documents.
    """

    problems: list[str] = dataclasses.field(default_factory=list)
    documents: int = 0
    empty_documents: int = 0
    cut_documents: int = 0
    bad_records: int = 0
    characters: int = 0

    def documents_of(self, batched: Iterator[Tokenized]) -> Iterator[list[np.ndarray]]:
        """The documents that have tokens, as lists of one or two arrays."""
        for tokens, lengths, characters, every in batched:
            problems = [problem for problem in every if problem]
            self.problems += problems[: MAX_PROBLEMS - len(self.problems)]
            self.bad_records += len(problems)
            self.documents += len(every) - len(problems)
            self.characters += int(characters.sum())
            ends = np.cumsum(lengths).reshape(lengths.shape)
            starts = ends - lengths
            usable = (lengths > 0).all(axis=1)
            self.empty_documents += int(np.count_nonzero(~usable)) - len(problems)
            for start, end in zip(starts[usable].tolist(), ends[usable].tolist(), strict=True):
                yield [tokens[a:b] for a, b in zip(start, end, strict=True)]

    def paired(self, batched: Iterator[Tokenized], payload: int) -> Iterator[np.ndarray]:
        """Documents for `adjacent_segments`, which leaves a last single token out."""
        for (document,) in self.documents_of(batched):
            self.cut_documents += document.size % (2 * payload) == 1
            yield document

    def cut_pairs(self, batched: Iterator[Tokenized], payload: int) -> Iterator[Pair]:
        """Pairs of translations, each side cut to `payload` tokens."""
        for first, second in self.documents_of(batched):
            self.cut_documents += max(first.size, second.size) > payload
            yield first[:payload], second[:payload]


COUNTS = tuple(f.name for f in dataclasses.fields(Summary) if f.name != "problems")
