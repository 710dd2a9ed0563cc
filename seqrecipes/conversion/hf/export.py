"""Export: our parameters as a folder that Hugging Face's classes open, written leaf by leaf.

Weights, configuration and tokenizer; `card.py` adds the model card, `parity.py` the comparison. A
folder appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from seqrecipes import models
from seqrecipes.conversion.hf import config as hf_config
from seqrecipes.conversion.hf import files
from seqrecipes.conversion.hf.names import Layout, layout
from seqrecipes.conversion.hf.tokenizer import write_tokenizer
from seqrecipes.data import pieces
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig

Read = Callable[[str], np.ndarray]


def export(
    folder: pathlib.Path,
    config: ModelConfig,
    read: Read,
    *,
    vocabulary: bytes,
    headless: bool = False,
    generation: Mapping[str, Any] = {},
    shard_bytes: int = files.SHARD_BYTES,
) -> None:
    """Writes a model.

    Args:
      folder: exists and is empty.
      config: our configuration. Rows of its tables past the vocabulary are cut off.
      read: gives the leaf of a path in float32; called once for each.
      vocabulary: the SentencePiece model.
      headless: the encoder alone, without a head; of a seq2seq model too.
      generation: settings of `generation_config.json` beside those of every model.
      shard_bytes: largest size of a file of weights.

    Raises:
      UserError: no class can express the model, or the vocabulary is not the model's.
    """
    if headless:
        config = encoder_of(config)
    kind = hf_config.model_type(config)
    theirs = cut(config, vocabulary)
    table = layout(theirs, kind, models.parameter_shapes(config))
    write(
        folder,
        without_head(table) if headless else table,
        read,
        hf_config.to_hf(theirs, headless=headless),
        vocabulary=vocabulary,
        max_length=config.max_positions,
        shard_bytes=shard_bytes,
    )
    if config.decoder_layers:
        settings = hf_config.generation(theirs) | dict(generation)
        _write_json(folder / "generation_config.json", settings)


def write(
    folder: pathlib.Path,
    table: Layout,
    read: Read,
    values: Mapping[str, Any],
    *,
    vocabulary: bytes,
    max_length: int,
    shard_bytes: int = files.SHARD_BYTES,
) -> None:
    """Writes weights, configuration and tokenizer.

    Args:
      folder: exists and is empty.
      table: the tensors.
      read: gives the leaf of a path in float32; called once for each.
      values: the contents of `config.json`; code of our own that its class needs goes beside it.
      vocabulary: the SentencePiece model.
      max_length: the most tokens of a sequence.
      shard_bytes: largest size of a file of weights.
    """
    files.write(
        folder,
        {tensor.key: tensor.shape for tensor in table.tensors},
        _tensors(table, read),
        shard_bytes=shard_bytes,
    )
    _write_json(folder / "config.json", values)
    for code in hf_config.code_files(values["model_type"]):
        shutil.copyfile(code, folder / code.name)
    write_tokenizer(vocabulary, folder, max_length=max_length)


def cut(config: ModelConfig, vocabulary: bytes) -> ModelConfig:
    """The configuration with as many rows as the vocabulary has pieces.

    Raises:
      UserError: the model has fewer.
    """
    rows = len(pieces.pieces(vocabulary))
    if rows > config.vocab_size:
        raise UserError("vocabulary", rows, f"the model has rows for {config.vocab_size} pieces")
    return dataclasses.replace(config, vocab_size=rows)


def encoder_of(config: ModelConfig) -> ModelConfig:
    """The configuration of a model's encoder alone."""
    return dataclasses.replace(config, decoder_layers=0, attention_fusion="none", tie_head=True)


def without_head(table: Layout) -> Layout:
    """The tensors of the bare model, under the names that it has there."""
    prefix = f"{table.base}."
    return dataclasses.replace(
        table,
        tensors=tuple(
            dataclasses.replace(tensor, key=tensor.key.removeprefix(prefix))
            for tensor in table.tensors
            if tensor.key.startswith(prefix)
        ),
    )


def _tensors(table: Layout, read: Read) -> Iterator[tuple[str, np.ndarray]]:
    path, leaf = None, np.empty(0)
    for tensor in table.tensors:
        if tensor.path is None:
            yield tensor.key, np.zeros(tensor.shape, np.float32)
            continue
        if tensor.path != path:
            del leaf  # before the next one is read
            path, leaf = tensor.path, read(tensor.path)
        yield tensor.key, tensor.to_hf(leaf)


def _write_json(file: pathlib.Path, values: object) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", "utf-8")
