"""The examples of a set in memory, for fine-tuning and scoring."""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np

from seqrecipes.data.labelled.encoding import Encoder, feature_lengths
from seqrecipes.data.labelled.records import LabelledSplit
from seqrecipes.data.labelled.registry import get_set
from seqrecipes.data.labelled.sets import LabelledSet, check_records
from seqrecipes.data.vocabulary import Vocabulary

log = logging.getLogger(__name__)

# What of an example does not reach the model, by the flag of `Encoded`.
_PROBLEMS = {
    "input_cut": "inputs are too long and cut",
    "target_cut": "texts to generate are too long and cut",
    "unspellable": "texts to generate have characters that the vocabulary lacks",
}


class Examples(NamedTuple):
    """N examples in the order of their files.

    Attributes:
      features: int32 [N, length] arrays, read-only; see `encoding`.
      inputs: what a person reads: texts, lists of words, or lists of the two texts of a pair.
      references: what metrics compare with: labels, lists of the tags of all words, {'intent',
        'tags'}, texts, or lists of texts any of which is right.
    """

    features: dict[str, np.ndarray]
    inputs: list[Any]
    references: list[Any]


def read(
    name: str,
    language: str,
    split: LabelledSplit,
    *,
    lengths: Mapping[str, int],
    vocabulary: Vocabulary,
    labels: Mapping[str, tuple[str, ...]] | None = None,
) -> Examples:
    """All examples of a split, the same as those of its seqio task; kept in memory.

    Args:
      name: of a registered set.
      language: of it, or pair of languages.
      split: of it.
      lengths: of the features, see `encoding.feature_lengths`.
      vocabulary: tokenizes.
      labels: head -> labels, in the order of their indices; None for those of the set.

    Raises:
      UserError: what was asked for is not there, is empty or damaged, has labels that are not among
        `labels` (see `LabelledSet.on_unknown_label`), or the lengths do not suit its kind.
    """
    labelled_set = get_set(name)
    labelled_set.check_language(language)
    sizes = feature_lengths(labelled_set.kind, lengths)
    version = labelled_set.version(language, split)
    known = labelled_set.labels if labels is None else labels
    return _examples(
        labelled_set,
        language,
        split,
        tuple(sizes.items()),
        tuple((head, tuple(known[head])) for head in labelled_set.heads),
        _Same(vocabulary),
        version,
    )


class _Same:
    """A vocabulary as a key: two are the same that have the same file content."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary, self._checksum = vocabulary, vocabulary.checksum

    def __hash__(self) -> int:
        return hash(self._checksum)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._checksum == other._checksum


@functools.lru_cache(maxsize=64)
def _examples(
    labelled_set: LabelledSet,
    language: str,
    split: LabelledSplit,
    lengths: tuple[tuple[str, int], ...],
    labels: tuple[tuple[str, tuple[str, ...]], ...],
    same: _Same,
    version: Hashable,
) -> Examples:
    records = labelled_set.records(language, split)
    known = dict(labels)
    check_records(labelled_set, language, split, records, known)
    encoder = Encoder(labelled_set.kind, same.vocabulary, known, labelled_set.form, dict(lengths))
    features = {name: np.empty((len(records), length), np.int32) for name, length in lengths}
    inputs, references = [], []
    counts = dict.fromkeys(_PROBLEMS, 0)
    for row, example in enumerate(encoder(records)):
        for name, values in features.items():
            values[row] = example.features[name]
        inputs.append(example.input)
        references.append(example.reference)
        for flag in _PROBLEMS:
            counts[flag] += getattr(example, flag)
    for values in features.values():
        values.setflags(write=False)
    for flag, problem in _PROBLEMS.items():
        if count := counts[flag]:
            owner = f"{labelled_set.name} in {language}, {split}"
            log.warning("%s: %d of %d %s", owner, count, len(records), problem)
    return Examples(features, inputs, references)
