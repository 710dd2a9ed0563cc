"""Whose code may run where a folder is compared with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqrecipes import hugging_face
from seqrecipes.conversion.hf import config as hf_config
from seqrecipes.conversion.hf import parity
from seqrecipes.conversion.hf.export import export
from seqrecipes.data import pieces
from tests.conversion.hf_load_test import random_leaves
from tests.models import tiny


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values))


def name_another_model(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModelForSeq2SeqLM": "harmful.Model"})


def name_a_model_elsewhere(folder: Path) -> None:
    model = "somebody/harmful--modeling_seqrecipes.SeqRecipesModel"
    edit(folder / "config.json", auto_map={"AutoModelForSeq2SeqLM": model})


def name_a_tokenizer(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["harmful.Tokenizer", None]})


def change_a_file(folder: Path) -> None:
    with open(folder / "layers_seqrecipes.py", "a") as file:
        file.write("print('changed')\n")


def remove_a_file(folder: Path) -> None:
    (folder / "layers_seqrecipes.py").unlink()


CHANGES = [
    *(name_another_model, name_a_model_elsewhere, name_a_tokenizer),
    *(change_a_file, remove_a_file),
]


@pytest.mark.parametrize("change", [None, *CHANGES])
def test_code_of_a_folder_runs_where_all_of_it_is_ours(vocabulary, tmp_path, monkeypatch, change):
    rows = len(pieces.pieces(vocabulary))
    config = tiny.config(vocab_size=rows, attention_fusion="shared")
    folder = tmp_path / "exported"
    folder.mkdir()
    export(folder, config, random_leaves(config).__getitem__, vocabulary=vocabulary)
    if change:
        change(folder)
    found: list[bool] = []

    class Found(Exception):
        """Ends the import where the comparison would begin."""

    def verify(*_: Any, trust: bool, **__: Any) -> None:
        found.append(trust)
        raise Found

    monkeypatch.setattr(parity, "libraries", lambda: None)
    monkeypatch.setattr(parity, "verify", verify)
    with pytest.raises(Found):
        hugging_face.import_folder(folder, tmp_path / "in", verify=True)
    assert found == [change is None]
    assert {code.name for code in hf_config.code_files("seqrecipes")} == {
        "modeling_seqrecipes.py",
        "layers_seqrecipes.py",
    }
