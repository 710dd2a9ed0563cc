"""A small vocabulary and blocks of the sample, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gin
import pytest

from seqrecipes.data.blocks import Blocks
from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.preparation import prepare_blocks
from seqrecipes.data.tasks import PretrainingTask, get_task
from seqrecipes.data.vocabulary import Vocabulary, sample_texts, train_vocabulary

LENGTH = 64
PAYLOAD = 62
SENTINELS = 40


@pytest.fixture(scope="session")
def vocabulary_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    return train_vocabulary(
        sample_texts(SampleCorpus()), 2000 + SENTINELS, folder, sentinels=SENTINELS
    )


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


@pytest.fixture
def sample_task(configured: None) -> Callable[[str], PretrainingTask]:
    """The task of an objective on whichever form of the sample it reads."""

    def task(objective: str) -> PretrainingTask:
        parallel = OBJECTIVES[objective].reads == "translations"
        return get_task("sample_parallel" if parallel else "sample", objective)

    return task


@pytest.fixture
def prepared(
    sample_task: Callable[[str], PretrainingTask], cache_dir: Path
) -> Callable[[str], Blocks]:
    """The records of the sample for sequences of LENGTH tokens of an objective."""

    def prepare(objective: str) -> Blocks:
        task = sample_task(objective)
        return prepare_blocks(task, task.objective.payload(LENGTH), cache_dir)

    return prepare
