"""The bundled sample, as texts and as translations."""

from __future__ import annotations

import pytest

from seqrecipes.data.corpora.sample import SampleCorpus, SampleParallel

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "mr", "pt", "ta", "te")


@pytest.mark.parametrize("language", LANGUAGES)
def test_documents_of_every_language(language):
    corpus = SampleCorpus()
    assert corpus.languages == LANGUAGES and not corpus.parallel
    assert corpus.shards(language, "train") == corpus.shards(language, "validation") == 1
    train = list(corpus.documents(language, "train", 0))
    validation = list(corpus.documents(language, "validation", 0))
    assert (len(train), len(validation)) == (24, 2)
    assert all(train) and not set(train) & set(validation)


def test_sentences_are_joined_as_the_language_does():
    first = next(SampleCorpus().documents("en", "train", 0))
    assert first.startswith(
        "The river rises every spring when the snow melts in the mountains. Farm"
    )
    assert " " not in next(SampleCorpus().documents("ja", "train", 0))


def test_pairs_are_the_sentences_of_the_documents():
    corpus, texts = SampleParallel(), SampleCorpus()
    assert corpus.languages == tuple(f"{x}-en" for x in LANGUAGES if x != "en")
    assert corpus.parallel
    for pair in corpus.languages:
        for split in ("train", "validation"):
            sides = zip(*corpus.documents(pair, split, 0), strict=True)
            for language, sentences in zip(pair.split("-"), sides, strict=True):
                space = "" if language == "ja" else " "
                documents = texts.documents(language, split, 0)
                assert space.join(sentences) == space.join(documents)


def test_first_pair():
    first, second = next(SampleParallel().documents("de-en", "train", 0))
    assert second == "The river rises every spring when the snow melts in the mountains."
    assert "Fluss" in first


def test_fingerprints():
    prints = [kind().fingerprint() for kind in (SampleCorpus, SampleParallel) for _ in range(2)]
    assert prints[0] == prints[1] != prints[2] == prints[3]
