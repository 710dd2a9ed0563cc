"""The vocabulary of all tasks, as gin binds it."""

from __future__ import annotations

import gin

from seqrecipes.config.check import check
from seqrecipes.errors import UserError

TRAIN_COMMAND = "python -m seqrecipes.train_vocabulary --corpus=sample --size=2000 --output=DIR"


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
