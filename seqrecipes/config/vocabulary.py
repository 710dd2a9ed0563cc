"""The vocabulary of all tasks, as gin binds it, and how one may be trained."""

from __future__ import annotations

from typing import Literal

import gin

from seqrecipes.config.check import check
from seqrecipes.errors import UserError

TRAIN_COMMAND = "python -m seqrecipes.train_vocabulary --corpus=sample --size=2000 --output=DIR"

# Rules of SentencePiece; the first is its nmt_nfkc with ZWNJ and ZWJ kept inside of words.
Normalization = Literal[
    "nmt_nfkc_joiners", "nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"
]


@gin.configurable
def pretraining_vocabulary(path: str | None = None) -> str:
    """The path of the vocabulary of all pre-training tasks.

    Raises:
      UserError: none is bound.
    """
    field = "pretraining_vocabulary.path"
    check(path, str | None, field)
    if not path:
        remedy = f"set it to the path of a spm.model; `{TRAIN_COMMAND}` trains one."
        raise UserError(field, path, remedy)
    return path
