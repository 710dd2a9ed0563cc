"""Examples in words: a vocabulary of one token a word, and objectives whose noise is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from seqrecipes.data.objectives.base import Example, Specials, decoder_features
from seqrecipes.inspection.panes import Shown, show
from seqrecipes.inspection.trace import KEPT, MASKED, Place, trace

TEXT = "the river rises in spring when snow melts and all wait for water"
WORDS = TEXT.split()
SPECIALS = Specials(0, 1, 2, 3, mask=90, doc=91, vocab_size=100, sentinels=8)
BOS, EOS, SENTINEL = SPECIALS.bos, SPECIALS.eos, SPECIALS.first_sentinel
NAMES = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", 90: "<mask>", 91: "[DOC]"}


def piece(id_: int) -> str:
    """Ids from 4 on are the words, in order, and the last ones sentinels."""
    if id_ >= SENTINEL:
        return f"<sentinel_{id_ - SENTINEL}>"
    return NAMES.get(id_) or "\u2581" + WORDS[(id_ - 4) % len(WORDS)]


def word_ids(words: str) -> np.ndarray:
    """The ids of words; [DOC] is among them."""
    return np.array([91 if w == "[DOC]" else 4 + WORDS.index(w) for w in words.split()], np.int32)


@dataclasses.dataclass(frozen=True)
class Remove:
    """Removes given spans (start, end) of a record, and has `stand_in` for them in the source.

    Attributes:
      spans: in the tokens of all segments.
      stand_in: '', 'mask' or 'sentinel'; with the last, the target has the spans alone.
    """

    spans: tuple[tuple[int, int], ...]
    stand_in: str = ""

    def __call__(self, *segments: Any) -> Example:
        *segments, _, specials = segments
        mask, sentinel = specials.mask, specials.first_sentinel
        source: list[int] = [] if self.stand_in == "sentinel" else [BOS]
        target, position = list(source), 0
        starts = {start: number for number, (start, _) in enumerate(self.spans)}
        gone = {i for start, end in self.spans for i in range(start, end)}
        for segment in segments:
            for id_ in segment.tolist():
                if position in starts and self.stand_in:
                    number = sentinel + starts[position]
                    source.append(mask if self.stand_in == "mask" else number)
                    target += [number] if self.stand_in == "sentinel" else []
                if position not in gone:
                    source.append(id_)
                if position in gone or self.stand_in != "sentinel":
                    target.append(id_)
                position += 1
            source.append(EOS)
        shifted = np.array([EOS, *target, EOS], np.int32)
        return {"encoder_input_tokens": np.array(source, np.int32)} | decoder_features(shifted)


@dataclasses.dataclass(frozen=True)
class Predict:
    """Has given tokens of a record predicted: position -> MASKED, KEPT, or a random id.

    Attributes:
      fates: by position in the tokens of all segments.
      apart: whether every segment is an input of its own.
    """

    fates: Mapping[int, int]
    apart: bool = False

    def __call__(self, *segments: Any) -> Example:
        *segments, _, specials = segments
        example, position = {}, 0
        names = ["first_", "second_"] if self.apart else [""]
        groups = [[s] for s in segments] if self.apart else [segments]
        for name, group in zip(names, groups, strict=True):
            tokens, positions, targets = [BOS], [], []
            for segment in group:
                for id_ in segment.tolist():
                    fate = self.fates.get(position)
                    if fate is not None:
                        positions.append(len(tokens))
                        targets.append(id_)
                    kept = fate in (None, KEPT)
                    tokens.append(id_ if kept else specials.mask if fate == MASKED else fate)
                    position += 1
                tokens.append(EOS)
            example[f"{name or 'encoder_'}input_tokens"] = np.array(tokens, np.int32)
            example[f"{name}masked_positions"] = np.array(positions, np.int32)
            example[f"{name}masked_targets"] = np.array(targets, np.int32)
        return example


def shown(objective: Any, *words: str, language: str = "en") -> Shown:
    """The example of a record in words, for show."""
    place = Place(language, 2, 5, 7)
    traced = trace(objective, place, tuple(map(word_ids, words)), SPECIALS, seed=0, epoch=0)
    return show(traced, SPECIALS, piece)
