"""The little sets, registered once; their files are written for every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import gin
import pytest

from seqrecipes.data.labelled.registry import register_sets
from tests.data.labelled.little import FILES, LITTLE, write_file

Write = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def registered() -> None:
    register_sets(LITTLE.values())


@pytest.fixture
def folder(registered: None, tmp_path: Path, vocabulary_path: Path) -> Iterator[Path]:
    """The folder of the little sets, bound as a user binds it."""
    gin.clear_config()
    gin.bind_parameter("LabelledFiles.folder", str(tmp_path))
    gin.bind_parameter("pretraining_vocabulary.path", str(vocabulary_path))
    for name, text in FILES.items():
        write_file(tmp_path / name, text)
    yield tmp_path
    gin.clear_config()


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes, or overwrites, a file of the folder."""
    return lambda name, text: write_file(folder / name, text)
