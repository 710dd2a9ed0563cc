"""Checkpoints, files of labelled sets, and a finished fine-tuning."""

from __future__ import annotations

import pathlib
from typing import Any

import gin
import pytest

from seqrecipes.data.labelled import local_files  # noqa: F401 -- gin
from seqrecipes.downstream.runs import Run
from tests.downstream import tiny_runs


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, vocabulary: bytes) -> pathlib.Path:
    """Two checkpoints and the files of some sets."""
    folder = tmp_path_factory.mktemp("finetuning")
    tiny_runs.checkpoint(folder / "encoder", vocabulary)
    tiny_runs.checkpoint(
        folder / "seq2seq", vocabulary, decoder_layers=1, attention_fusion="shared"
    )
    tiny_runs.write_udpos(folder / "data")
    tiny_runs.write_xsid(folder / "data")
    tiny_runs.write_xnli(folder / "data")
    tiny_runs.write_scitldr(folder / "data")
    return folder


@pytest.fixture
def data(folder: pathlib.Path) -> Any:
    gin.clear_config()
    gin.bind_parameter("LabelledFiles.folder", str(folder / "data"))
    yield
    gin.clear_config()


@pytest.fixture(scope="session")
def done(folder: pathlib.Path) -> Any:
    """A finished run, and what it said."""
    gin.clear_config()
    gin.bind_parameter("LabelledFiles.folder", str(folder / "data"))
    job = tiny_runs.finetuning(checkpoint=str(folder / "encoder"), seeds=(0, 3))
    text = Run(job, str(folder / "done")).execute()
    return job, folder / "done", text
