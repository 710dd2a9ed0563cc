"""What every layout of a labelled set is read into, and the names of kinds, heads and splits."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["classification", "tagging", "joint", "generation"]
LabelledSplit = Literal["train", "validation", "test"]
SPLITS: tuple[LabelledSplit, ...] = ("train", "validation", "test")
SOURCE_LANGUAGE = "en"  # what models are fine-tuned on (Soltan et al. 2023, section 3.1)

# What a model predicts of an example: one label of it all, and one of each word.
HEADS: dict[Kind, tuple[str, ...]] = {
    "classification": ("label",),
    "tagging": ("words",),
    "joint": ("label", "words"),
    "generation": (),
}


class Record(NamedTuple):
    """An example as its file has it; what its kind does not use is empty.

    Attributes:
      where: the file and line, or the dataset and number, where it begins.
      texts: a text, or the two of a pair.
      words: a text that is split into words.
      label: of the whole text.
      tags: of the words, as many as there are words.
      targets: texts that are right answers; the first is trained on.
      several: whether `targets` are alternatives, of which there may be one alone.
    """

    where: str
    texts: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    label: str = ""
    tags: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    several: bool = False


def labels_of(record: Record, head: str) -> tuple[str, ...]:
    """The labels that a head has to learn from a record."""
    return (record.label,) if head == "label" else record.tags
