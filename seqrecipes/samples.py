"""A few predictions on validation text: what a finished stage makes of it, for a person to read.

An encoder fills in the tokens that are masked or replaced; a seq2seq model restores the text that
was noised. Both read what they are validated on.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seqrecipes import tree
from seqrecipes.config.finetuning import Search
from seqrecipes.folders import PREDICTIONS_FILE, write_file
from seqrecipes.models import Seq2Seq
from seqrecipes.models.decoding import make_generate
from seqrecipes.training import checkpoints
from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Training

if TYPE_CHECKING:
    import sentencepiece

    from seqrecipes.data.stream import Stream
    from seqrecipes.data.vocabulary import Vocabulary

_SHOWN = 32  # tokens of a text


class Sample(NamedTuple):
    """The beginning of an example, in words: what was read, what was written, what is right."""

    read: str
    written: str
    right: str


def write(
    folder: pathlib.Path,
    training: Training,
    mesh: Mesh,
    stream: Stream,
    vocabulary: Vocabulary,
    count: int,
) -> None:
    """Writes the predictions of a finished stage into its folder, where that was not done before.

    Args:
      folder: the stage's.
      training, mesh, stream, vocabulary, count: see `predict`.
    """
    file = folder / PREDICTIONS_FILE
    if file.exists():
        return
    checkpoint = checkpoints.find(folder, field="MODEL_DIR")
    placement = training.partitioning.placement(mesh)
    params = checkpoints.restore_params(checkpoint, training.shapes, placement)
    samples = predict(training, mesh, params, stream, vocabulary, count)
    if jax.process_index() == 0:
        content = json.dumps([each._asdict() for each in samples], indent=2, ensure_ascii=False)
        write_file(file, content + "\n")


def predict(
    training: Training,
    mesh: Mesh,
    params: tree.Tree,
    stream: Stream,
    vocabulary: Vocabulary,
    count: int,
) -> list[Sample]:
    """What a model makes of validation examples; every process takes part.

    Args:
      training: of the model.
      mesh: devices.
      params: nested dictionary, laid out on them.
      stream: the validation examples.
      vocabulary: of the model.
      count: of samples, taken evenly from the stream; all if it has fewer.
    """
    chosen = np.linspace(0, stream.size - 1, min(count, stream.size)).astype(np.int64)
    size = parts.even_batch(chosen.size, mesh)
    indices = np.full(size, -1, np.int64)
    indices[: chosen.size] = chosen
    rows = stream.examples(indices)
    local = {name: array[parts.local_rows(size, mesh)] for name, array in rows.items()}
    batch = parts.global_batch(local, size, mesh)
    model, tokenizer = training.model, vocabulary.tokenizer
    with training.partitioning.on(mesh):
        if isinstance(model, Seq2Seq):
            longest = min(_SHOWN, rows["decoder_target_tokens"].shape[1])
            search = Search(max_length=longest + 1)
            generate = make_generate(model, search, pieces=vocabulary.size)
            step = jax.jit(
                lambda params, batch: generate(params, batch["encoder_input_tokens"]).tokens[:, 0],
                out_shardings=parts.replicated(mesh),
            )
        else:

            def best(params: tree.Tree, batch: Mapping[str, jax.Array]) -> jax.Array:
                logits: Any = model.apply({"params": params}, batch)
                return jnp.argmax(logits, axis=-1)

            step = jax.jit(best, out_shardings=parts.replicated(mesh))
        found = np.asarray(step(params, batch))
    samples = []
    for number, predicted in enumerate(found[: chosen.size]):
        row = {name: array[number] for name, array in rows.items()}
        read = spelled(tokenizer, row["encoder_input_tokens"])
        if isinstance(model, Seq2Seq):
            right = spelled(tokenizer, row["decoder_target_tokens"])
            samples.append(Sample(read, spelled(tokenizer, predicted), right))
            continue
        at = row["masked_positions"][row["masked_targets"] != stream.pad_id]
        filled = []
        for values in (predicted, row["masked_targets"]):
            ids = row["encoder_input_tokens"].copy()
            ids[at] = values[: at.size]
            filled.append(spelled(tokenizer, ids, marked=at.tolist()))
        samples.append(Sample(read, *filled))
    return samples


def spelled(
    tokenizer: sentencepiece.SentencePieceProcessor,
    ids: Sequence[int] | np.ndarray,
    marked: Collection[int] = (),
) -> str:
    """The first tokens in one line, those at the `marked` positions in brackets.

    <s>, </s> and <pad> are left out, and what follows </s> too; other special pieces stand as they
    are spelled.
    """
    text, shown = "", 0
    for position, each in enumerate(np.asarray(ids).tolist()):
        if each in (tokenizer.bos_id(), tokenizer.pad_id()):
            continue
        if each == tokenizer.eos_id():
            break
        if shown == _SHOWN:
            text += " ..."
            break
        piece = tokenizer.IdToPiece(each)
        word = piece.removeprefix("▁")
        special = tokenizer.IsControl(each)
        text += " " if special or word != piece else ""
        text += f"[{word}]" if position in marked else word
        text += " " if special else ""
        shown += 1
    return " ".join(text.split())
