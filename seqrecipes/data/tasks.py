"""Pre-training tasks: a corpus under an objective, declared to seqio.

A task runs source -> tokenize -> pack -> (cache) -> denoise. The training loader takes the packed
blocks and the objective from the registered task and adds random access; reading the same task
through seqio gives the same examples.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import seqio
import tensorflow as tf

from seqrecipes.config.vocabulary import pretraining_vocabulary
from seqrecipes.data.corpora.corpus import SPLITS, BadRecord, Corpus, Split, batches
from seqrecipes.data.objectives.base import Objective
from seqrecipes.data.preprocessors import (
    DEFAULT_LENGTH,
    READ_BATCH,
    Denoise,
    Pack,
    Record,
    Tokenize,
    feature_names,
)
from seqrecipes.data.vocabulary import Vocabulary
from seqrecipes.errors import UserError
from seqrecipes.folders import CLONE


class CorpusSource(seqio.DataSource):
    """A corpus as a seqio source of {'text', 'language', 'shard', 'problem'}.

    An element is several documents: every feature is a vector, and `text` string[documents], or
    string[documents, 2] of pairs of translations. `problem` is empty, or says why a record was
    skipped, in whose place `text` is empty. Elements are bounded in documents and in characters.

    Args:
      corpus: makes the corpus. It is called at every use and not before, so that gin bindings are
        read after the task was registered.
    """

    def __init__(self, corpus: Callable[[], Corpus]):
        super().__init__(splits=SPLITS)
        self._make_corpus = corpus
        self.error: UserError | None = None  # the last one that tf.data turned into text

    @property
    def corpus(self) -> Corpus:
        """The corpus as configured now."""
        return self._make_corpus()

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False: documents are packed in whole shards."""
        return False

    def list_shards(self, split: str) -> tuple[str, ...]:
        """The shards of all languages, as `de-00003`."""
        return tuple(f"{language}-{shard:05d}" for language, shard in self.shards(split))

    def shards(self, split: str) -> list[tuple[str, int]]:
        """(language, shard of it), in the order of `list_shards`."""
        corpus = self.corpus
        return [
            (language, shard)
            for language in corpus.languages
            for shard in range(corpus.shards(language, cast(Split, split)))
        ]

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
        """Documents shard by shard, in the corpus' order (packed records get shuffled)."""
        shards = self.shards(split)
        if shard_info is not None:
            shards = shards[shard_info.index :: shard_info.num_shards]
        return self.documents(split, shards)

    def documents(self, split: str, shards: Sequence[tuple[str, int]]) -> tf.data.Dataset:
        """The documents of some (language, shard)."""
        corpus = self.corpus
        nothing = ("", "") if corpus.parallel else ""

        def read() -> Iterator[Record]:
            try:
                for language, shard in shards:
                    for batch in batches(corpus.documents(language, cast(Split, split), shard)):
                        bad = [d if isinstance(d, BadRecord) else None for d in batch]
                        yield {
                            "text": [nothing if b else d for d, b in zip(batch, bad, strict=True)],
                            "problem": [f"{b.where}: {b.problem}" if b else "" for b in bad],
                            "language": [language] * len(batch),
                            "shard": [shard] * len(batch),
                        }
            except UserError as error:
                self.error = error
                raise

        strings, numbers = tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.int64)
        texts = tf.TensorSpec([None, 2], tf.string) if corpus.parallel else strings
        return tf.data.Dataset.from_generator(
            read,
            output_signature={
                "text": texts,
                "problem": strings,
                "language": strings,
                "shard": numbers,
            },
        )


