"""Examples as a person reads them: source and target side by side, every token with its role."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np

from seqrecipes.data.objectives.base import Specials
from seqrecipes.inspection.trace import ADDED, KEPT, MASKED, RANDOM, SOURCE, TARGET, Masking, Trace

# plain: as it was; special: <s>, </s>, [DOC], <unk>; mask and sentinel: in place of what is gone;
# masked, random, kept: to be predicted, by fate; removed: in the target, gone from the source.
Role = Literal["plain", "special", "mask", "sentinel", "masked", "random", "kept", "removed"]
_FATES: dict[int, Role] = {MASKED: "masked", RANDOM: "random", KEPT: "kept"}
SPACE = "\u2581"  # how SentencePiece writes a space


@dataclasses.dataclass(frozen=True)
class Token:
    """A token on show.

    Attributes:
      text: its piece, with spaces as such.
      id: in the example; -1 for a sample of a mark.
      role: what the objective did to it.
      group: number of the span that it belongs to or stands for, if any.
      segment: number of its segment in the record.
      gap: number of a span that was removed in front of it without a trace, if any.
      was: the text in whose place it stands, if another.
    """

    text: str
    id: int
    role: Role
    group: int | None = None
    segment: int = 0
    gap: int | None = None
    was: str = ""

    def goes_on(self, before: Token) -> bool:
        """Whether it is shown in one with the token before it."""
        alone = self.role in ("special", "mask", "sentinel") or self.gap is not None
        same = (self.role, self.group, self.segment) == (before.role, before.group, before.segment)
        return same and not alone


@dataclasses.dataclass(frozen=True)
class Pane:
    """A text with its title."""

    title: str
    tokens: list[Token]

    def runs(self) -> Iterator[list[Token]]:
        """The tokens, those together that are shown in one."""
        run: list[Token] = []
        for token in self.tokens:
            if run and not token.goes_on(run[-1]):
                yield run
                run = []
            run.append(token)
        if run:
            yield run

    @property
    def right_to_left(self) -> bool:
        """Whether it has letters of a script that runs to the left."""
        return any(unicodedata.bidirectional(c) in ("R", "AL") for t in self.tokens for c in t.text)


@dataclasses.dataclass(frozen=True)
class Shown:
    """An example on show.

    Attributes:
      trace: the example.
      rows: left and right panes: what a model reads, and what it is to say.
    """

    trace: Trace
    rows: list[tuple[Pane, Pane]]

    @property
    def languages(self) -> list[str]:
        """The language of each segment."""
        name, segments = self.trace.place.language, len(self.trace.ends)
        return name.split("-") if name.count("-") + 1 == segments else [name] * segments

    @property
    def heading(self) -> str:
        """Which record it is, and what was done to it."""
        place, sizes = self.trace.place, np.diff(self.trace.ends, prepend=0).tolist()
        noise, spans = int(np.count_nonzero(self.trace.is_noise)), len(self.trace.spans)
        removed = f"removed in {spans} span{'' if spans == 1 else 's'}"
        return (
            f"{place.language}, shard {place.shard}, record {place.block}: "
            f"{' + '.join(map(str, sizes))} tokens, {noise} "
            f"{'to predict' if self.trace.maskings else removed}"
        )


def show(traced: Trace, specials: Specials, piece: Callable[[int], str]) -> Shown:
    """An example with its panes.

    Args:
      traced: the example.
      specials: of the vocabulary.
      piece: gives the piece of an id.
    """
    view = _View(traced, specials, piece)
    if traced.maskings:
        return Shown(traced, [view.masked(masking) for masking in traced.maskings])
    return Shown(traced, [(view.source(), view.target())])


def texts(run: list[Token]) -> list[str]:
    """The texts of a run; where spaces alone are marked, they are as SentencePiece writes them."""
    blank = run[0].role != "plain" and not any(token.text.strip() for token in run)
    return [token.text.replace(" ", SPACE) if blank else token.text for token in run]


def legend(examples: Iterable[Shown]) -> list[tuple[Token, str]]:
    """The marks that occur in examples: (a token that has it, what it means)."""
    tokens = [t for e in examples for row in e.rows for pane in row for t in pane.tokens]
    roles = {token.role for token in tokens}
    entries: list[tuple[Token, str]] = [
        (Token("token", -1, "masked"), "to be predicted; the input has <mask>"),
        (Token("token", -1, "random"), "to be predicted; the input has a random token"),
        (Token("token", -1, "kept"), "to be predicted; the input has it too"),
        (Token("token", -1, "removed", group=0), "removed from the source"),
        (Token("<mask>", -1, "mask", group=0), "stands for a removed span"),
        (
            Token("<sentinel_0>", -1, "sentinel", group=0),
            "stands for what follows it in the target",
        ),
    ]
    entries = [entry for entry in entries if entry[0].role in roles]
    if any(token.gap is not None for token in tokens):
        entries.append((Token("", -1, "plain", gap=0), "a span was removed here"))
    return entries


class _View:
    def __init__(self, traced: Trace, specials: Specials, piece: Callable[[int], str]):
        self._traced, self._specials, self._piece = traced, specials, piece
        # Of each token of the record, the segment, and the span that it went with.
        places = np.arange(traced.tokens.size)
        self._segment: list[int] = np.searchsorted(traced.ends, places, "right").tolist()
        self._span: list[int | None] = [None] * (traced.tokens.size + 1)
        for number, (start, end) in enumerate(traced.spans.tolist()):
            self._span[start:end] = [number] * (end - start)

    def masked(self, masking: Masking) -> tuple[Pane, Pane]:
        """An input, and what it was, with that which is to be predicted marked in both."""
        ids = self._traced.example[masking.source]
        original = ids.copy()
        original[masking.positions] = masking.targets
        fates = dict(zip(masking.positions.tolist(), masking.fates.tolist(), strict=True))
        segments = self._segments(masking.source)
        left, right = [], []
        for i, (seen, stood) in enumerate(zip(ids.tolist(), original.tolist(), strict=True)):
            role = _FATES[fates[i]] if i in fates else self._role(seen)
            was = self._text(stood) if i in fates else ""
            left.append(Token(self._text(seen), seen, role, segment=segments[i], was=was))
            right.append(Token(self._text(stood), stood, role, segment=segments[i]))
        targets = masking.source.removeprefix("encoder_").replace("input_tokens", "masked_targets")
        return Pane(masking.source, left), Pane(f"{targets}, marked in the original", right)

    def source(self) -> Pane:
        """What is left, with what stands for a span, or the gap where nothing does."""
        tokens, segments = [], self._segments(SOURCE)
        following, is_told = (
            0,
            False,
        )  # the next token of the record; whether anything stands for it
        for segment, (id_, origin) in zip(segments, self._pairs(SOURCE), strict=True):
            role, group, gap = self._role(id_), None, None
            if role == "sentinel":
                group = id_ - self._specials.first_sentinel
            elif role == "mask":
                # A second <mask> in the same place was inserted, and stands for nothing.
                group = None if is_told else self._span[following]
            elif id_ != self._specials.bos and not is_told and len(self._traced.ends) == 1:
                gap = self._span[following]
            is_told = role in ("mask", "sentinel")
            if origin != ADDED:
                following = origin + 1
            tokens.append(Token(self._text(id_), id_, role, group, segment, gap))
        return Pane(SOURCE, tokens)

    def target(self) -> Pane:
        """What was removed, in its place or after its sentinel."""
        tokens = []
        for segment, (id_, origin) in zip(self._segments(TARGET), self._pairs(TARGET), strict=True):
            role, group = self._role(id_), None
            if role == "sentinel":
                group = id_ - self._specials.first_sentinel
            elif origin != ADDED and (group := self._span[origin]) is not None:
                role = "removed"
            tokens.append(Token(self._text(id_), id_, role, group, segment))
        return Pane(TARGET, tokens)

    def _pairs(self, feature: str) -> Iterator[tuple[int, int]]:
        """(id, origin) of each token."""
        ids, origins = self._traced.example[feature], self._traced.origins[feature]
        return zip(ids.tolist(), origins.tolist(), strict=True)

    def _segments(self, feature: str) -> list[int]:
        """The segment of each token; what was added goes with its span, or with its neighbours."""
        segments: list[int | None] = []
        last: int | None = None
        for id_, origin in self._pairs(feature):
            number = id_ - self._specials.first_sentinel
            if origin != ADDED:
                last = self._segment[origin]
            elif self._role(id_) == "sentinel" and number < len(self._traced.spans):
                last = self._segment[self._traced.spans[number, 0]]
            segments.append(last)
        first = next((segment for segment in segments if segment is not None), 0)
        return [first if segment is None else segment for segment in segments]

    def _role(self, id_: int) -> Role:
        specials = self._specials
        if id_ == specials.mask:
            return "mask"
        if specials.sentinels and id_ >= specials.first_sentinel:
            return "sentinel"
        named = (specials.bos, specials.pad, specials.eos, specials.unk, specials.doc)
        return "special" if id_ in named else "plain"

    def _text(self, id_: int) -> str:
        text = self._piece(id_).replace(SPACE, " ")
        # A terminal would obey control characters.
        return "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in text)
