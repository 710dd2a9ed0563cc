"""The steps of a pre-training task: tokenize, pack and denoise, from dataset to dataset."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from seqrecipes.data.objectives import Objective, example_index, generator
from seqrecipes.data.packing import pack
from seqrecipes.data.vocabulary import Vocabulary
from seqrecipes.errors import UserError

DEFAULT_LENGTH = 512
READ_BATCH = 256

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """{'text', 'language'} -> {'tokens' int32[n], 'language', 'characters' int32}."""

    vocabulary: Vocabulary

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """A text of 5 characters becomes {'tokens': [17, 8], 'characters': 5, ...}."""
        tokenizer = self.vocabulary.tokenizer

        # SentencePiece's own encoder is several times faster than its TensorFlow operation.
        def encode(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            ids = tokenizer.encode([text.decode() for text in texts])
            lengths = np.array([len(document) for document in ids], np.int64)
            return np.fromiter(itertools.chain.from_iterable(ids), np.int32), lengths

        def tokenize(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            ids, lengths = tf.numpy_function(encode, [batch["text"]], [tf.int32, tf.int64])
            return {
                "tokens": tf.RaggedTensor.from_row_lengths(
                    tf.ensure_shape(ids, [None]), tf.ensure_shape(lengths, [None])
                ),
                "language": batch["language"],
                "characters": tf.strings.length(batch["text"], unit="UTF8_CHAR"),
            }

        batches = dataset.batch(READ_BATCH)
        return batches.map(tokenize, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


@dataclasses.dataclass(frozen=True)
class Pack:
    """Documents -> blocks of `payload` tokens, numbered in each language.

    See `seqrecipes.data.packing.pack`. Every block also says how many documents, of these how many
    without tokens, and how many characters were read since the block before it.
    """

    vocabulary: Vocabulary
    payload: int = DEFAULT_LENGTH - 2

    def __post_init__(self) -> None:
        if self.payload < 1:
            raise UserError("sequence_length", self.payload + 2, "choose 3 or more tokens.")

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Documents [[10, 11], [20]] become {'tokens': [10, 11, DOC, 20], 'block': 0, ...}."""
        number = tf.TensorSpec([], tf.int64)
        return tf.data.Dataset.from_generator(
            lambda: self._blocks(dataset),
            output_signature={
                "tokens": tf.TensorSpec([None], tf.int32),
                "language": tf.TensorSpec([], tf.string),
                "block": number,
                "documents": number,
                "empty_documents": number,
                "characters": number,
            },
        )

    def _blocks(self, dataset: tf.data.Dataset) -> Iterator[Record]:
        for language, documents in itertools.groupby(_documents(dataset), lambda d: d.language):
            # A block is held back until the next one is there, so that whatever is read after the
            # last full block is still counted.
            read, held = _Read(), None
            blocks = pack(read.tokens(documents), self.payload, self.vocabulary.doc_id)
            for number, tokens in enumerate(blocks):
                if held is not None:
                    yield held
                held = {"tokens": tokens, "language": language, "block": number} | read.take()
            if held is not None:
                for name, count in read.take().items():
                    held[name] += count
                yield held


@dataclasses.dataclass
class _Read:
    """Counts what passes."""

    documents: int = 0
    empty_documents: int = 0
    characters: int = 0

    def tokens(self, documents: Iterator[_Document]) -> Iterator[np.ndarray]:
        for document in documents:
            self.documents += 1
            self.empty_documents += not document.tokens.size
            self.characters += document.characters
            yield document.tokens

    def take(self) -> dict[str, int]:
        counts = dataclasses.asdict(self)
        self.documents = self.empty_documents = self.characters = 0
        return counts


class _Document(NamedTuple):
    language: bytes
    tokens: np.ndarray
    characters: int


def _documents(dataset: tf.data.Dataset) -> Iterator[_Document]:
    """The documents, fetched many at a time because each fetch costs much."""
    for batch in dataset.ragged_batch(READ_BATCH).prefetch(4):
        ids, ends = batch["tokens"].values.numpy(), batch["tokens"].row_splits.numpy()[1:]
        languages, characters = batch["language"].numpy(), batch["characters"].numpy()
        start = 0
        for language, end, count in zip(languages, ends, characters.tolist(), strict=True):
            yield _Document(language, ids[start:end], count)
            start = end


@dataclasses.dataclass(frozen=True)
class Denoise:
    """Blocks -> examples of an objective; noise is fixed by (seed, epoch 0, language, block)."""

    objective: Objective
    vocabulary: Vocabulary
    seed: int = 0

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """See the objective for arrays before and after."""
        names = list(feature_names(self.objective))
        specials = self.vocabulary.specials

        def denoise(tokens: np.ndarray, language: bytes, block: int) -> list[np.ndarray]:
            uniform = generator(self.seed, 0, example_index(language.decode(), int(block)))
            example = self.objective(tokens, uniform, specials)
            return [example[name] for name in names]

        def apply(block: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            arrays = tf.numpy_function(
                denoise,
                [block["tokens"], block["language"], block["block"]],
                [tf.int32] * len(names),
            )
            return {name: tf.ensure_shape(a, [None]) for name, a in zip(names, arrays, strict=True)}

        return dataset.map(apply, num_parallel_calls=tf.data.AUTOTUNE)


def feature_names(objective: Objective) -> tuple[str, ...]:
    """The features an objective makes."""
    return tuple(objective.lengths(DEFAULT_LENGTH, 0))
