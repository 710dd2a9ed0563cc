"""What a labelled set is: its records, wherever they lie, and its labels."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Literal, get_args

from seqrecipes.data.labelled.forms import PLAIN, Form
from seqrecipes.data.labelled.layouts import Layout
from seqrecipes.data.labelled.local_files import FolderOfSet, LabelledFiles, field
from seqrecipes.data.labelled.records import (
    HEADS,
    SOURCE_LANGUAGE,
    SPLITS,
    Kind,
    LabelledSplit,
    Record,
    labels_of,
)
from seqrecipes.data.seqio.tfds_sets import LabelledTfds, TfdsSet
from seqrecipes.errors import UserError

log = logging.getLogger(__name__)

OnUnknownLabel = Literal["raise", "wrong"]
MetricFn = Callable[..., Mapping[str, float]]
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LISTED = 30  # so many labels are named in an error


@dataclasses.dataclass(frozen=True)
class LabelledSet:
    """A labelled data set in several languages.

    Its files are looked up at every use, so that gin may say where they lie after it was made.

    Attributes:
      name: of the set, in lower case.
      kind: what is predicted: a label of a text, of each word, both, or a text.
      languages: those it has; of translations, pairs such as en-de.
      layout: reads its files.
      files: names of its files, see `FolderOfSet.templates`.
      metric_fns: score predictions, `f(targets, predictions) -> {name: percent}`.
      tfds: where TFDS has it, if it does.
      form: how its records become texts, if texts are to be generated.
      on_unknown_label: what to do about a label that the English training split lacks: 'raise', or
        never train on it and count whatever is predicted for it as 'wrong'.
    """

    name: str
    kind: Kind
    languages: tuple[str, ...]
    layout: Layout
    files: tuple[str, ...]
    metric_fns: tuple[MetricFn, ...] = ()
    tfds: TfdsSet | None = None
    form: Form = PLAIN
    on_unknown_label: OnUnknownLabel = "raise"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError("LabelledSet.name", self.name, "use small letters, digits and _.")
        choices = {"kind": get_args(Kind), "on_unknown_label": get_args(OnUnknownLabel)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                remedy = f"choose one of {', '.join(known)}."
                raise UserError(f"LabelledSet.{name}", getattr(self, name), remedy)
        if not self.languages or (self.heads and SOURCE_LANGUAGE not in self.languages):
            remedy = f"{self.name} needs {SOURCE_LANGUAGE}, whose training split has the labels."
            raise UserError("LabelledSet.languages", self.languages, remedy)

    @property
    def heads(self) -> tuple[str, ...]:
        """'label' and 'words', as far as the kind has them."""
        return HEADS[self.kind]

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """head -> the labels of the English training split in alphabetical order, 'O' first."""
        if not self.heads:
            return {}
        return dict(_training_labels(self, self.version(SOURCE_LANGUAGE, "train")))

    def splits(self, language: str) -> tuple[LabelledSplit, ...]:
        """The splits that a language has; of TFDS, all, whether they were built or not."""
        self.check_language(language)
        folder = self._folder()
        return SPLITS if folder is None else folder.splits(language)

    def records(self, language: str, split: LabelledSplit) -> tuple[Record, ...]:
        """The records of a split in their order.

        Raises:
          UserError: the language or split is not there, it is empty, or a line does not fit.
        """
        return _records(self, language, split, self.version(language, split))

    def version(self, language: str, split: LabelledSplit) -> Hashable:
        """What changes whenever the records may have changed."""
        self.check_language(language)
        if split not in SPLITS:
            raise UserError("split", split, f"choose one of {', '.join(SPLITS)}.")
        folder = self._folder()
        return LabelledTfds() if folder is None else folder.files(language, split)

    def check_language(self, language: str) -> None:
        """Refuses a language that the set does not have."""
        if language not in self.languages:
            remedy = f"{self.name} has {', '.join(self.languages)}."
            raise UserError("language", language, remedy)

    def _folder(self) -> FolderOfSet | None:
        """Its local files; None where it is read from TFDS."""
        folder = LabelledFiles().of(self.name)
        if folder is not None:
            return FolderOfSet(self.name, folder, self.files)
        if self.tfds is None:
            remedy = (
                f"set it to the folder with the files of {self.name}, such as {self.files[0]} "
                "(see docs/downstream_data.md); TFDS does not have this set."
            )
            raise UserError(field(self.name), None, remedy)
        return None


def check_labels(
    labelled_set: LabelledSet,
    languages: Iterable[str],
    known: Mapping[str, tuple[str, ...]] | None = None,
    splits: Collection[LabelledSplit] = ("validation", "test"),
) -> None:
    """Looks for labels that a model which knows only `known` ones can never predict.

    Nothing is found where the set counts unknown labels as wrong; that is said in the log.

    Args:
      labelled_set: of which.
      languages: of which.
      known: head -> labels; None for those of the set.
      splits: those to look at, as far as a language has them.

    Raises:
      UserError: names the first such label, and its file and language.
    """
    known = labelled_set.labels if known is None else known
    for language in languages:
        for split in labelled_set.splits(language):
            if split not in splits:
                continue
            records = labelled_set.records(language, split)
            check_records(labelled_set, language, split, records, known)


def check_records(
    labelled_set: LabelledSet,
    language: str,
    split: LabelledSplit,
    records: Iterable[Record],
    known: Mapping[str, tuple[str, ...]],
) -> None:
    """As `check_labels`, of the records of one split."""
    counts: dict[str, int] = {}
    for head in labelled_set.heads:
        expected = set(known[head])
        for record in records:
            for label in labels_of(record, head):
                if label in expected:
                    continue
                if labelled_set.on_unknown_label == "raise":
                    raise _unknown(labelled_set, language, split, record, label, known[head])
                counts[label] = counts.get(label, 0) + 1
    if counts:
        log.warning(
            "%s in %s, %s: %d label(s) are of no kind seen in training and count as wrong: %s",
            labelled_set.name,
            language,
            split,
            sum(counts.values()),
            ", ".join(sorted(counts)),
        )


def _unknown(
    labelled_set: LabelledSet,
    language: str,
    split: str,
    record: Record,
    label: str,
    known: tuple[str, ...],
) -> UserError:
    listed = ", ".join([*known[:_LISTED], *(["..."] if known[_LISTED:] else [])])
    return UserError(
        f"{labelled_set.name} in {language}, {split}",
        label,
        f"unknown label in {record.where}; English training has {listed}. Rename it there, or "
        f"count such labels as wrong: on_unknown_label='wrong' for {labelled_set.name} in "
        "tasks/downstream.py.",
    )


@functools.lru_cache(maxsize=4)
def _records(
    labelled_set: LabelledSet, language: str, split: LabelledSplit, version: Hashable
) -> tuple[Record, ...]:
    folder = LabelledFiles().of(labelled_set.name)
    if folder is None:
        assert labelled_set.tfds is not None  # `version` saw to it
        where = labelled_set.tfds.part(language, split).dataset
        log.info("%s in %s, %s: read from TFDS, %s", labelled_set.name, language, split, where)
        records = tuple(labelled_set.tfds.records(labelled_set.name, language, split))
    else:
        files = FolderOfSet(labelled_set.name, folder, labelled_set.files).files(language, split)
        where = " and ".join(str(file.path) for file in files)
        records = tuple(labelled_set.layout(files))
    if not records:
        owner = f"{labelled_set.name} in {language}, {split}"
        raise UserError(owner, where, "there is not a single example in it.")
    return records


@functools.lru_cache(maxsize=16)
def _training_labels(
    labelled_set: LabelledSet, version: Hashable
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    records = labelled_set.records(SOURCE_LANGUAGE, "train")
    found = []
    for head in labelled_set.heads:
        labels = {label for record in records for label in labels_of(record, head)}
        found.append((head, tuple(sorted(labels, key=lambda label: (label != "O", label)))))
    return tuple(found)
