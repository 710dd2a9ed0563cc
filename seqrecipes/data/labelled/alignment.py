"""Words and their pieces: where in the encoder's input each word begins.

A model labels a word at its first sub-word (Soltan et al. 2023, appendix C). Not every word has
one: some have no pieces, because normalisation leaves nothing of them (a zero-width space alone),
and some lie behind the end of a sentence that is too long. Such words keep their places: they have
position 0, which is that of <s>, and whatever is expected of them counts as missed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import sentencepiece

from seqrecipes.data.objectives.base import Specials

NO_POSITION = 0
NO_LABEL = -1
OUTSIDE = "O"  # predicted where nothing can be


class Aligned(NamedTuple):
    """A sentence for the encoder.

    Attributes:
      tokens: <s>, the pieces and </s>.
      positions: of each word the index of its first piece in `tokens`, or 0.
      cut: whether pieces were left out.
    """

    tokens: list[int]
    positions: list[int]
    cut: bool


def word_pieces(
    tokenizer: sentencepiece.SentencePieceProcessor, sentences: Sequence[Sequence[str]]
) -> Iterator[list[list[int]]]:
    """The pieces of every word of every sentence, [sentence][word][piece].

    A word is tokenised as SentencePiece does one that follows a space: a mark for that comes first.
    So are the words of languages that write none between them, whose sets split the text.
    """
    pieces = iter(encode_all(tokenizer, itertools.chain.from_iterable(sentences)))
    for sentence in sentences:
        yield list(itertools.islice(pieces, len(sentence)))


def encode_all(
    tokenizer: sentencepiece.SentencePieceProcessor, texts: Iterable[str]
) -> list[list[int]]:
    """The pieces of every text; many at a time cost much less."""
    return tokenizer.encode(list(texts))


def align(words: Sequence[Sequence[int]], length: int | None, specials: Specials) -> Aligned:
    """Words of some pieces each -> the encoder's input.

    Words [[7, 8], [], [9]] make tokens [<s>, 7, 8, 9, </s>] and positions [1, 0, 3]; at length 4,
    tokens [<s>, 7, 8, </s>] and positions [1, 0, 0].

    Args:
      words: the pieces of each.
      length: the most tokens, <s> and </s> among them; None for any number.
      specials: ids.
    """
    pieces = list(itertools.chain.from_iterable(words))
    kept = len(pieces) if length is None else min(len(pieces), length - 2)
    starts = itertools.accumulate((len(word) for word in words), initial=0)
    positions = [
        start + 1 if word and start < kept else NO_POSITION
        for start, word in zip(starts, words, strict=False)
    ]
    tokens = [specials.bos, *pieces[:kept], specials.eos]
    return Aligned(tokens, positions, kept < len(pieces))


def pair(
    first: Sequence[int], second: Sequence[int], length: int | None, specials: Specials
) -> tuple[list[int], bool]:
    """<s> first </s> </s> second </s>, and whether pieces were left out.

    What is too much is taken from the end of the longer text, until both are as long.
    """
    kept_first, kept_second = len(first), len(second)
    if length is not None:
        room = length - 4
        kept_second = min(len(second), max(room // 2, room - len(first)))
        kept_first = min(len(first), room - kept_second)
    eos = specials.eos
    tokens = [specials.bos, *first[:kept_first], eos, eos, *second[:kept_second], eos]
    return tokens, (kept_first, kept_second) != (len(first), len(second))


def word_tags(
    predicted: np.ndarray, positions: np.ndarray, words: int, labels: Sequence[str]
) -> list[str]:
    """A tag for every word of a sentence, in the words of the labels.

    Args:
      predicted: int[W], the label of each word.
      positions: int[W], as in the feature `word_positions`.
      words: how many the sentence has, possibly more than W.
      labels: what the numbers stand for.

    Returns:
      as many tags as words: 'O' where a word has no position.
    """
    tags = [
        labels[label] if position != NO_POSITION else OUTSIDE
        for label, position in zip(predicted[:words], positions[:words], strict=True)
    ]
    return tags + [OUTSIDE] * (words - len(tags))
