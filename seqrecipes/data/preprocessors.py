"""The steps of a pre-training task: tokenize, pack and denoise, from dataset to dataset."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import sentencepiece
import tensorflow as tf

from seqrecipes.data.objectives.base import Objective, Reads, example_index, generator
from seqrecipes.data.packing import Pair, adjacent_segments, join_pairs, pack
from seqrecipes.data.vocabulary import Vocabulary
from seqrecipes.errors import UserError

DEFAULT_LENGTH = 512
READ_BATCH = 256
MAX_PROBLEMS = 20  # so many bad records of a shard are named; all are counted

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """Several documents -> their tokens.

    {'text' string[documents] or string[documents, 2], ...} becomes {'tokens' int32[all tokens],
    'lengths' int32[documents, 1 or 2], 'characters' int32[documents], ...}.
    """

    vocabulary: Vocabulary

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Texts of 5 and 3 characters become {'tokens': [17, 8, 4], 'lengths': [[2], [1]], ...}."""
        tokenizer = self.vocabulary.tokenizer

        # SentencePiece's own encoder is several times faster than its TensorFlow operation.
        def encode_batch(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            ids, lengths = encode(tokenizer, [text.decode() for text in texts.reshape(-1)])
            return ids, lengths.reshape(len(texts), -1)

        def tokenize(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            texts = batch.pop("text")
            tokens, lengths = tf.numpy_function(encode_batch, [texts], [tf.int32, tf.int32])
            characters = tf.strings.length(texts, unit="UTF8_CHAR")
            if len(texts.shape) == 2:
                characters = tf.reduce_sum(characters, axis=1)
            return batch | {
                "tokens": tf.ensure_shape(tokens, [None]),
                "lengths": tf.ensure_shape(lengths, [None, 2 if len(texts.shape) == 2 else 1]),
                "characters": characters,
            }

        return dataset.map(tokenize)


def encode(
    tokenizer: sentencepiece.SentencePieceProcessor, texts: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """int32 ids of all texts one after the other, and int32[texts], how many each has."""
    ids = tokenizer.encode(texts)
    lengths = np.array([len(text) for text in ids], np.int32)
    flat = itertools.chain.from_iterable(ids)
    return np.fromiter(flat, np.int32, int(lengths.sum())), lengths


@dataclasses.dataclass(frozen=True)
class Pack:
    """Tokenized documents -> records, numbered in each shard.

    A record is a block of `payload` tokens or a pair of segments of at most so many (see
    `seqrecipes.data.packing`): {'tokens' int32[n], 'first' (tokens of its first segment),
    'language', 'shard', 'block'}. After the records of a shard comes its summary, whose `tokens`
    are empty and whose counts and `problems` (by line) say what was read; in records they are 0.
    """

    vocabulary: Vocabulary
    reads: Reads = "blocks"
    payload: int = DEFAULT_LENGTH - 2
    join_pairs: bool = False

    def __post_init__(self) -> None:
        if self.payload < 1:
            raise UserError("sequence_length", self.payload, "is too short for a token of text.")

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Documents [[10, 11], [20]] become {'tokens': [10, 11, DOC, 20], 'block': 0, ...}."""
        numbers, strings = tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.string)
        chunks = tf.data.Dataset.from_generator(
            lambda: _chunks(self._records(dataset)),
            output_signature={
                "tokens": tf.TensorSpec([None], tf.int32),
                "size": numbers,
                "first": numbers,
                "language": strings,
                "shard": numbers,
                "block": numbers,
                "problems": strings,
                **dict.fromkeys(COUNTS, numbers),
            },
        )

        def split(chunk: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            tokens = tf.RaggedTensor.from_row_lengths(chunk["tokens"], chunk.pop("size"))
            return chunk | {"tokens": tokens}

        return chunks.map(split).unbatch()

    def _records(self, dataset: tf.data.Dataset) -> Iterator[Record]:
        for (language, shard), batches in itertools.groupby(
            _single_shard(dataset), lambda batch: (batch["language"], batch["shard"])
        ):
            seen, number = Summary(), 0
            place = {"language": language, "shard": shard}
            for tokens, first in self.segments(batches, seen):
                yield {"tokens": tokens, "first": first, "block": number} | place | _NOTHING
                number += 1
            summary = dataclasses.asdict(seen) | {"problems": "\n".join(seen.problems)}
            end = {"tokens": np.zeros(0, np.int32), "first": 0, "block": number}
            yield end | place | summary

    def segments(
        self, batches: Iterator[Record], seen: Summary
    ) -> Iterator[tuple[np.ndarray, int]]:
        """The records of one shard, made as they are asked for.

        Args:
          batches: what `Tokenize` makes of its documents, as NumPy arrays.
          seen: counts what is read.

        Yields:
          (int32 tokens of all segments, number of those of the first segment)
        """
        doc = self.vocabulary.doc_id
        if self.reads == "blocks":
            blocks = pack((d[0] for d in seen.documents_of(batches)), self.payload, doc)
            yield from ((block, block.size) for block in blocks)
            return
        if self.reads == "adjacent":
            pairs = adjacent_segments(seen.paired(batches, self.payload), self.payload)
        else:
            pairs = seen.cut_pairs(batches, self.payload)
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

    def documents_of(self, batches: Iterator[Record]) -> Iterator[list[np.ndarray]]:
        """The documents that have tokens, as lists of one or two arrays."""
        for batch in batches:
            problems = [p.decode() for p in batch["problem"] if p]
            self.problems += problems[: MAX_PROBLEMS - len(self.problems)]
            self.bad_records += len(problems)
            self.documents += len(batch["problem"]) - len(problems)
            self.characters += int(batch["characters"].sum())
            lengths = batch["lengths"]
            ends = np.cumsum(lengths).reshape(lengths.shape)
            starts = ends - lengths
            usable = (lengths > 0).all(axis=1)
            self.empty_documents += int(np.count_nonzero(~usable)) - len(problems)
            tokens = batch["tokens"]
            for start, end in zip(starts[usable].tolist(), ends[usable].tolist(), strict=True):
                yield [tokens[a:b] for a, b in zip(start, end, strict=True)]

    def paired(self, batches: Iterator[Record], payload: int) -> Iterator[np.ndarray]:
        """Documents for `adjacent_segments`, which leaves a last single token out."""
        for (document,) in self.documents_of(batches):
            self.cut_documents += document.size % (2 * payload) == 1
            yield document

    def cut_pairs(self, batches: Iterator[Record], payload: int) -> Iterator[Pair]:
        """Pairs of translations, each side cut to `payload` tokens."""
        for first, second in self.documents_of(batches):
            self.cut_documents += max(first.size, second.size) > payload
            yield first[:payload], second[:payload]


COUNTS = tuple(f.name for f in dataclasses.fields(Summary) if f.name != "problems")
_NOTHING = {"problems": "", **dict.fromkeys(COUNTS, 0)}


def _chunks(records: Iterator[Record]) -> Iterator[Record]:
    """Many records at a time, because what enters tf.data costs by the piece."""
    while chunk := list(itertools.islice(records, READ_BATCH)):
        columns = {name: [record[name] for record in chunk] for name in chunk[0]}
        tokens = columns.pop("tokens")
        yield {"tokens": np.concatenate(tokens), "size": [t.size for t in tokens]} | columns


def _single_shard(dataset: tf.data.Dataset) -> Iterator[Record]:
    """Batches cut where a new shard begins; `language` and `shard` are then one value each."""
    for batch in dataset.as_numpy_iterator():
        language, shard, lengths = batch["language"], batch["shard"], batch["lengths"]
        changes = (language[1:] != language[:-1]) | (shard[1:] != shard[:-1])
        borders = [0, *(np.flatnonzero(changes) + 1).tolist(), len(shard)]
        ends = np.concatenate(([0], np.cumsum(lengths.sum(axis=1))))
        for start, end in itertools.pairwise(borders):
            yield {
                "language": language[start],
                "shard": int(shard[start]),
                "tokens": batch["tokens"][ends[start] : ends[end]],
                **{n: batch[n][start:end] for n in ("lengths", "characters", "problem")},
            }


@dataclasses.dataclass(frozen=True)
class Denoise:
    """Records -> examples of an objective; noise is fixed by (seed, epoch 0, shard, block)."""

    objective: Objective
    vocabulary: Vocabulary
    seed: int = 0

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """See the objective for arrays before and after."""
        names = list(feature_names(self.objective))
        specials = self.vocabulary.specials
        pairs = self.objective.reads != "blocks"

        def denoise(
            tokens: np.ndarray, first: int, language: bytes, shard: int, block: int
        ) -> list[np.ndarray]:
            index = example_index(language.decode(), int(shard), int(block))
            segments = (tokens[:first], tokens[first:]) if pairs else (tokens,)
            example = self.objective(*segments, generator(self.seed, 0, index), specials)
            return [example[name] for name in names]

        def apply(record: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            arguments = [record[n] for n in ("tokens", "first", "language", "shard", "block")]
            arrays = tf.numpy_function(denoise, arguments, [tf.int32] * len(names))
            return {name: tf.ensure_shape(a, [None]) for name, a in zip(names, arrays, strict=True)}

        records = dataset.filter(lambda record: tf.size(record["tokens"]) > 0)
        return records.map(apply, num_parallel_calls=tf.data.AUTOTUNE)


def feature_names(objective: Objective) -> tuple[str, ...]:
    """The features an objective makes."""
    return tuple(objective.lengths(DEFAULT_LENGTH, 0))
