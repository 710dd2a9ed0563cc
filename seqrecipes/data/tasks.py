"""Pre-training tasks: a corpus under an objective, declared to seqio.

A task runs source -> tokenize -> pack -> (cache) -> denoise. The training loader takes the packed
blocks and the objective from the registered task and adds random access; reading the same task
through seqio gives the same examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import gin
import seqio
import tensorflow as tf

from seqrecipes.data.corpora import Corpus, Split
from seqrecipes.data.objectives import Objective
from seqrecipes.data.preprocessors import (
    DEFAULT_LENGTH,
    READ_BATCH,
    Denoise,
    Pack,
    Record,
    Tokenize,
    feature_names,
)
from seqrecipes.data.vocabulary import TRAIN_COMMAND, Vocabulary
from seqrecipes.errors import UserError


@gin.configurable
def pretraining_vocabulary(path: str | None = None) -> str:
    """The path of the vocabulary of all pre-training tasks, bound in gin."""
    if path is None:
        raise UserError(
            "pretraining_vocabulary.path",
            path,
            f"set it to the path of a spm.model; `{TRAIN_COMMAND}` trains one.",
        )
    return path


class CorpusSource(seqio.DataSource):
    """A corpus as a seqio source of {'text', 'language'}, one language a shard.

    Args:
      corpus: makes the corpus. It is called at every use and not before, so that gin bindings are
        read after the task was registered.
    """

    def __init__(self, corpus: Callable[[], Corpus]):
        super().__init__(splits=("train", "validation"))
        self._make_corpus = corpus
        self.error: UserError | None = None  # the last one that tf.data turned into text

    @property
    def corpus(self) -> Corpus:
        """The corpus as configured now."""
        return self._make_corpus()

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False: packing needs whole languages."""
        return False

    def list_shards(self, split: str) -> tuple[str, ...]:
        """The languages."""
        return self.corpus.languages

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        *,
        sequence_length: Mapping[str, int] | None = None,
        use_cached: bool = False,
        num_epochs: int | None = 1,
    ) -> tf.data.Dataset:
        """Documents language by language, in the corpus' order (packed blocks get shuffled)."""
        corpus = self.corpus
        languages = corpus.languages
        if shard_info is not None:
            languages = languages[shard_info.index :: shard_info.num_shards]

        def read() -> Iterator[Record]:
            try:
                for language in languages:
                    documents = corpus.documents(language, cast(Split, split))
                    while texts := list(itertools.islice(documents, READ_BATCH)):
                        yield {"text": texts, "language": [language] * len(texts)}
            except UserError as error:
                self.error = error
                raise

        strings = tf.TensorSpec([None], tf.string)
        batches = tf.data.Dataset.from_generator(
            read, output_signature={"text": strings, "language": strings}
        )
        return batches.prefetch(4).unbatch()


class PretrainingTask(seqio.Task):
    """A seqio task made of a corpus and an objective.

    It behaves as any task does. `get_dataset` packs to the longest feature of `sequence_length`,
    and `seed` fixes the noise (none means 0).

    Args:
      name: `<corpus>.<objective>`.
      corpus: makes the corpus, see `CorpusSource`.
      objective: corrupts a block.
      vocabulary: tokenizes.
    """

    def __init__(
        self,
        name: str,
        corpus: Callable[[], Corpus],
        objective: Objective,
        vocabulary: Vocabulary,
    ):
        self.objective, self.vocabulary = objective, vocabulary
        super().__init__(name, **self._arguments(CorpusSource(corpus), DEFAULT_LENGTH - 2, 0))

    def get_dataset(
        self,
        sequence_length: Mapping[str, int] | None = None,
        split: str = "train",
        use_cached: bool = False,
        shuffle: bool = True,
        shuffle_buffer_size: int | None = None,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        num_epochs: int | None = 1,
        trim_output_features: bool = True,
        try_in_mem_cache: bool = True,
    ) -> tf.data.Dataset:
        """See `seqio.Task.get_dataset`; yields unpadded int32 features."""
        length = max(sequence_length.values()) if sequence_length else DEFAULT_LENGTH
        task = seqio.Task(self.name, **self._arguments(self.source, length - 2, seed or 0))
        return task.get_dataset(
            sequence_length,
            split,
            use_cached,
            shuffle,
            shuffle_buffer_size,
            seed,
            shard_info,
            num_epochs,
            trim_output_features,
            try_in_mem_cache,
        )

    def packed_blocks(self, split: str, payload: int) -> Iterator[Record]:
        """The part before the cache: what `Pack` makes, as NumPy values.

        Raises:
          UserError: what the corpus has to say, freed from the wrapping of tf.data.
        """
        task = seqio.Task(self.name, **self._arguments(self.source, payload, 0))
        dataset = task.preprocess_precache(task.source.get_dataset(split, shuffle=False))
        self.source.error = None
        try:
            yield from dataset.as_numpy_iterator()
        except tf.errors.OpError as error:
            raise (self.source.error or error) from None

    def _arguments(self, source: CorpusSource, payload: int, seed: int) -> dict[str, Any]:
        return {
            "source": source,
            "preprocessors": [
                Tokenize(self.vocabulary),
                Pack(self.vocabulary, payload),
                seqio.CacheDatasetPlaceholder(required=False),
                Denoise(self.objective, self.vocabulary, seed),
            ],
            "output_features": {
                name: seqio.Feature(self.vocabulary, add_eos=False)
                for name in feature_names(self.objective)
            },
        }


def register_tasks(
    corpora: Mapping[str, Callable[[], Corpus]], objectives: Mapping[str, Objective]
) -> None:
    """Registers `<corpus>.<objective>` for every pair; all use `pretraining_vocabulary`."""
    vocabulary = Vocabulary(pretraining_vocabulary)
    for corpus, make_corpus in corpora.items():
        for objective, function in objectives.items():
            name = f"{corpus}.{objective}"
            task = PretrainingTask(name, make_corpus, function, vocabulary)
            seqio.TaskRegistry.add_provider(name, task)


def get_task(corpus: str, objective: str) -> PretrainingTask:
    """The registered task `<corpus>.<objective>`.

    Raises:
      UserError: it is not registered; lists what is.
    """
    known = [
        name
        for name in seqio.TaskRegistry.names()
        if isinstance(seqio.TaskRegistry.get(name), PretrainingTask)
    ]
    if f"{corpus}.{objective}" in known:
        return seqio.TaskRegistry.get(f"{corpus}.{objective}")
    corpora = sorted({name.partition(".")[0] for name in known})
    objectives = sorted({name.partition(".")[2] for name in known})
    if corpus not in corpora:
        raise UserError("corpus", corpus, f"choose one of {', '.join(corpora)}.")
    raise UserError("objective", objective, f"choose one of {', '.join(objectives)}.")
