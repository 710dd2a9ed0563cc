"""Readers of the layouts in which labelled sets are published: files -> records.

A reader takes the files of one language and split (one file; two for translations) and yields
records in their order. Nothing is guessed or skipped: a line that does not fit is an error that
names file and line, what stands there and what is expected.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from seqrecipes.data.corpora.corpus import BadRecord
from seqrecipes.data.corpora.lines import CutOff, File, read_lines
from seqrecipes.data.labelled.records import Record
from seqrecipes.errors import UserError

Layout = Callable[[tuple[File, ...]], Iterator[Record]]
_MAX_LINE_BYTES = 1 << 30
_UNSEEN = ("Cc", "Cf", "Zl", "Zp")  # control and format characters, separators of lines


def word_lines(files: tuple[File, ...]) -> Iterator[Record]:
    """A word a line, `word<TAB>tag`, and a blank line after each sentence.

    The lines "Anna<TAB>B-PER", "ruft<TAB>O" and "" make words ('Anna', 'ruft') and tags
    ('B-PER', 'O').
    """
    (file,) = files
    words: list[str] = []
    tags: list[str] = []
    start = 0
    for number, line in itertools.chain(_lines(file), [(0, "")]):
        if line.strip():
            word, tag = _fields(file, number, line, ("word", "tag"))
            if not word or not tag.strip():
                _refuse(file, number, "has an empty field", "a word, a tab and its tag")
            start = start if words else number
            words.append(word)
            tags.append(_label(file, number, tag))
        elif words:
            yield Record(f"{file.path}:{start}", words=tuple(words), tags=tuple(tags))
            words, tags = [], []


def pair_lines(files: tuple[File, ...]) -> Iterator[Record]:
    """A pair a line, `premise<TAB>hypothesis<TAB>label`; the first line may be a header.

    A header has `label` or `gold_label` as its third field.
    """
    (file,) = files
    columns = ("premise", "hypothesis", "label")
    for number, line in _lines(file):
        first, second, label = _fields(file, number, line, columns)
        if number == 1 and label.lower() in ("label", "gold_label"):
            continue
        if not label.strip():
            _refuse(file, number, "has no label", "premise, hypothesis and label")
        label = _label(file, number, label)
        yield Record(f"{file.path}:{number}", texts=(first, second), label=label)


def slot_lines(files: tuple[File, ...]) -> Iterator[Record]:
    """MultiATIS++ (Xu et al. 2020): `id<TAB>utterance<TAB>slot_labels<TAB>intent`.

    Words and their BIO labels are separated by spaces, one label a word. The first line may be a
    header, with `intent` as its last field.
    """
    (file,) = files
    columns = ("id", "utterance", "slot_labels", "intent")
    for number, line in _lines(file):
        _, utterance, slots, intent = _fields(file, number, line, columns)
        if number == 1 and intent.lower() == "intent":
            continue
        words, tags = _spaced(utterance), _spaced(slots)
        if len(words) != len(tags) or not words:
            found = f"has {len(words)} word(s) and {len(tags)} slot label(s)"
            _refuse(file, number, found, "words separated by spaces and a label of each")
        if not intent.strip():
            _refuse(file, number, "has no intent", "an intent in the last field")
        for label in (*tags, intent):
            _label(file, number, label)
        yield Record(f"{file.path}:{number}", words=words, tags=tags, label=intent)


def parse_lines(files: tuple[File, ...]) -> Iterator[Record]:
    """mTOP (Li et al. 2021): eight fields separated by tabs, without a header.

    They are id, intent, slots, utterance, domain, locale, the decoupled form and JSON with the
    list `tokens`. The decoupled form is what is to be generated.
    """
    (file,) = files
    columns = (
        "id",
        "intent",
        "slots",
        "utterance",
        "domain",
        "locale",
        "decoupled form",
        "tokens (JSON)",
    )
    for number, line in _lines(file):
        fields = _fields(file, number, line, columns)
        tokens = _json(file, number, fields[7]).get("tokens")
        if not tokens or not _are_texts(tokens):
            _refuse(file, number, "has no list of tokens", 'JSON such as {"tokens": ["Call"]}')
        if not fields[6].startswith("["):
            found = f"has {fields[6]!r} as its decoupled form"
            _refuse(file, number, found, "a form such as [IN:CREATE_CALL ]")
        intent = _label(file, number, fields[1])
        yield Record(
            f"{file.path}:{number}", words=tuple(tokens), label=intent, targets=(fields[6],)
        )


def summary_lines(files: tuple[File, ...]) -> Iterator[Record]:
    """A JSON object a line: `document`, and `summary` (a string) or `summaries` (a list of them).

    Of several summaries the first is trained on, and all are right answers.
    """
    (file,) = files
    for number, line in _lines(file):
        fields = _json(file, number, line)
        document: Any = fields.get("document")
        several = "summaries" in fields
        summaries: Any = fields["summaries"] if several else [fields.get("summary")]
        if not _are_texts([document]) or not _are_texts(summaries) or not summaries:
            found = f"has the fields {', '.join(sorted(fields)) or 'none'}"
            expected = "the strings document and summary, or a list of strings summaries"
            _refuse(file, number, found, expected)
        yield Record(
            f"{file.path}:{number}",
            texts=(document,),
            targets=tuple(summaries),
            several=several,
        )


def aligned_lines(files: tuple[File, ...]) -> Iterator[Record]:
    """Two files of as many lines: each line of the second translates that of the first."""
    source, target = files
    for one, two in itertools.zip_longest(_lines(source), _lines(target)):
        if one is None or two is None:
            short, number = (source, two[0]) if two else (target, one[0])
            other = target if short is source else source
            remedy = f"ends before line {number} of {other.path}; they are to match line by line."
            raise UserError(short.field, str(short.path), remedy)
        yield Record(f"{source.path}:{one[0]}", texts=(one[1].strip(),), targets=(two[1].strip(),))


def _lines(file: File) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, from 1, without their ends."""
    try:
        for number, line in enumerate(read_lines(file, _MAX_LINE_BYTES), start=1):
            if isinstance(line, BadRecord):
                raise line.error()
            yield number, line.rstrip("\r\n")
    except CutOff as cut:
        raise cut.record.error() from cut


