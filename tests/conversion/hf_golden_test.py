"""Models of the four classes, imported, compute what transformers computed when it was asked."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from seqrecipes import models
from seqrecipes.conversion.hf import load
from tests.conversion import golden
from tests.conversion.harness import on_one_device

CASES = json.loads(golden.FILE.read_text("utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(tmp_path, name):
    case = CASES[name]
    tensors = {key: golden.tensor(key, tuple(shape)) for key, shape in case["tensors"].items()}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(case["config"]))
    found = load.load(tmp_path, placement=on_one_device)
    batch = {"encoder_input_tokens": golden.SOURCE, "decoder_input_tokens": golden.TARGET}
    if not found.config.decoder_layers:
        every = np.broadcast_to(np.arange(golden.SOURCE.shape[1]), golden.SOURCE.shape)
        batch = {"encoder_input_tokens": golden.SOURCE, "masked_positions": every}
    with jax.default_matmul_precision("highest"):
        logits = models.build(found.config).apply({"params": found.params}, batch)
    np.testing.assert_allclose(golden.kept(np.asarray(logits)), case["logits"], atol=2e-5)
