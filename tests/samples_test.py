"""Predictions for a person: what is read, written and right, of both kinds of model."""

from __future__ import annotations

import json
import types
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from seqrecipes import samples
from seqrecipes.config.finetuning import Search
from seqrecipes.config.training import Partitioning
from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.stream import validation_stream
from seqrecipes.models import EncoderOnly, build, init_params
from seqrecipes.models.decoding import make_generate
from seqrecipes.training import checkpoints
from tests.data.conftest import (  # noqa: F401 -- fixtures
    LENGTH,
    cache_dir,
    configured,
    prepared,
    sample_task,
    vocabulary,
    vocabulary_path,
)
from tests.models import tiny

COUNT = 3


class Perfect(EncoderOnly):
    """Knows the targets."""

    @nn.compact
    def __call__(self, batch: Any, example_ids_B: Any = None) -> Any:
        return jax.nn.one_hot(batch["masked_targets"], self.config.vocab_size)


def predicted(model: Any, params: Any, stream: Any, vocabulary: Any) -> list[samples.Sample]:  # noqa: F811
    training: Any = types.SimpleNamespace(model=model, partitioning=Partitioning())
    mesh = Partitioning().mesh()
    return samples.predict(training, mesh, params, stream, vocabulary, COUNT)


def originals(blocks: Any, stream: Any, tokenizer: Any) -> list[str]:
    """The first tokens of the records that stand for the whole stream, without spaces."""
    wanted = np.linspace(0, stream.size - 1, COUNT).astype(int)
    found = []
    for language, _, block in np.stack(stream.order.locate(wanted), axis=1).tolist():
        _, (ids,) = blocks.record("validation", language, block)
        found.append("".join(map(tokenizer.IdToPiece, ids[:32].tolist())).replace("▁", ""))
    assert len(set(found)) == COUNT
    return found


def test_masked_tokens_are_filled_in(prepared, vocabulary):  # noqa: F811
    blocks = prepared("mlm")
    stream = validation_stream(blocks, OBJECTIVES["mlm"], seed=0)
    config = tiny.config(vocab_size=vocabulary.size, decoder_layers=0, max_positions=LENGTH)
    found = predicted(Perfect(config), {}, stream, vocabulary)
    for sample, original in zip(
        found, originals(blocks, stream, vocabulary.tokenizer), strict=True
    ):
        assert sample.written == sample.right != sample.read
        assert "<mask>" in sample.read and "<mask>" not in sample.right
        assert sample.right.endswith(" ...")
        bare = "".join(sample.right.removesuffix(" ...").split())
        # [DOC] is a piece of that name.
        assert bare.replace("[DOC]", "DOC").replace("[", "").replace("]", "") == original.replace(
            "[DOC]", "DOC"
        )


def test_a_noised_text_is_restored(prepared, vocabulary):  # noqa: F811
    blocks = prepared("span_mask")
    stream = validation_stream(blocks, OBJECTIVES["span_mask"], seed=0)
    config = tiny.config(vocab_size=vocabulary.size, decoder_layers=1, max_positions=LENGTH + 8)
    model = build(config)
    params = tiny.random_params(model, dtype="float32")
    found = predicted(model, params, stream, vocabulary)
    assert ["".join(each.right.removesuffix(" ...").split()) for each in found] == originals(
        blocks, stream, vocabulary.tokenizer
    )
    assert all("<mask>" in each.read for each in found)
    wanted = np.linspace(0, stream.size - 1, COUNT).astype(int)
    generate = make_generate(model, Search(max_length=33), pieces=vocabulary.size)
    tokens = generate(params, stream.examples(wanted)["encoder_input_tokens"]).tokens[:, 0]
    assert [each.written for each in found] == [
        samples.spelled(vocabulary.tokenizer, row) for row in np.asarray(tokens)
    ]
    assert len({each.written for each in found}) > 1


@pytest.mark.parametrize(
    ("ids", "marked", "expected"),
    [
        (["<s>", "▁a", "b", "</s>", "▁c"], [], "ab"),
        (["<s>", "▁a", "<mask>", "b", "<pad>"], [2, 3], "a [<mask>] [b]"),
        (["▁a", "[DOC]", "▁b"], [2], "a [DOC] [b]"),
        (["▁a"] * 33, [], " ".join(["a"] * 32) + " ..."),
    ],
)
def test_tokens_are_spelled(ids, marked, expected):
    specials = {"<s>": 0, "<pad>": 1, "</s>": 2, "<mask>": 3, "[DOC]": 4}
    names = [*specials, "▁a", "▁b", "▁c", "b"]
    tokenizer: Any = types.SimpleNamespace(
        bos_id=lambda: 0,
        pad_id=lambda: 1,
        eos_id=lambda: 2,
        IdToPiece=names.__getitem__,
        IsControl=lambda each: each < len(specials),
    )
    assert samples.spelled(tokenizer, [names.index(each) for each in ids], marked) == expected


def test_they_are_written_once(prepared, vocabulary, tmp_path, monkeypatch):  # noqa: F811
    stream = validation_stream(prepared("mlm"), OBJECTIVES["mlm"], seed=0)
    config = tiny.config(vocab_size=vocabulary.size, decoder_layers=0, max_positions=LENGTH)
    checkpoints.save_params(
        tmp_path / "stage",
        jax.jit(lambda: init_params(config, 0))(),
        {"model": config.to_dict()},
        vocabulary=vocabulary.sp_model,
        account="random",
    )
    model = build(config)
    training: Any = types.SimpleNamespace(
        model=model,
        partitioning=Partitioning(),
        shapes=jax.eval_shape(lambda: init_params(config, 0)),
    )
    arguments = (tmp_path / "stage", training, Partitioning().mesh(), stream, vocabulary, 2)
    samples.write(*arguments)
    file = tmp_path / "stage" / "predictions.json"
    rows = json.loads(file.read_text("utf-8"))
    assert [list(row) for row in rows] == [["read", "written", "right"]] * 2
    monkeypatch.setattr(samples, "predict", None)
    samples.write(*arguments)
