"""A few records of each language of a corpus, however large: as training sees them.

Of raw text, the first records of several shards of every language; documents are read one batch at
a time and no further than those records reach. Of prepared text, records from all over it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from typing import Protocol, cast

import numpy as np

from seqrecipes.data.blocks import Blocks
from seqrecipes.data.corpora.corpus import BadRecord, Corpus, Document, Split
from seqrecipes.data.objectives.base import Specials, example_index
from seqrecipes.data.records import MAX_PROBLEMS, Summary, Tokenized, tokenize
from seqrecipes.data.tasks import PretrainingTask
from seqrecipes.errors import UserError
from seqrecipes.inspection.trace import Place

_SHARDS = 8  # of a language, if it has so many
_BATCH = 16  # documents; few, because some corpora have long ones

Segments = tuple[np.ndarray, ...]


@dataclasses.dataclass
class TextCounts(Summary):
    """What was read of a language; `Summary` of all its shards, and more.

    Attributes:
      tokens: of all documents.
      unknown_tokens: of these, <unk>.
      all_records: how many the language has; None where it was not read to its end.
      tokens_are_cut: whether `tokens` lack those that were cut off, unlike `characters`.
    """

    tokens: int = 0
    unknown_tokens: int = 0
    all_records: int | None = None
    tokens_are_cut: bool = False

    @property
    def characters_per_token(self) -> float | None:
        """None where it cannot be told."""
        return None if self.tokens_are_cut or not self.tokens else self.characters / self.tokens


class Excerpt(Protocol):
    """Where records come from.

    Attributes:
      languages: all of them.
      specials: of the vocabulary.
      join_pairs: whether consecutive pairs were put together.
      texts: language -> what was read of it so far.
      scope: what `texts` counts, in words.
    """

    languages: tuple[str, ...]
    specials: Specials
    join_pairs: bool
    texts: dict[str, TextCounts]
    scope: str

    def records(self, language: str, count: int) -> Iterator[tuple[Place, Segments]]:
        """At most so many records of a language."""

    def max_specials(self, seen: int) -> int:
        """The most special tokens of a record, of those `seen` or of more than these."""


class RawExcerpt:
    """Records of a task's corpus, tokenized and packed now; see `Excerpt`.

    Args:
      task: names corpus and vocabulary, and how records are made.
      split: 'train' or 'validation'.
      payload: the most tokens of a segment.
    """

    scope = "the documents read for these records"

    def __init__(self, task: PretrainingTask, split: str, payload: int):
        self._corpus: Corpus = task.corpus
        self._vocabulary, self._split = task.vocabulary, cast(Split, split)
        self._packing = dataclasses.replace(task.packing, payload=payload)
        self.languages = tuple(self._corpus.languages)
        self.specials, self.join_pairs = task.vocabulary.specials, task.join_pairs
        self.texts = {language: TextCounts() for language in self.languages}

    def max_specials(self, seen: int) -> int:
        """See `Excerpt`; more is not known."""
        return seen

    def records(self, language: str, count: int) -> Iterator[tuple[Place, Segments]]:
        """See `Excerpt`.

        Raises:
          UserError: a bad record, unless the corpus is told to skip those.
        """
        shards = self._corpus.shards(language, self._split)
        chosen = np.linspace(0, shards - 1, min(shards, _SHARDS)).astype(int).tolist()
        # Where those have too few, the others follow.
        order = [*chosen, *(shard for shard in range(shards) if shard not in set(chosen))]
        found = exhausted = 0
        for number, shard in enumerate(order):
            if found == count:
                break
            wanted = math.ceil((count - found) / max(len(chosen) - number, 1))
            before = found
            with contextlib.closing(self._read(language, shard)) as records:
                for record in itertools.islice(records, wanted):
                    found += 1
                    yield record
            exhausted += found - before < wanted
        if exhausted == shards:
            self.texts[language].all_records = found

    def _read(self, language: str, shard: int) -> Generator[tuple[Place, Segments], None, None]:
        """The records of a shard."""
        text, first = self.texts[language], example_index(language, shard, 0)
        documents = iter(self._corpus.documents(language, self._split, shard))
        records = self._packing.segments(self._tokenize(documents, text), text)
        for block, (tokens, border) in enumerate(records):
            place = Place(language, shard, block, first + block)
            pairs = self._packing.reads != "blocks"
            yield place, (tokens[:border], tokens[border:]) if pairs else (tokens,)

    def _tokenize(
        self, documents: Iterator[Document | BadRecord], text: TextCounts
    ) -> Iterator[Tokenized]:
        """In smaller steps than training does it."""
        steps = iter(lambda: list(itertools.islice(documents, _BATCH)), [])
        sides = 2 if self._corpus.parallel else 1
        for tokenized in tokenize(self._vocabulary.tokenizer, steps, sides):
            text.tokens += tokenized.tokens.size
            text.unknown_tokens += int(np.count_nonzero(tokenized.tokens == self.specials.unk))
            yield tokenized


class PreparedExcerpt:
    """Records of prepared text; see `Excerpt`.

    Args:
      blocks: the text.
      split: 'train' or 'validation'.
    """

    scope = "the whole split, as counted when it was prepared"

    def __init__(self, blocks: Blocks, split: str):
        self._blocks, self._split = blocks, split
        self._counts = blocks.counts(split).tolist()
        self.languages, self.specials = blocks.languages, blocks.specials
        self.join_pairs: bool = blocks.manifest["join_pairs"]
        self.texts = {}
        for language, count in zip(self.languages, self._counts, strict=True):
            counted = blocks.manifest["splits"][split][language]
            fields = {f.name for f in dataclasses.fields(TextCounts)} & set(counted)
            text = TextCounts(**{name: counted[name] for name in fields}, all_records=count)
            translations = blocks.manifest["reads"] == "translations"
            text.tokens_are_cut = translations and text.cut_documents > 0
            for shard in blocks.manifest["shards"][split][language]:
                text.problems += shard["problems"][: MAX_PROBLEMS - len(text.problems)]
            self.texts[language] = text

    def max_specials(self, seen: int) -> int:
        """See `Excerpt`; of all records."""
        return self._blocks.max_specials

    def records(self, language: str, count: int) -> Iterator[tuple[Place, Segments]]:
        """See `Excerpt`.

        Raises:
          UserError: a file is gone or cut off.
        """
        number = self.languages.index(language)
        there = self._counts[number]
        taken = min(count, there)
        for i in range(taken):
            index, segments = self._blocks.record(self._split, number, i * there // taken)
            yield Place(language, index >> 64, index & 0xFFFFFFFF, index), segments


def spread(count: int, languages: Sequence[str]) -> dict[str, int]:
    """`count` records over languages, evenly; the first ones get what is left over."""
    each, left = divmod(count, len(languages))
    return {language: each + (i < left) for i, language in enumerate(languages)}


def choose_languages(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    """The wanted ones, in the order of the corpus; all of them if none are named."""
    for language in wanted:
        if language not in known:
            raise UserError("--language", language, f"choose one of {', '.join(known)}.")
    return [language for language in known if language in wanted or not wanted]