class PretrainingTask(seqio.Task):
    """A seqio task made of a corpus and an objective.

    It behaves as any task does. `get_dataset` packs for the longest feature of `sequence_length`,
    and `seed` fixes the noise (none means 0).

    Args:
      name: `<corpus>.<objective>`.
      corpus: makes the corpus, see `CorpusSource`.
      objective: corrupts a record.
      vocabulary: tokenizes.
      payload: the most tokens of a segment; None for what fits sequences of 512.
      join_pairs: whether consecutive pairs are put together, see `packing.join_pairs`.
    """

    def __init__(
        self,
        name: str,
        corpus: Callable[[], Corpus],
        objective: Objective,
        vocabulary: Vocabulary,
        payload: int | None = None,
        join_pairs: bool = False,
    ):
        self.objective, self.vocabulary, self.join_pairs = objective, vocabulary, join_pairs
        self.payload = objective.payload(DEFAULT_LENGTH) if payload is None else payload
        super().__init__(name, **self._arguments(CorpusSource(corpus), self.payload, 0))

    def sized(self, name: str, payload: int) -> PretrainingTask:
        """The same task under another name, with another payload, on the corpus as it is now."""
        corpus = self.source.corpus
        return PretrainingTask(
            name, lambda: corpus, self.objective, self.vocabulary, payload, self.join_pairs
        )

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
        payload = self.payload
        if sequence_length:
            payload = self.objective.payload(max(sequence_length.values()))
        task = seqio.Task(self.name, **self._arguments(self.source, payload, seed or 0))
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

    def records(self, split: str, shards: Sequence[tuple[str, int]]) -> Iterator[Record]:
        """What `Pack` makes of some (language, shard), one after the other, as NumPy values.

        Raises:
          UserError: what the corpus has to say, freed from the wrapping of tf.data.
        """
        dataset = self.preprocess_precache(self.source.documents(split, shards))
        self.source.error = None
        try:
            # Many at a time, because each fetch costs much.
            for batch in dataset.ragged_batch(READ_BATCH):
                tokens, ends = batch["tokens"].values.numpy(), batch["tokens"].row_splits.numpy()
                columns = {n: v.numpy() for n, v in batch.items() if n != "tokens"}
                for i, (start, end) in enumerate(itertools.pairwise(ends)):
                    yield {"tokens": tokens[start:end]} | {n: v[i] for n, v in columns.items()}
        except tf.errors.OpError as error:
            raise (self.source.error or error) from None

    def _arguments(self, source: CorpusSource, payload: int, seed: int) -> dict[str, Any]:
        objective, vocabulary = self.objective, self.vocabulary
        return {
            "source": source,
            "preprocessors": [
                Tokenize(vocabulary),
                Pack(vocabulary, objective.reads, payload, self.join_pairs),
                seqio.CacheDatasetPlaceholder(required=False),
                Denoise(objective, vocabulary, seed),
            ],
            "output_features": {
                name: seqio.Feature(vocabulary, add_eos=False) for name in feature_names(objective)
            },
        }


def register_tasks(
    texts: Mapping[str, Callable[[], Corpus]],
    translations: Mapping[str, Callable[[], Corpus]],
    objectives: Mapping[str, Objective],
    join_pairs: bool = False,
) -> None:
    """Registers `<corpus>.<objective>` for every corpus and the objectives that can read it.

    Args:
      texts: name -> what makes a corpus of texts.
      translations: name -> what makes a corpus of pairs of translations.
      objectives: name -> objective; those that read translations get the second kind of corpus.
      join_pairs: whether consecutive pairs are put together, see `packing.join_pairs`.
    """
    vocabulary = Vocabulary(pretraining_vocabulary)
    for objective, function in objectives.items():
        corpora = translations if function.reads == "translations" else texts
        for corpus, make_corpus in corpora.items():
            name = f"{corpus}.{objective}"
            task = PretrainingTask(name, make_corpus, function, vocabulary, join_pairs=join_pairs)
            seqio.TaskRegistry.add_provider(name, task)


def import_tasks(module: str, field: str) -> None:
    """Imports the module that registers the tasks; `field` is the setting that names it.

    Raises:
      UserError: there is no such module, or it registers nothing.
    """
    before = set(seqio.TaskRegistry.names())
    if str(CLONE) not in sys.path:
        sys.path.append(str(CLONE))  # for `tasks`, from whatever folder a command is given
    try:
        imported = importlib.import_module(module)
    except (ImportError, ValueError, TypeError) as error:  # the last two of '' and of '.tasks'
        raise UserError(field, module, f"{error}; name a module such as tasks.pretrain") from error
    # A module that was imported before adds nothing now.
    registers = {"register_tasks", "register_sets"} & vars(imported).keys()
    if not registers and set(seqio.TaskRegistry.names()) == before:
        raise UserError(
            field, module, "registers no tasks; see tasks/pretrain.py for one that does"
        )


def known_tasks() -> dict[str, dict[str, PretrainingTask]]:
    """corpus -> objective -> task, of all that `register_tasks` registered."""
    tasks: dict[str, dict[str, PretrainingTask]] = {}
    for name in seqio.TaskRegistry.names():
        task = seqio.TaskRegistry.get(name)
        if isinstance(task, PretrainingTask) and name.count(".") == 1:
            corpus, objective = name.split(".")
            tasks.setdefault(corpus, {})[objective] = task
    return tasks


def get_task(corpus: str, objective: str) -> PretrainingTask:
    """The registered task `<corpus>.<objective>`.

    Raises:
      UserError: it is not registered; lists what is.
    """
    tasks = known_tasks()
    if corpus not in tasks:
        raise UserError("corpus", corpus, f"choose one of {', '.join(sorted(tasks))}.")
    if objective not in tasks[corpus]:
        known = ", ".join(sorted(tasks[corpus]))
        raise UserError("objective", objective, f"corpus {corpus} has {known}.")
    return tasks[corpus][objective]
