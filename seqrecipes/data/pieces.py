"""What a vocabulary's pieces are: the layout of its ids, and reading a SentencePiece model.

<s>, <pad>, </s> and <unk> are ids 0 to 3, as in XLM-R and its descendants; <mask>, [DOC] and then
any number of sentinels, <sentinel_0> upwards, are the last ones. All but <unk> are control pieces,
which no text is ever tokenised to. Nothing here needs TensorFlow: training a vocabulary and reading
text with it is `seqrecipes.data.vocabulary`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from seqrecipes.config.vocabulary import TRAIN_COMMAND
from seqrecipes.data.objectives.base import Specials
from seqrecipes.errors import UserError

MODEL_NAME = "spm.model"
FIRST_PIECES = ["<s>", "<pad>", "</s>", "<unk>"]


class Model(NamedTuple):
    """A SentencePiece model in the layout above: its processor, its file and what ends it."""

    tokenizer: sentencepiece.SentencePieceProcessor
    data: bytes
    sentinels: int


def last_pieces(sentinels: int) -> list[str]:
    """The pieces that end a vocabulary."""
    return ["<mask>", "[DOC]", *(f"<sentinel_{k}>" for k in range(sentinels))]


def count_sentinels(last: str) -> int:
    """How many sentinels a vocabulary has whose last piece is this one."""
    highest = re.fullmatch(r"<sentinel_(\d{1,9})>", last)
    return int(highest.group(1)) + 1 if highest else 0


def complete(model: sentencepiece_model_pb2.ModelProto, sentinels: int) -> bytes:
    """Appends what it lacks of the pieces that end a vocabulary; returns the model's file.

    Args:
      model: changed in place; ids that it has stay.
      sentinels: the fewest the vocabulary shall have; any that are there are kept.
    """
    present = count_sentinels(model.pieces[-1].piece) if model.pieces else 0
    wanted = last_pieces(max(sentinels, present))
    kept = next(
        count
        for count in range(len(wanted), -1, -1)
        if [piece.piece for piece in model.pieces[len(model.pieces) - count :]] == wanted[:count]
    )
    control = sentencepiece_model_pb2.ModelProto.SentencePiece.CONTROL
    for piece in wanted[kept:]:
        model.pieces.add(piece=piece, score=0.0, type=control)
    model.trainer_spec.vocab_size = len(model.pieces)
    return model.SerializeToString(deterministic=True)


def parse(data: bytes, name: str) -> Model:
    """The model of a file's bytes.

    Args:
      data: a serialised SentencePiece model.
      name: what to call it in an error.

    Raises:
      UserError: this is no SentencePiece model, or none in the layout above.
    """
    tokenizer = sentencepiece.SentencePieceProcessor()
    try:
        tokenizer.LoadFromSerializedProto(data)
        size = tokenizer.GetPieceSize()
        last = tokenizer.IdToPiece(size - 1) if size else ""
    except RuntimeError as error:
        raise _unusable(name, "this is not a SentencePiece model") from error
    sentinels = count_sentinels(last)
    added = 2 + sentinels
    ids = [*range(4), *range(size - added, size)] if size > 4 + added else []
    if (
        not ids
        or [tokenizer.IdToPiece(i) for i in ids] != FIRST_PIECES + last_pieces(sentinels)
        or not all(tokenizer.IsControl(i) for i in ids if i != 3)
    ):
        raise _unusable(
            name,
            "this SentencePiece model lacks the layout <s>, <pad>, </s>, <unk> first and <mask>, "
            "[DOC], then sentinels if any, last",
        )
    return Model(tokenizer, data, sentinels)


def load(path: str) -> Model:
    """The model at a path; read again only when the file has changed.

    Raises:
      UserError: as `parse`, or the file cannot be read.
    """
    with contextlib.suppress(OSError):
        stat = os.stat(path)
        return _load_version(path, stat.st_mtime_ns, stat.st_size)
    raise _unusable(path, "the file cannot be read")


def decode(
    tokenizer: sentencepiece.SentencePieceProcessor, specials: Specials, ids: np.ndarray
) -> str:
    """The text of generated ids: up to the first </s>, without special ones, <unk> among them.

    Args:
      tokenizer: that the ids are of.
      specials: its special ids.
      ids: int[n], as the decoder predicts them: <s>, text, </s>; anything may follow.
    """
    ids = np.asarray(ids, np.int32)
    ends = np.flatnonzero(ids == specials.eos)
    ids = ids[: ends[0]] if ends.size else ids
    return tokenizer.decode(ids[specials.is_ordinary(ids)].tolist()).strip()


def pieces(data: bytes) -> list[str]:
    """What every id of a serialised SentencePiece model stands for."""
    return [piece.piece for piece in sentencepiece_model_pb2.ModelProto.FromString(data).pieces]


def specials(model: Model) -> Specials:
    """The ids of the special pieces."""
    size, sentinels = model.tokenizer.GetPieceSize(), model.sentinels
    mask = size - sentinels - 2
    return Specials(0, 1, 2, 3, mask, mask + 1, vocab_size=size, sentinels=sentinels)


def checksum(data: bytes) -> str:
    """sha256 of a model's file, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@functools.lru_cache(maxsize=8)
def _load_version(path: str, mtime_ns: int, size: int) -> Model:
    return parse(Path(path).read_bytes(), path)


def _unusable(name: str, problem: str) -> UserError:
    return UserError("vocabulary", name, f"{problem}; train one with `{TRAIN_COMMAND}`.")
