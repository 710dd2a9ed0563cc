"""Corpora read as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from seqrecipes.data.corpora.corpus import BadRecord, Corpus, Document, Split, all_documents
from seqrecipes.data.corpora.sample import SampleCorpus, SampleParallel
from seqrecipes.data.corpora.union import Union
from seqrecipes.errors import UserError


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Languages with given shards; validation has the first shard alone."""

    content: dict[str, list[list[Document | BadRecord]]]
    parallel: bool = False

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self.content)

    def shards(self, language: str, split: Split) -> int:
        return len(self.content[language]) if split == "train" else 1

    def documents(self, language: str, split: Split, shard: int) -> Iterator[Document | BadRecord]:
        return iter(self.content[language][shard])

    def fingerprint(self) -> str:
        return repr(self.content)


BAD = BadRecord("field", "where", "problem")
ONE = Fixed({"de": [["a", "b"], ["c"]], "en": [["x"]]})
TWO = Fixed({"ar": [["z"]], "de": [["d"], [BAD], ["e"]]})


def test_languages_and_shards_of_each_in_turn() -> None:
    union: Corpus = Union([ONE, TWO])
    assert union.languages == ("ar", "de", "en") and not union.parallel
    assert [union.shards(language, "train") for language in union.languages] == [1, 5, 1]
    assert union.shards("de", "validation") == 2
    shards = [list(union.documents("de", "train", shard)) for shard in range(5)]
    assert shards == [["a", "b"], ["c"], ["d"], [BAD], ["e"]]
    assert list(all_documents(union, "de", "validation")) == ["a", "b", "d"]
    assert list(all_documents(union, "ar", "train")) == ["z"]
    with pytest.raises(IndexError):
        union.documents("de", "train", 5)


def test_fingerprint_follows_the_parts_and_their_order() -> None:
    unions = [Union([ONE, TWO]), Union([TWO, ONE]), Union([ONE]), Union([ONE, ONE])]
    assert len({union.fingerprint() for union in unions}) == 4
    assert Union((ONE, TWO)).fingerprint() == unions[0].fingerprint()


def test_pairs_and_texts_do_not_mix() -> None:
    pairs = Union([SampleParallel(), SampleParallel()])
    assert pairs.parallel and isinstance(next(pairs.documents("de-en", "train", 0)), tuple)
    mixtures: list[list[Corpus]] = [[], [SampleCorpus(), SampleParallel()]]
    for corpora in mixtures:
        with pytest.raises(UserError, match=r"Union.corpora = .*all of texts or all of pairs"):
            Union(corpora)
