"""SentencePiece's character map in steps of a tokenizer.json, with the same result.

SentencePiece looks for the longest entry of the map at every character, so that a letter and its
marks become one character where the map says so. tokenizers looks up graphemes of less than six
bytes, by their shortest entry, and single characters otherwise: decomposed kana, Hangul or Tamil
vowels stay as they are, and the mark behind a ligature is lost. Here letters and marks are composed
before the map, by NFC, and the map is kept to single characters. NFC alone composes more than such
a map: it sorts marks first, goes on from letters that were composed in the text, and reaches over
marks that it cannot use. Noncharacters stand between what must not be composed, and are taken out
again.
"""

from __future__ import annotations

import functools
import json
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Regex, normalizers

SPACE = "▁"
# Unicode keeps these for use inside programs.
_WALL, _STEP = "\ufdd0", "\ufdd1"
# Each is one entry of a map that composes.
_COMPOSED = ("e\u0301", "a\u0323\u0302", "か\u3099", "க\u0bc6\u0bbe")
_MARKS = 3  # of a letter, in Greek; each pass composes one
_KANA_MARKS = "\u3099\u309a"


def steps(model: ModelProto) -> list[normalizers.Normalizer]:
    """What a model does to a text before it segments it; spaces come out as "▁".

    Texts come out as SentencePiece has them, but where they hold these two noncharacters, or where
    a map composes some sequences and not others.
    """
    spec = model.normalizer_spec
    found: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        mapped = normalizers.Precompiled(spec.precompiled_charsmap)
        if _composes(model):
            found = [*_composed_before(), _apart(), mapped, *_composed_after()]
        else:
            found = [_apart(), mapped, _whole()]
    if spec.remove_extra_whitespaces:
        found += [_replace(rf"\A +|[ {SPACE}]+\z", ""), _replace(" {2,}", " ")]
    if spec.add_dummy_prefix:
        found.append(normalizers.Prepend(SPACE))
    return [*found, normalizers.Replace(" ", SPACE)]


def composing_steps() -> list[dict[str, Any]]:
    """What stands around a map that composes, as in a tokenizer.json."""
    around = normalizers.Sequence([_apart(), *_composed_before(), *_composed_after(), _whole()])
    return json.loads(around.__getstate__())["normalizers"]


def _apart() -> normalizers.Normalizer:
    """A grapheme of a letter and its marks, or of both signs that end a line, comes apart."""
    return _replace(r"(?=\p{M})|(?<=\r)(?=\n)", _STEP)


def _whole() -> normalizers.Normalizer:
    return _replace(_STEP, "")


def _composed_before() -> list[normalizers.Normalizer]:
    walls = _replace(_walls(), _WALL)
    marks = _classes()[0]
    # One mark after the other, so that none is reached over others.
    one = [_replace(f"(?<=[{marks}])(?=[{marks}])", _STEP), normalizers.NFC(), _whole()]
    return [walls, *(one * _MARKS)]


def _composed_after() -> list[normalizers.Normalizer]:
    """Half-width kana and their marks become whole ones in the map, one by one."""
    kana = _replace(f"{_STEP}(?=[{_KANA_MARKS}])", "")
    return [kana, normalizers.NFC(), _replace(f"[{_STEP}{_WALL}]", "")]


def _replace(pattern: str, content: str) -> normalizers.Normalizer:
    return normalizers.Replace(Regex(pattern), content)


def _composes(model: ModelProto) -> bool:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return all(unicodedata.normalize("NFC", x) in processor.Normalize(x) for x in _COMPOSED)


@functools.cache
def _classes() -> tuple[str, str, str, dict[int, tuple[str, str]]]:
    """Characters, as the insides of brackets.

    Returns:
      marks that Unicode sorts (of a combining class above 0); letters that can be taken apart; what
      they are made of behind their first part; and of the marks that are, {class: (those of the
      class, all marks of higher classes)}.
    """
    classes = {code: unicodedata.combining(chr(code)) for code in range(sys.maxunicode + 1)}
    marks = [code for code, each in classes.items() if each]
    parts = {}
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        apart = unicodedata.normalize("NFD", letter)
        if len(apart) > 1 and unicodedata.normalize("NFC", apart) == letter:
            parts[code] = [ord(part) for part in apart[1:]]
    seconds = {part for each in parts.values() for part in each}
    by_class = {
        level: (
            _brackets(part for part in seconds if classes[part] == level),
            _brackets(mark for mark in marks if classes[mark] > level),
        )
        for level in sorted({classes[part] for part in seconds} - {0})
    }
    return _brackets(marks), _brackets(parts), _brackets(seconds), by_class


def _walls() -> str:
    """Where NFC composes and the map does not.

    Behind a letter that the text has composed, and before a mark that sorts before the last one.
    """
    _, letters, seconds, by_class = _classes()
    return "|".join(
        [
            f"(?=[{seconds}])(?<=[{letters}])",
            *(f"(?=[{these}])(?<=[{higher}])" for these, higher in by_class.values() if higher),
        ]
    )


def _brackets(codes: Iterable[int]) -> str:
    """The inside of a regular expression's brackets."""
    ranges: list[list[int]] = []
    for code in sorted(codes):
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(
        f"\\x{{{first:x}}}" + (f"-\\x{{{last:x}}}" if last > first else "")
        for first, last in ranges
    )


def spellings(text: str) -> list[str]:
    """A text and other ways to write it: marks apart, compatible characters, half-width kana."""
    apart, plain = (unicodedata.normalize(form, text) for form in ("NFD", "NFKD"))
    narrow = apart.translate(_narrow_kana()) if any("ァ" <= each <= "ヾ" for each in text) else text
    return list(dict.fromkeys((text, apart, plain, narrow)))


@functools.cache
def _narrow_kana() -> dict[int, str]:
    wide = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF61, 0xFFA0)}
    return {ord(each): chr(code) for code, each in wide.items() if len(each) == 1}
