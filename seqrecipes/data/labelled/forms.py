"""How a record to generate from becomes two texts, and a generated text an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from seqrecipes.data import pieces
from seqrecipes.data.labelled.records import Record
from seqrecipes.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Form:
    """Text to text.

    Attributes:
      source: the text that the encoder reads.
      target: the text that the decoder is trained to write.
      finish: (text that it wrote, the example's `inputs`) -> what is compared with its reference.
    """

    source: Callable[[Record], str]
    target: Callable[[Record], str]
    finish: Callable[[str, Any], str]


def _source(record: Record) -> str:
    return record.texts[0]


def _target(record: Record) -> str:
    return record.targets[0]


def _finish(prediction: str, inputs: Any) -> str:
    return prediction


PLAIN = Form(_source, _target, _finish)


def decode(vocabulary: Vocabulary, ids: np.ndarray) -> str:
    """The text of generated ids: `pieces.decode`."""
    return pieces.decode(vocabulary.tokenizer, vocabulary.specials, ids)
