"""Labelled sets as seqio tasks and mixtures.

The task `<set>.<language>` is a set in one language (`udpos.de`; of translations `ntrex.en_de`,
because seqio allows no hyphen). The mixture `<set>` is all languages of a set, each as often as the
others, and `<set>.zero_shot` all but English.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import seqio
import tensorflow as tf

from seqrecipes.config.vocabulary import pretraining_vocabulary
from seqrecipes.data.labelled.encoding import Encoder, feature_lengths, feature_names
from seqrecipes.data.labelled.records import SOURCE_LANGUAGE, SPLITS, LabelledSplit, Record
from seqrecipes.data.labelled.sets import LabelledSet, check_records
from seqrecipes.data.seqio.vocabulary import SeqioVocabulary
from seqrecipes.data.vocabulary import Vocabulary

_STRINGS = ("inputs_pretokenized", "targets_pretokenized")


class LabelledSource(seqio.DataSource):
    """A set in one language as a seqio source of {'record': JSON}."""

    def __init__(self, labelled_set: LabelledSet, language: str):
        super().__init__(splits=SPLITS)
        self._set, self._language = labelled_set, language

    @property
    def splits(self) -> Sequence[str]:
        """See `LabelledSet.splits`.

        Raises:
          UserError: there is none.
        """
        splits = self._set.splits(self._language)
        if not splits:
            self._set.version(self._language, "test")  # says what is missing
        return splits

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False: a split is one shard."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """A split is one shard."""
        return (split,)

    def num_input_examples(self, split: str) -> int:
        """How many examples a split has."""
        return len(self._records(split))

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
    ) -> tf.data.Dataset:
        """The records in their order (the task shuffles examples)."""
        # Here and not in the generator, where TensorFlow would turn errors into text.
        records = self._records(split)
        check_records(
            self._set, self._language, cast(LabelledSplit, split), records, self._set.labels
        )
        return tf.data.Dataset.from_generator(
            lambda: ({"record": json.dumps(record)} for record in records),
            output_signature={"record": tf.TensorSpec([], tf.string)},
        )

    def _records(self, split: str) -> tuple[Record, ...]:
        return self._set.records(self._language, cast(LabelledSplit, split))


@dataclasses.dataclass(frozen=True)
class Encode:
    """{'record': JSON} -> features, and what people read and metrics compare as JSON strings."""

    labelled_set: LabelledSet
    vocabulary: Vocabulary
    sequence_length: Mapping[str, int] | None = None  # seqio fills it in

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Features are padded to `sequence_length`, see `feature_lengths`; or not at all."""
        kind = self.labelled_set.kind
        lengths = feature_lengths(kind, self.sequence_length) if self.sequence_length else None
        encoder = Encoder(
            kind, self.vocabulary, self.labelled_set.labels, self.labelled_set.form, lengths
        )

        def examples() -> Iterator[dict[str, Any]]:
            for example in encoder(_record(e["record"]) for e in dataset.as_numpy_iterator()):
                texts = (json.dumps(x, ensure_ascii=False) for x in example[1:3])
                yield example.features | dict(zip(_STRINGS, texts, strict=True))

        features = {
            name: tf.TensorSpec([None if lengths is None else lengths[name]], tf.int32)
            for name in feature_names(kind)
        }
        strings = dict.fromkeys(_STRINGS, tf.TensorSpec([], tf.string))
        return tf.data.Dataset.from_generator(examples, output_signature=features | strings)


class LabelledTask(seqio.Task):
    """A set in one language.

    Its examples have, besides the features of `encoding`, JSON strings: what people read as
    `inputs_pretokenized`, and what metrics compare as `targets_pretokenized`.
    """

    def __init__(self, labelled_set: LabelledSet, language: str, vocabulary: Vocabulary):
        self.labelled_set, self.language = labelled_set, language
        tokens, numbers = SeqioVocabulary(vocabulary), seqio.PassThroughVocabulary(size=0)
        super().__init__(
            task_name(labelled_set, language),
            source=LabelledSource(labelled_set, language),
            preprocessors=[Encode(labelled_set, vocabulary)],
            output_features={
                name: seqio.Feature(tokens if name.endswith("_tokens") else numbers, add_eos=False)
                for name in feature_names(labelled_set.kind)
            },
            postprocess_fn=_postprocess,
            metric_fns=list(labelled_set.metric_fns),
        )


def register(sets: Iterable[LabelledSet]) -> None:
    """Puts the tasks and mixtures of sets into seqio's registries, but for those that they have."""
    vocabulary = Vocabulary(pretraining_vocabulary)
    for labelled_set in sets:
        if labelled_set.name in seqio.MixtureRegistry.names():
            continue
        names = {}
        for language in labelled_set.languages:
            task = LabelledTask(labelled_set, language, vocabulary)
            names[language] = task.name
            seqio.TaskRegistry.add_provider(task.name, task)
        seqio.MixtureRegistry.add(labelled_set.name, list(names.values()), default_rate=1.0)
        others = [name for language, name in names.items() if language != SOURCE_LANGUAGE]
        if others and SOURCE_LANGUAGE in names:
            name = f"{labelled_set.name}.zero_shot"
            seqio.MixtureRegistry.add(name, others, default_rate=1.0)


def task_name(labelled_set: LabelledSet, language: str) -> str:
    """The name of the task of a language."""
    return f"{labelled_set.name}.{language.replace('-', '_')}"


def _record(stored: bytes) -> Record:
    fields = (tuple(x) if isinstance(x, list) else x for x in json.loads(stored))
    return Record._make(fields)


def _postprocess(output: Any, example: Mapping[str, Any], is_target: bool) -> Any:
    """A prediction as it is; a target as metrics compare it."""
    return json.loads(example["targets_pretokenized"]) if is_target else output
