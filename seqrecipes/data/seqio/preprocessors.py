"""The steps of a pre-training task for seqio: tokenize, pack and denoise, from dataset to dataset.

What they do is done by `seqrecipes.data.records` and the objectives.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from seqrecipes.data.objectives.base import Objective, example_index, generator
from seqrecipes.data.records import DEFAULT_LENGTH, Packing, Summary, Tokenized, encode
from seqrecipes.data.vocabulary import Vocabulary

READ_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """Several documents -> their tokens.

    {'text' string[documents] or string[documents, 2], ...} becomes {'tokens' int32[all tokens],
    'lengths' int32[documents, 1 or 2], ...}.
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
            return batch | {
                "tokens": tf.ensure_shape(tokens, [None]),
                "lengths": tf.ensure_shape(lengths, [None, 2 if len(texts.shape) == 2 else 1]),
            }

        return dataset.map(tokenize)


@dataclasses.dataclass(frozen=True)
class Pack:
    """Tokenized documents -> records, numbered in each shard.

    A record is {'tokens' int32[n], 'first' (tokens of its first segment), 'language', 'shard',
    'block'}, see `Packing.segments`.
    """

    packing: Packing

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
            },
        )

        def split(chunk: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            tokens = tf.RaggedTensor.from_row_lengths(chunk["tokens"], chunk.pop("size"))
            return chunk | {"tokens": tokens}

        return chunks.map(split).unbatch()

    def _records(self, dataset: tf.data.Dataset) -> Iterator[dict[str, Any]]:
        for (language, shard), batches in itertools.groupby(
            _single_shard(dataset), lambda batch: batch[0]
        ):
            records = self.packing.segments((tokenized for _, tokenized in batches), Summary())
            for number, (tokens, first) in enumerate(records):
                place = {"language": language, "shard": shard, "block": number}
                yield {"tokens": tokens, "first": first} | place


def _chunks(records: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Many records at a time, because what enters tf.data costs by the piece."""
    while chunk := list(itertools.islice(records, READ_BATCH)):
        columns = {name: [record[name] for record in chunk] for name in chunk[0]}
        tokens = columns.pop("tokens")
        yield {"tokens": np.concatenate(tokens), "size": [t.size for t in tokens]} | columns


def _single_shard(dataset: tf.data.Dataset) -> Iterator[tuple[tuple[bytes, int], Tokenized]]:
    """((language, shard), documents of it): batches cut where a new shard begins."""
    for batch in dataset.as_numpy_iterator():
        language, shard, lengths = batch["language"], batch["shard"], batch["lengths"]
        changes = (language[1:] != language[:-1]) | (shard[1:] != shard[:-1])
        borders = [0, *(np.flatnonzero(changes) + 1).tolist(), len(shard)]
        ends = np.concatenate(([0], np.cumsum(lengths.sum(axis=1))))
        for start, end in itertools.pairwise(borders):
            tokens, problems = batch["tokens"][ends[start] : ends[end]], batch["problem"]
            yield (
                (language[start], int(shard[start])),
                Tokenized(
                    tokens,
                    lengths[start:end],
                    np.zeros(end - start, np.int64),  # nobody asks
                    [problem.decode() for problem in problems[start:end]],
                ),
            )


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

        return dataset.map(apply, num_parallel_calls=tf.data.AUTOTUNE)


def feature_names(objective: Objective) -> tuple[str, ...]:
    """The features an objective makes."""
    return tuple(objective.lengths(DEFAULT_LENGTH, 0))
