"""A SentencePiece model as the files that `AutoTokenizer` reads, with the same ids.

The normaliser spells out what SentencePiece does to a text (`normaliser.py`): its character map,
spaces at the ends go, repeated ones become one, the text begins with "▁", and every other space is
written so. Special pieces are special tokens: literal "<mask>" in a text becomes the special id, as
fill-mask needs it, unless the tokenizer is called with `split_special_tokens=True`, when it is
characters as in training.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import tokenizers
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors

from seqrecipes.config.vocabulary import TRAIN_COMMAND
from seqrecipes.conversion.hf import normaliser
from seqrecipes.conversion.hf.normaliser import SPACE
from seqrecipes.data import pieces
from seqrecipes.errors import UserError

_NAMED = {  # what each piece is called in the configuration
    "bos_token": "<s>",
    "cls_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
_Piece = ModelProto.SentencePiece


def write_tokenizer(model: bytes, folder: Path, *, max_length: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json, and the model itself as spm.model.

    Every piece keeps its id. Texts get the ids that SentencePiece gives them but for one cause that
    no tokenizer.json can mend: SentencePiece rounds the score of what it has read so far to float32
    where tokenizers keeps float64, so that of two segmentations that are all but equal the other
    one may win.

    Args:
      model: a unigram model in the layout of `seqrecipes.data.pieces`.
      folder: exists already.
      max_length: the most tokens of a sequence, special ones included.

    Raises:
      UserError: the model is of another kind, or does what a tokenizer.json cannot say.
    """
    pieces.parse(model, pieces.MODEL_NAME)
    proto = ModelProto.FromString(model)
    _check(proto)
    tokenizer = _tokenizer(proto)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_NAMED,
        "additional_special_tokens": [
            piece for piece in _specials(proto) if piece not in _NAMED.values()
        ],
        "model_max_length": max_length,
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", "utf-8")
    (folder / pieces.MODEL_NAME).write_bytes(model)


def spelled_specials(model: ModelProto) -> str:
    """The pattern of the places to cut a text that spells a piece which no text may become.

    tokenizers looks for all pieces of its table in a text, SentencePiece for ordinary ones alone.
    The cut is before the character that matches, where possible one that no ordinary piece and no
    run of unknown characters reaches over, so that it changes nothing else.
    """
    ordinary = {p.piece for p in model.pieces if p.type in (_Piece.NORMAL, _Piece.USER_DEFINED)}
    joined = {name[i : i + 2] for name in ordinary for i in range(len(name) - 1)}
    places: dict[tuple[str, str], list[str]] = {}
    for piece in model.pieces:
        name = piece.piece
        if len(name) > 1 and piece.type in (_Piece.CONTROL, _Piece.UNKNOWN, _Piece.BYTE):
            cut = next(
                (
                    i
                    for i in range(1, len(name))
                    if name[i - 1 : i + 1] not in joined and ordinary & set(name[i - 1 : i + 1])
                ),
                1,
            )
            before, at, after = name[:cut], name[cut], name[cut + 1 :]
            places.setdefault((before, at), []).append(re.escape(after))
    return "|".join(
        f"(?<={re.escape(before)}){re.escape(at)}(?={'|'.join(after)})"
        for (before, at), after in places.items()
    )


def _tokenizer(proto: ModelProto) -> tokenizers.Tokenizer:
    normalizer, trainer = proto.normalizer_spec, proto.trainer_spec
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.Unigram(_scores(proto), unk_id=3, byte_fallback=trainer.byte_fallback)
    )
    tokenizer.normalizer = normalizers.Sequence(normaliser.steps(proto))
    cuts = [pre_tokenizers.Split(Regex(spelled_specials(proto)), "merged_with_next")]
    # Words are segmented on their own, and remembered, where no piece can reach over a space.
    names = {piece.piece for piece in proto.pieces}
    if SPACE in names and not any(SPACE in name[1:] for name in names):
        cuts.insert(0, pre_tokenizers.Split(SPACE, "merged_with_next"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            *([decoders.ByteFallback()] if trainer.byte_fallback else []),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if normalizer.add_dummy_prefix else []),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens(
        [AddedToken(name, lstrip=name == "<mask>", normalized=False) for name in _specials(proto)]
    )
    return tokenizer


def _scores(proto: ModelProto) -> list[tuple[str, float]]:
    """Pieces with their scores, log probabilities.

    SentencePiece prefers user-defined pieces to all others, whatever score the file gives them.
    """
    return [
        (piece.piece, 0.0 if piece.type == _Piece.USER_DEFINED else piece.score)
        for piece in proto.pieces
    ]


def _specials(proto: ModelProto) -> list[str]:
    kinds = (_Piece.CONTROL, _Piece.UNKNOWN)
    return [piece.piece for piece in proto.pieces if piece.type in kinds]


def _check(proto: ModelProto) -> None:
    """Refuses what a tokenizer.json cannot say."""
    normalizer, trainer = proto.normalizer_spec, proto.trainer_spec
    if trainer.model_type != trainer.UNIGRAM:
        kind = trainer.ModelType.Name(trainer.model_type).lower()
        raise _inexpressible(f"its type is {kind}")
    if trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
        raise _inexpressible("it does not write spaces as ▁ before words")
    charsmap = normalizer.precompiled_charsmap
    mapped = normalizers.Sequence([normalizers.Precompiled(charsmap)] if charsmap else [])
    for index, piece in enumerate(proto.pieces):
        text = piece.piece.replace(SPACE, " ")
        if piece.type == _Piece.UNUSED:
            raise _inexpressible(f"piece {index}, {piece.piece!r}, is marked as unused")
        if piece.type == _Piece.USER_DEFINED and mapped.normalize_str(text) != text:
            raise _inexpressible(
                f"piece {index}, {piece.piece!r}, is user-defined, and text is normalised to "
                f"{mapped.normalize_str(text)!r} there"
            )


def _inexpressible(problem: str) -> UserError:
    return UserError(
        "vocabulary",
        pieces.MODEL_NAME,
        f"{problem}, which no tokenizer.json can say; export a model with a unigram vocabulary, "
        f"such as `{TRAIN_COMMAND}` trains.",
    )
