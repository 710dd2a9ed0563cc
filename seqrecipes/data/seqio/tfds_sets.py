"""Labelled sets that TensorFlow Datasets (TFDS) prepared.

As with text (`tfds_text`), nothing is downloaded here: what is not there is an error that
says how to build it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import gin

from seqrecipes.config.check import check_fields
from seqrecipes.data.labelled.records import SOURCE_LANGUAGE, LabelledSplit, Record
from seqrecipes.data.seqio.tfds_text import open_builder
from seqrecipes.errors import UserError

Example = Mapping[str, Any]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class LabelledTfds:
    """Where TFDS datasets lie.

    Attributes:
      data_dir: the folder; TFDS' own (`TFDS_DATA_DIR`, or else ~/tensorflow_datasets) if None.
    """

    data_dir: str | None = None

    def __post_init__(self) -> None:
        check_fields(self)


class Part(NamedTuple):
    """A split of a dataset: `name`, `name/config` or `name/config:version`, and the split."""

    dataset: str
    split: str


@dataclasses.dataclass(frozen=True)
class TfdsSet:
    """A set in TFDS.

    Attributes:
      part: (language, split) -> where that is.
      record: (example as NumPy, the dataset's features, where, language) -> record.
    """

    part: Callable[[str, LabelledSplit], Part]
    record: Callable[[Example, Any, str, str], Record]

    def records(self, name: str, language: str, split: LabelledSplit) -> Iterator[Record]:
        """The records in their order.

        Raises:
          UserError: the dataset is not there, or has no such split.
        """
        part = self.part(language, split)
        field = f"{name}[{language!r}]"
        builder = open_builder("LabelledTfds", field, part.dataset, LabelledTfds().data_dir)
        if part.split not in builder.info.splits:
            known = ", ".join(sorted(builder.info.splits)) or "none"
            remedy = f"it has no split {part.split!r}; its splits: {known}."
            raise UserError(field, part.dataset, remedy)
        import tensorflow_datasets as tfds

        dataset = builder.as_dataset(split=part.split, shuffle_files=False)
        for number, example in enumerate(tfds.as_numpy(dataset)):
            where = f"{builder.info.full_name}:{part.split}[{number}]"
            yield self.record(example, builder.info.features, where, language)


def _xnli_part(language: str, split: LabelledSplit) -> Part:
    if split != "train":
        return Part("xnli:1.1.0", split)
    # English training text is MultiNLI; XTREME has machine translations of it.
    name = "multi_nli:1.1.0" if language == SOURCE_LANGUAGE else "xtreme_xnli:1.1.0"
    return Part(name, "train")


def _xnli_record(example: Example, features: Any, where: str, language: str) -> Record:
    premise, hypothesis = example["premise"], example["hypothesis"]
    if isinstance(premise, Mapping):  # in all languages
        premise = premise[language]
        languages = [name.decode() for name in hypothesis["language"]]
        hypothesis = hypothesis["translation"][languages.index(language)]
    label = features["label"].int2str(example["label"])
    return Record(where, texts=(premise.decode(), hypothesis.decode()), label=label)


def _panx_part(language: str, split: LabelledSplit) -> Part:
    return Part(f"wikiann/{language}:1.0.0", split)


def _udpos_part(language: str, split: LabelledSplit) -> Part:
    # TFDS has the two mixed up: its `ta` reads the treebanks of Tagalog, its `tl` those of Tamil.
    name = {"ta": "tl", "tl": "ta"}.get(language, language)
    return Part(f"xtreme_pos/xtreme_pos_{name}:1.0.0", "dev" if split == "validation" else split)


def _tagged(tags: str) -> Callable[[Example, Any, str, str], Record]:
    """What reads words and the feature `tags` of them."""

    def record(example: Example, features: Any, where: str, language: str) -> Record:
        words = tuple(word.decode() for word in example["tokens"])
        names = features[tags].feature
        return Record(where, words=words, tags=tuple(names.int2str(i) for i in example[tags]))

    return record


def _xsum_part(language: str, split: LabelledSplit) -> Part:
    return Part("xsum:1.1.0", split)


def _xsum_record(example: Example, features: Any, where: str, language: str) -> Record:
    document, summary = example["document"].decode(), example["summary"].decode()
    return Record(where, texts=(document,), targets=(summary,))


XNLI = TfdsSet(_xnli_part, _xnli_record)
WIKIANN = TfdsSet(_panx_part, _tagged("tags"))
XTREME_POS = TfdsSet(_udpos_part, _tagged("upos"))
XSUM = TfdsSet(_xsum_part, _xsum_record)
