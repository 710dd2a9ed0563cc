"""The bundled text: 26 short documents, the same sentence by sentence in 12 languages.

Every 13th document is for validation, the same ones in all languages, so that no translation of
a validation document is trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import resources

from seqrecipes.data.corpora.corpus import Split, T, digest
from seqrecipes.data.corpora.lines import join_sentences

_VALIDATION_EVERY = 13
_FOLDER = resources.files("seqrecipes.data") / "sample"
_NAMES = (entry.name for entry in _FOLDER.iterdir())
_LANGUAGES = tuple(sorted(n.removesuffix(".txt") for n in _NAMES if n.endswith(".txt")))


class SampleCorpus:
    """The sample as documents of single languages."""

    parallel = False
    languages = _LANGUAGES

    def shards(self, language: str, split: Split) -> int:
        """See `Corpus.shards`."""
        return 1

    def documents(self, language: str, split: Split, shard: int) -> Iterator[str]:
        """See `Corpus.documents`."""
        documents = _select(_documents(language), split)
        return (join_sentences(sentences, language) for sentences in documents)

    def contents(self) -> dict[str, str]:
        """See `Corpus.contents`."""
        return {language: digest(_lines(language)) for language in self.languages}

    def fingerprint(self) -> str:
        """See `Corpus.fingerprint`."""
        return digest(type(self).__name__, self.contents())


class SampleParallel:
    """The sample as sentences of eleven languages and their English translations."""

    parallel = True
    languages = tuple(f"{language}-en" for language in _LANGUAGES if language != "en")

    def shards(self, language: str, split: Split) -> int:
        """See `Corpus.shards`."""
        return 1

    def documents(self, language: str, split: Split, shard: int) -> Iterator[tuple[str, str]]:
        """See `Corpus.documents`; pairs of sentences."""
        sides = [_documents(name) for name in language.split("-")]
        for sentences in _select(zip(*sides, strict=True), split):
            yield from zip(*sentences, strict=True)

    def contents(self) -> dict[str, str]:
        """See `Corpus.contents`."""
        return {language: digest(_lines(language)) for language in _LANGUAGES}

    def fingerprint(self) -> str:
        """See `Corpus.fingerprint`."""
        return digest(type(self).__name__, self.contents())


def _select(documents: Iterable[T], split: Split) -> Iterator[T]:
    for number, document in enumerate(documents, start=1):
        if (number % _VALIDATION_EVERY == 0) == (split == "validation"):
            yield document


def _lines(language: str) -> list[str]:
    return (_FOLDER / f"{language}.txt").read_text("utf-8").splitlines()


def _documents(language: str) -> list[list[str]]:
    """Documents as lists of sentences."""
    return [document.split("\n") for document in "\n".join(_lines(language)).split("\n\n")]
