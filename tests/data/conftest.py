"""A small vocabulary and blocks of the sample, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gin
import pytest

from seqrecipes.data.blocks import Blocks, prepare_blocks
from seqrecipes.data.corpora import SampleCorpus
from seqrecipes.data.tasks import get_task
from seqrecipes.data.vocabulary import Vocabulary, sample_texts, train_vocabulary

PAYLOAD = 62


@pytest.fixture(scope="session")
def vocabulary_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    return train_vocabulary(sample_texts(SampleCorpus()), 2000, folder)


@pytest.fixture(scope="session")
def vocabulary(vocabulary_path: Path) -> Vocabulary:
    return Vocabulary(str(vocabulary_path))


@pytest.fixture
def configured(vocabulary_path: Path) -> Iterator[None]:
    """Tasks registered and their vocabulary bound, as a command does it."""
    import tasks.pretrain  # noqa: F401 -- registers

    gin.clear_config()
    gin.bind_parameter("pretraining_vocabulary.path", str(vocabulary_path))
    yield
    gin.clear_config()


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blocks")


@pytest.fixture
def sample_blocks(configured: None, cache_dir: Path) -> Blocks:
    return prepare_blocks(get_task("sample", "mlm"), PAYLOAD, cache_dir)
