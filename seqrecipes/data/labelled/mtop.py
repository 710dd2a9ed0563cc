"""mTOP as text to text: words stand for themselves in the input, pointers stand for them after.

A parse of mTOP holds words of the utterance. As in CLASP (Rosenbaum et al. 2022), which the Recipes
paper follows (Soltan et al. 2023, section 3.2), the model does not copy a word but names its place,
so that no spelling can be wrong. The surface form is ours: each word of the input follows its
pointer, the literal `w0`, `w1`, ..., and the target has pointers in place of the words:

    w0 Weather w1 in w2 Paris w3 today
    [IN:GET_WEATHER [SL:LOCATION w2 ] [SL:DATE_TIME w3 ] ]

Pointers are ordinary text, so any vocabulary can spell them and a prediction is decoded like any
other. Scores are of the expanded form and do not depend on how pointers look.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from seqrecipes.data.labelled.forms import Form
from seqrecipes.data.labelled.records import Record

_POINTER = re.compile(r"w([0-9]+)")


def point(tokens: Sequence[str]) -> str:
    """('Call', 'Anna') -> 'w0 Call w1 Anna'."""
    return " ".join(f"w{index} {token}" for index, token in enumerate(tokens))


def linearise(tokens: Sequence[str], decoupled: str) -> str:
    """The decoupled form with a pointer in place of every word of the utterance.

    The words between two brackets are a run. Runs are matched from left to right: with the next
    place after the run before where all its words stand side by side and are still unused; else
    with the first such place anywhere; else word by word by the same rule, because the decoupled
    form also joins words that stand apart. A word that is not in the utterance stays as it is.

    ('a', 'b', 'a') with '[IN:X [SL:Y a ] [SL:Z a ] ]' becomes '[IN:X [SL:Y w0 ] [SL:Z w2 ] ]'.

    Args:
      tokens: the words of the utterance.
      decoupled: brackets and words separated by white space; `[IN:...` and `[SL:...` open.
    """
    unused = set(range(len(tokens)))
    pieces: list[str] = []
    run: list[str] = []
    after = 0

    def place(words: Sequence[str]) -> int | None:
        starts = [
            start
            for start in range(len(tokens) - len(words) + 1)
            if list(tokens[start : start + len(words)]) == list(words)
            and unused.issuperset(range(start, start + len(words)))
        ]
        return min(starts, key=lambda start: (start < after, start), default=None)

    def point_to(words: Sequence[str]) -> bool:
        nonlocal after
        start = place(words)
        if start is None:
            return False
        after = start + len(words)
        unused.difference_update(range(start, after))
        pieces.extend(f"w{index}" for index in range(start, after))
        return True

    for leaf in [*decoupled.split(), "]"]:
        if not leaf.startswith(("[IN:", "[SL:")) and leaf != "]":
            run.append(leaf)
            continue
        if run and not point_to(run):
            for word in run:
                if not point_to([word]):
                    pieces.append(word)
        run = []
        pieces.append(leaf)
    return " ".join(pieces[:-1])


def expand(prediction: str, tokens: Sequence[str]) -> str | None:
    """A prediction with the words of the utterance in place of its pointers.

    Returns:
      None if it points past the utterance.
    """
    words = []
    for piece in prediction.replace("]", " ] ").split():
        if match := _POINTER.fullmatch(piece):
            # Python refuses to read numbers of thousands of digits.
            if len(match[1]) > 9 or int(match[1]) >= len(tokens):
                return None
            piece = tokens[int(match[1])]
        words.append(piece)
    return " ".join(words)


def _source(record: Record) -> str:
    return point(record.words)


def _target(record: Record) -> str:
    return linearise(record.words, record.targets[0])


def _finish(prediction: str, words: Sequence[str]) -> str:
    # Wrong whatever was expected, as a pointer to nowhere should be.
    return expand(prediction, words) or ""


POINTERS = Form(_source, _target, _finish)
