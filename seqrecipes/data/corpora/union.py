"""Several corpora read as one: the documents of a language are those of each in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from seqrecipes.data.corpora.corpus import BadRecord, Corpus, Document, Split, digest
from seqrecipes.errors import UserError


@dataclasses.dataclass(frozen=True)
class Union:
    """A corpus of corpora.

    Attributes:
      corpora: one or more; all of pairs or none. A language need not be in every one.
    """

    corpora: Sequence[Corpus]

    def __post_init__(self) -> None:
        if len({corpus.parallel for corpus in self.corpora}) != 1:
            raise UserError(
                "Union.corpora",
                [type(corpus).__name__ for corpus in self.corpora],
                "name one or more corpora, all of texts or all of pairs.",
            )

    @property
    def parallel(self) -> bool:
        """See `Corpus.parallel`."""
        return self.corpora[0].parallel

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of all, in alphabetical order."""
        return tuple(sorted({language for corpus in self.corpora for language in corpus.languages}))

    def shards(self, language: str, split: Split) -> int:
        """See `Corpus.shards`; those of the first corpus come first."""
        return sum(corpus.shards(language, split) for corpus in self._having(language))

    def documents(self, language: str, split: Split, shard: int) -> Iterator[Document | BadRecord]:
        """See `Corpus.documents`."""
        for corpus in self._having(language):
            if shard < (shards := corpus.shards(language, split)):
                return corpus.documents(language, split, shard)
            shard -= shards
        raise IndexError(f"{language} has fewer shards")

    def contents(self) -> dict[str, str]:
        """See `Corpus.contents`; names say which corpus it is."""
        return {
            f"{number}/{name}": content
            for number, corpus in enumerate(self.corpora)
            for name, content in corpus.contents().items()
        }

    def fingerprint(self) -> str:
        """See `Corpus.fingerprint`."""
        return digest(type(self).__name__, [corpus.fingerprint() for corpus in self.corpora])

    def _having(self, language: str) -> Iterator[Corpus]:
        return (corpus for corpus in self.corpora if language in corpus.languages)
