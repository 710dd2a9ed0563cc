"""Pre-training tasks as seqio's: source -> tokenize -> pack -> (cache) -> denoise.

Reading a task through seqio gives the examples that training sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import seqio
import tensorflow as tf

from seqrecipes.data.corpora.corpus import SPLITS, BadRecord, Split, batches
from seqrecipes.data.seqio.preprocessors import Denoise, Pack, Tokenize, feature_names
from seqrecipes.data.seqio.vocabulary import SeqioVocabulary
from seqrecipes.data.tasks import PretrainingTask


class CorpusSource(seqio.DataSource):
    """The corpus of a task as a seqio source of {'text', 'language', 'shard', 'problem'}.

    An element is several documents: every feature is a vector, and `text` string[documents], or
    string[documents, 2] of pairs of translations. `problem` is empty, or says why a record was
    skipped, in whose place `text` is empty. Elements are bounded in documents and in characters.
    """

    def __init__(self, task: PretrainingTask):
        super().__init__(splits=SPLITS)
        self._task = task

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False: documents are packed in whole shards."""
        return False

    def list_shards(self, split: str) -> tuple[str, ...]:
        """The shards of all languages, as `de-00003`."""
        return tuple(f"{language}-{shard:05d}" for language, shard in self._task.shards(split))

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
        shards = self._task.shards(split)
        if shard_info is not None:
            shards = shards[shard_info.index :: shard_info.num_shards]
        corpus = self._task.corpus
        nothing = ("", "") if corpus.parallel else ""

        def read() -> Iterator[dict[str, Any]]:
            for language, shard in shards:
                for batch in batches(corpus.documents(language, cast(Split, split), shard)):
                    bad = [d if isinstance(d, BadRecord) else None for d in batch]
                    yield {
                        "text": [nothing if b else d for d, b in zip(batch, bad, strict=True)],
                        "problem": [str(b) if b else "" for b in bad],
                        "language": [language] * len(batch),
                        "shard": [shard] * len(batch),
                    }

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


class SeqioTask(seqio.Task):
    """A declared task for seqio; it behaves as any task does.

    `get_dataset` packs for the longest feature of `sequence_length`, and `seed` fixes the noise
    (none means 0).
    """

    def __init__(self, task: PretrainingTask):
        self.task = task
        super().__init__(task.name, **self._arguments(task.packing.payload, 0))

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
        payload = self.task.packing.payload
        if sequence_length:
            payload = self.task.objective.payload(max(sequence_length.values()))
        return seqio.Task(self.name, **self._arguments(payload, seed or 0)).get_dataset(
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

    def _arguments(self, payload: int, seed: int) -> dict[str, Any]:
        objective, vocabulary = self.task.objective, self.task.vocabulary
        feature = seqio.Feature(SeqioVocabulary(vocabulary), add_eos=False)
        preprocessors: Sequence[Any] = [
            Tokenize(vocabulary),
            Pack(dataclasses.replace(self.task.packing, payload=payload)),
            seqio.CacheDatasetPlaceholder(required=False),
            Denoise(objective, vocabulary, seed),
        ]
        return {
            "source": CorpusSource(self.task),
            "preprocessors": preprocessors,
            "output_features": dict.fromkeys(feature_names(objective), feature),
        }


def register(tasks: Iterable[PretrainingTask]) -> None:
    """Puts declared tasks into seqio's registry, but for those that it has."""
    for task in tasks:
        if task.name not in seqio.TaskRegistry.names():
            seqio.TaskRegistry.add_provider(task.name, SeqioTask(task))
