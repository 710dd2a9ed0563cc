"""The tokenizer of a Hugging Face model as a vocabulary of ours, or at least what its rows mean.

What SentencePiece can say becomes a SentencePiece model in the layout of `seqrecipes.data.pieces`:
ids stay, and the pieces that it lacks are appended, so a table of theirs is the beginning of one
of ours. Byte-level BPE it cannot say; there the pieces are spelled as SentencePiece would spell
them, so that rows can be matched by piece.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from seqrecipes.conversion.hf import unigram
from seqrecipes.conversion.hf.files import inside
from seqrecipes.data import pieces
from seqrecipes.errors import UserError

# The order of these, and the space for <mask> after them, are fairseq's: mBART's cc25 has the
# first 25, mBART-50 all of them.
# fmt: off
_LANGUAGES = [
    "ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN",
    "it_IT", "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO",
    "ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN", "af_ZA", "az_AZ", "bn_IN", "fa_IR", "he_IL",
    "hr_HR", "id_ID", "ka_GE", "km_KH", "mk_MK", "ml_IN", "mn_MN", "mr_IN", "pl_PL", "ps_AF",
    "pt_XX", "sv_SE", "sw_KE", "ta_IN", "te_IN", "th_TH", "tl_XX", "uk_UA", "ur_PK", "xh_ZA",
    "gl_ES", "sl_SI",
]
# fmt: on
FILES = (pieces.MODEL_NAME, "sentencepiece.bpe.model", "tokenizer.json", "vocab.json")
_REMEDY = "name a SentencePiece model in this project's layout with --vocabulary"


@dataclasses.dataclass(frozen=True)
class Imported:
    """A vocabulary read from a folder.

    Attributes:
      model: a serialised SentencePiece model in the layout of `seqrecipes.data.pieces` whose first
        ids are those of `pieces`; None where SentencePiece cannot say what the tokenizer does.
      pieces: what each row of the folder's table means, "▁" for a space.
    """

    model: bytes | None
    pieces: list[str]


def read_vocabulary(folder: Path, *, sentinels: int = 0) -> Imported:
    """Reads the tokenizer of a folder in a format of Hugging Face.

    Looked for, in this order: `spm.model` (what our export writes; taken as it is),
    `sentencepiece.bpe.model` (XLM-R, InfoXLM, mBART: fairseq's ids), `tokenizer.json` (unigram or
    byte-level BPE), `vocab.json` (byte-level BPE: RoBERTa, BART).

    Args:
      folder: with the model's other files.
      sentinels: the fewest that the vocabulary shall have; appended where it has fewer.

    Raises:
      UserError: there is no such file, it is damaged, its special pieces lie elsewhere than ours,
        or its tokenizer does what neither a SentencePiece model nor byte-level BPE does.
    """
    readers: tuple[Callable[[Path, int], Imported], ...] = (
        _read_ours,
        _read_fairseq,
        _read_tokenizer,
        _read_byte_level,
    )
    for name, read in zip(FILES, readers, strict=True):
        path = inside(folder, name)
        if path.is_file():
            try:
                return read(path, sentinels)
            except UserError:
                raise
            except (
                *(OSError, DecodeError, RuntimeError),
                *(LookupError, TypeError, ValueError, AttributeError),
            ) as error:
                raise refused(path, f"this file is damaged ({error})") from error
    raise refused(folder, f"none of {', '.join(FILES)} is there")


def refused(path: Path, problem: str) -> UserError:
    """The error for a tokenizer that cannot be used."""
    return UserError("tokenizer", str(path), f"{problem}; {_REMEDY}.")


def _read_ours(path: Path, sentinels: int) -> Imported:
    data = path.read_bytes()
    names = pieces.pieces(data)
    _check_layout(path, names)
    if sentinels > pieces.parse(data, str(path)).sentinels:
        return Imported(pieces.complete(ModelProto.FromString(data), sentinels), names)
    return Imported(data, names)


def _read_fairseq(path: Path, sentinels: int) -> Imported:
    """fairseq's first four replace SentencePiece's three; languages and <mask> follow."""
    model = ModelProto.FromString(path.read_bytes())
    for index, name in enumerate(("<unk>", "<s>", "</s>")):
        if model.pieces[index].piece != name:
            raise refused(
                path,
                f"piece {index} is {model.pieces[index].piece!r} where models of fairseq "
                f"have {name!r}",
            )
    ordinary = list(model.pieces[3:])
    names = pieces.FIRST_PIECES + [piece.piece for piece in ordinary]
    names += _after(path.parent, names)
    del model.pieces[:]
    unigram.add_specials(model, pieces.FIRST_PIECES)
    model.pieces.extend(ordinary)
    unigram.add_specials(model, names[len(model.pieces) :])
    return _finished(path, model, sentinels)


def _after(folder: Path, names: list[str]) -> list[str]:
    """What follows the ordinary pieces of a model of fairseq: languages and <mask>.

    Raises:
      UserError: tokenizer.json, which says what every id is, says otherwise.
    """
    count = len(names)
    if (path := folder / "tokenizer.json").is_file():
        table = _rows(path, unigram.names(_json(path)))
        for index, (name, other) in enumerate(zip(names, table, strict=False)):
            if name != other:
                raise refused(
                    folder / "sentencepiece.bpe.model",
                    f"id {index} is {name!r} by fairseq's count, and {other!r} in {path.name}",
                )
        return table[count:]
    config = _json(folder / "tokenizer_config.json")
    added = _added(config) | _json(folder / "added_tokens.json")
    last = {index: name for name, index in added.items() if index >= count}
    if last:
        return _rows(folder / "tokenizer_config.json", last, count)
    listed = config.get("additional_special_tokens") or _json(
        folder / "special_tokens_map.json"
    ).get("additional_special_tokens")
    if listed is None:
        by_class = {"MBartTokenizer": 25, "MBart50Tokenizer": 52}
        languages = by_class.get(str(config.get("tokenizer_class")).removesuffix("Fast"))
        if languages is None:
            others = _json(folder / "config.json").get("vocab_size", 0) - count - 1
            languages = others if others in by_class.values() else 0
        listed = _LANGUAGES[:languages]
    names = [item if isinstance(item, str) else item["content"] for item in listed]
    return [*(name for name in names if name != "<mask>"), "<mask>"]


def _read_tokenizer(path: Path, sentinels: int) -> Imported:
    tokenizer = _json(path)
    kind = tokenizer["model"].get("type")
    if kind == "Unigram":
        rows = _rows(path, unigram.names(tokenizer))
        _check_layout(path, rows)
        try:
            model = unigram.to_sentencepiece(tokenizer)
        except unigram.Inexpressible as error:
            raise refused(path, f"SentencePiece cannot say what {error} does") from error
        imported = _finished(path, model, sentinels)
        assert imported.model is not None
        if (text := unigram.difference(path, imported.model)) is not None:
            raise refused(path, f"SentencePiece would not segment {text!r} as this tokenizer does")
        return imported
    steps = [
        step["type"]
        for part, inner in (("pre_tokenizer", "pretokenizers"), ("decoder", "decoders"))
        for step in unigram.steps(tokenizer.get(part), inner)
    ]
    if kind != "BPE" or "ByteLevel" not in steps:
        raise refused(path, f"a tokenizer of type {kind} is neither unigram nor byte-level BPE")
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return _byte_level(path, tokenizer["model"]["vocab"], added)


def _read_byte_level(path: Path, sentinels: int) -> Imported:
    config = _json(path.parent / "tokenizer_config.json")
    added = _added(config) | _json(path.parent / "added_tokens.json")
    return _byte_level(path, _json(path), added)


def _byte_level(path: Path, vocab: Mapping[str, int], added: Mapping[str, int]) -> Imported:
    """Pieces that are whole characters are spelled as text, the others as bytes."""
    if not vocab:
        raise refused(path, "this file is damaged (it holds no pieces)")
    rows = {index: _spelled(name) for name, index in vocab.items() if name not in added}
    return Imported(None, _rows(path, rows | {index: name for name, index in added.items()}))


def _spelled(name: str) -> str:
    """A piece of byte-level BPE, where a character stands for a byte, as SentencePiece has it."""
    data = bytes(_BYTES[character] for character in name)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "▁"
    # A "▁" of the text itself must not pass for a space.
    return "".join(f"<0x{byte:02X}>" for byte in data) if "▁" in text else text.replace(" ", "▁")


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of byte-level BPE stands for.

    Printable characters of Latin-1 are themselves, the others count upwards from U+0100 (GPT-2,
    Radford et al. 2019, section 2.2).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + index): byte for index, byte in enumerate(others)
    }


_BYTES = _byte_alphabet()


def _finished(path: Path, model: ModelProto, sentinels: int) -> Imported:
    names = [piece.piece for piece in model.pieces]
    _check_layout(path, names)
    unigram.mark_specials(model)
    data = pieces.complete(model, sentinels)
    sentencepiece.SentencePieceProcessor().LoadFromSerializedProto(data)
    return Imported(data, names)


def _check_layout(path: Path, names: list[str]) -> None:
    """Refuses ids that would have to change."""
    for index, name in enumerate(pieces.FIRST_PIECES):
        if names[index] != name:
            raise refused(path, f"id {index} is {names[index]!r}, which must be {name!r}")
    if "<mask>" not in names:
        raise refused(
            path,
            f"it has no '<mask>', which must be the last; id {len(names) - 1} is {names[-1]!r}",
        )
    mask = names.index("<mask>")
    for index, name in enumerate(pieces.last_pieces(len(names))[: len(names) - mask], mask):
        if names[index] != name:
            raise refused(
                path,
                f"id {index} is {names[index]!r}; after '<mask>', which is id {mask}, nothing but "
                "[DOC] and then <sentinel_0> and its like may follow",
            )


def _rows(path: Path, names: Mapping[int, str], start: int = 0) -> list[str]:
    """The names in order of their ids, which leave no gap."""
    for index in range(start, start + len(names)):
        if index not in names:
            raise refused(path, f"no piece has id {index}, though some have higher ids")
    return [names[index] for index in range(start, start + len(names))]


def _added(config: Mapping[str, Any]) -> dict[str, int]:
    """What a tokenizer_config.json says of added tokens."""
    decoder = config.get("added_tokens_decoder", {})
    return {token["content"]: int(index) for index, token in decoder.items()}


def _json(path: Path) -> dict[str, Any]:
    """A file's object; an empty one if there is no such file."""
    if not inside(path.parent, path.name).is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise refused(path, f"this file is damaged ({error})") from error
    if not isinstance(value, dict):
        raise refused(path, "this file is damaged (it holds no JSON object)")
    return value
