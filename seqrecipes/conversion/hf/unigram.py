"""A unigram tokenizer.json as a SentencePiece model that segments text alike."""

from __future__ import annotations

import base64
import io
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from seqrecipes.conversion.hf import normaliser
from seqrecipes.conversion.hf.normaliser import SPACE
from seqrecipes.conversion.hf.tokenizer import spelled_specials
from seqrecipes.data import pieces

_Piece = ModelProto.SentencePiece
# Unicode's White_Space but the space itself, at which `WhitespaceSplit` cuts, and the sign for it.
_WHITESPACE = [*range(9, 14), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029]
_WHITESPACE += [0x202F, 0x205F, 0x3000, ord(SPACE)]
_PROBES = (
    "One  two, three.",
    "tab\tand\nline",
    "Ａｂｃ ① ﬁ ½ … é",
    "日本語　です。",
    "مرحبا हिन्दी தமிழ்",
    "☃ 🙂",
)
# For tokenizers that compose.
_PARTS = ("e\u0301 a\u0323\u0302 か\u3099 ｶﾞ க\u0bc6\u0bbe", "ﬁ\u0301 â\u0301 a\u0302\u0323")


class Inexpressible(Exception):
    """Part of a tokenizer that SentencePiece has no counterpart of, as words for it."""


def names(tokenizer: dict[str, Any]) -> dict[int, str]:
    """The piece of every id, added tokens included."""
    table = {index: piece for index, (piece, _) in enumerate(tokenizer["model"]["vocab"])}
    return table | {token["id"]: token["content"] for token in tokenizer["added_tokens"]}


def steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """A normaliser, pre-tokeniser or decoder as the list of its steps."""
    if part is None:
        return []
    return part[inner] if part["type"] == "Sequence" else [part]


def to_sentencepiece(tokenizer: dict[str, Any]) -> ModelProto:
    """The model of a tokenizer.json whose ids leave no gap.

    Raises:
      Inexpressible: SentencePiece has nothing like a step of its.
    """
    unk, byte_fallback = tokenizer["model"]["unk_id"], tokenizer["model"].get("byte_fallback")
    if unk != 3:
        raise Inexpressible(f"an unknown piece of id {unk}")
    scores = dict(tokenizer["model"]["vocab"])
    added = {token["content"]: token["special"] for token in tokenizer["added_tokens"]}
    model = ModelProto()
    for _, name in sorted(names(tokenizer).items()):
        piece = model.pieces.add(piece=name, score=scores.get(name, 0.0))
        if name in added:
            piece.type = _Piece.CONTROL if added[name] else _Piece.USER_DEFINED
        elif byte_fallback and re.fullmatch("<0x[0-9A-F]{2}>", name):
            piece.type = _Piece.BYTE
    mark_specials(model)
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.trainer_spec.byte_fallback = bool(byte_fallback)
    _normalise(model, tokenizer)
    return model


def add_specials(model: ModelProto, added: Iterable[str]) -> None:
    """Appends control pieces."""
    for name in added:
        model.pieces.add(piece=name, score=0.0, type=_Piece.CONTROL)


def mark_specials(model: ModelProto) -> None:
    """Makes the pieces of our layout's names special, and says where they are."""
    ends = {
        *pieces.FIRST_PIECES,
        *pieces.last_pieces(pieces.count_sentinels(model.pieces[-1].piece)),
    }
    for piece in model.pieces:
        if piece.piece in ends:
            piece.type = _Piece.UNKNOWN if piece.piece == "<unk>" else _Piece.CONTROL
    trainer = model.trainer_spec
    trainer.bos_id, trainer.pad_id, trainer.eos_id, trainer.unk_id = range(4)
    trainer.bos_piece, trainer.pad_piece, trainer.eos_piece, trainer.unk_piece = pieces.FIRST_PIECES


def difference(path: Path, model: bytes) -> str | None:
    """A text that tokenizer.json and the model segment differently, or None.

    Raises:
      ValueError: the file is no tokenizer after all.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more particular
        raise ValueError(str(error)) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    composes = tokenizer.normalizer is not None and "NFC" in str(tokenizer.normalizer)
    for text in (*_PROBES, *(_PARTS if composes else ())):
        if tokenizer.encode(text, add_special_tokens=False).ids != processor.encode(text):
            return text
    return None


def _normalise(model: ModelProto, tokenizer: dict[str, Any]) -> None:
    """Sets how the model normalises text and marks spaces."""
    spec = model.normalizer_spec
    spec.add_dummy_prefix = spec.remove_extra_whitespaces = False
    spec.escape_whitespaces = True
    spelled = spelled_specials(model)
    composing = normaliser.composing_steps()
    for step in [
        *steps(tokenizer.get("normalizer"), "normalizers"),
        *steps(tokenizer.get("pre_tokenizer"), "pretokenizers"),
    ]:
        match step:
            case _ if step in composing:
                pass  # as the map itself does in SentencePiece; `difference` sees where it does not
            case {"type": "Precompiled", "precompiled_charsmap": str(charsmap)}:
                spec.precompiled_charsmap = base64.b64decode(charsmap)
            case (
                {"type": "Strip"}
                | {"type": "Replace", "pattern": {"Regex": r"\A +|[ ▁]+\z"}, "content": ""}
                | {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " " | "▁"}
            ):
                spec.remove_extra_whitespaces = True
            case {"type": "Prepend", "prepend": "▁"}:
                spec.add_dummy_prefix = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                pass
            case {"type": "WhitespaceSplit"}:
                spec.remove_extra_whitespaces = True
                if not spec.precompiled_charsmap:
                    spec.precompiled_charsmap = _whitespace_charsmap()
            case {"type": "Metaspace", "replacement": "▁"}:
                always = "always" if step.get("add_prefix_space", True) else "never"
                spec.add_dummy_prefix = step.get("prepend_scheme", always) != "never"
            case {"type": "Split", "pattern": {"String": "▁"}, "behavior": "MergedWithNext"}:
                pass
            case {"type": "Split", "pattern": {"Regex": pattern}} if pattern == spelled:
                pass
            case _:
                raise Inexpressible(f"its step {step['type']}")


def _whitespace_charsmap() -> bytes:
    """A character map that makes a space of all whitespace.

    Only training compiles one in all versions of SentencePiece; what is trained on is of no matter.
    """
    trained = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "whitespace.tsv"
        rules.write_text("".join(f"{code:X}\t20\n" for code in _WHITESPACE), "ascii")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a"]),
            model_writer=trained,
            model_type="char",
            vocab_size=5,
            normalization_rule_tsv=str(rules),
            minloglevel=2,
        )
    return ModelProto.FromString(trained.getvalue()).normalizer_spec.precompiled_charsmap
