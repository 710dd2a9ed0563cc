"""A small vocabulary, trained once."""

from __future__ import annotations

import pytest

from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.data.vocabulary import sample_texts, train_vocabulary


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("vocabulary")
    texts = sample_texts(SampleCorpus())
    return train_vocabulary(texts, 2000, folder, sentinels=5).read_bytes()
