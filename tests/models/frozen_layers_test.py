"""An encoder whose lowest layers have no gradient computes what the plain one does."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes.models import build
from tests.models import tiny

KINDS: list[dict[str, Any]] = [
    {},
    {"decoder_layers": 0, "norm": "post", "remat": "dots"},
    {"attention_fusion": "per_layer", "remat": "full"},
    {"attention_fusion": "shared", "scan_layers": False},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [1, 2])
def test_states_are_those_of_the_plain_encoder(kind: dict[str, Any], frozen: int) -> None:
    model = build(tiny.config(**{"encoder_layers": 3, "decoder_layers": 1} | kind))
    batch, params = tiny.batch(model.config), tiny.random_params(model, dtype="float32")

    def states(count: int) -> Any:
        tokens = batch["encoder_input_tokens"]
        return jax.jit(
            lambda p: model.apply({"params": p}, tokens, frozen_layers=count, method="encode")
        )(params)

    np.testing.assert_allclose(states(frozen), states(0), rtol=1e-5, atol=1e-5)
