"""Export: our parameters as a folder that Hugging Face's classes open, written leaf by leaf.

Weights, configuration and tokenizer; `card.py` adds the model card, `parity.py` the comparison. A
folder appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator

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
    shard_bytes: int = files.SHARD_BYTES,
) -> None:
    """Writes a model.

    Args:
      folder: exists and is empty.
      config: our configuration. Rows of its tables past the vocabulary are cut off.
      read: gives the leaf of a path in float32; called once for each.
      vocabulary: the SentencePiece model.
      headless: the encoder alone, without a head; of a seq2seq model too.
      shard_bytes: largest size of a file of weights.

    Raises:
      UserError: no class can express the model, or the vocabulary is not the model's.
    """
    rows = len(pieces.pieces(vocabulary))
    if rows > config.vocab_size:
        raise UserError("vocabulary", rows, f"the model has rows for {config.vocab_size} pieces")
    if headless:
        config = encoder_of(config)
    kind = hf_config.model_type(config)
    theirs = dataclasses.replace(config, vocab_size=rows)
    table = layout(theirs, kind, models.parameter_shapes(config))
    if headless:
        table = _without_head(table)
    files.write(
        folder,
        {tensor.key: tensor.shape for tensor in table.tensors},
        _tensors(table, read),
        shard_bytes=shard_bytes,
    )
    _write_json(folder / "config.json", hf_config.to_hf(theirs, headless=headless))
    if config.decoder_layers:
        _write_json(folder / "generation_config.json", hf_config.generation(theirs))
    if kind == hf_config.OWN:
        shutil.copyfile(hf_config.modeling_file(), folder / hf_config.MODELING_FILE)
    write_tokenizer(vocabulary, folder, max_length=config.max_positions)


def encoder_of(config: ModelConfig) -> ModelConfig:
    """The configuration of a model's encoder alone."""
    return dataclasses.replace(config, decoder_layers=0, attention_fusion="none", tie_head=True)


def _without_head(table: Layout) -> Layout:
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