def _fields(file: File, number: int, line: str, columns: tuple[str, ...]) -> list[str]:
    fields = line.split("\t")
    if len(fields) != len(columns):
        found = f"has {len(fields)} field(s) separated by tabs"
        _refuse(file, number, found, f"{len(columns)}: {', '.join(columns)}")
    return fields


def _label(file: File, number: int, label: str) -> str:
    """The label, unless what nobody sees makes it another one than it looks like."""
    seen = "".join(c for c in label if unicodedata.category(c) not in _UNSEEN).strip()
    if seen != label:
        _refuse(file, number, f"has the label {label!r}", f"{seen!r}, nothing invisible around it")
    return label


def _spaced(text: str) -> tuple[str, ...]:
    # Of all white space, the space alone: a word may hold a no-break space.
    return tuple(word for word in text.split(" ") if word)


def _json(file: File, number: int, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        _refuse(file, number, f"is not valid JSON ({error})", "a JSON object")
    if not isinstance(value, dict):
        _refuse(file, number, f"holds a JSON {type(value).__name__}", "a JSON object")
    return value


def _are_texts(values: Any) -> bool:
    """Whether this is a list of strings that have an encoding; JSON may spell half a character."""
    try:
        return isinstance(values, list) and all(text.encode() is not None for text in values)
    except (AttributeError, UnicodeEncodeError):
        return False


def _refuse(file: File, number: int, found: str, expected: str) -> NoReturn:
    raise file.bad_line(number, f"{found}; expected {expected}").error()
