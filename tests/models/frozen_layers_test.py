"""An encoder whose lowest layers have no gradient computes what the plain one does."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.models import build
from seqrecipes.models.stack import TransformerStack
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


def stack_of_two(dropout: float) -> tuple[TransformerStack, dict[str, Any]]:
    """Two layers of which each adds 1 to every element, and the stack's final LayerNorm."""
    stack = TransformerStack(tiny.config(dropout=dropout), 2)
    x = jnp.zeros((1, 1, 16))
    shapes = jax.eval_shape(lambda: stack.init(jax.random.key(0), x, None, None, None, None))
    values = {path: np.zeros(x.shape, np.float32) for path, x in tree.flatten(shapes).items()}
    values["params/final_norm/scale"] += 1
    values["params/layers/mlp/output/bias"] += 1
    return stack, tree.unflatten(values)


@pytest.mark.parametrize("frozen", [0, 1])
def test_each_layer_has_dropout_of_its_own(frozen: int) -> None:
    stack, variables = stack_of_two(dropout=0.5)
    rows, width = 8, 16
    states = stack.apply(
        variables,
        jnp.zeros((rows, 1, width)),
        None,
        None,
        None,
        jnp.arange(rows),
        frozen_layers=frozen,
        rngs={"dropout": jax.random.key(0)},
    )
    # Kept by no layer, by one, by both: with one mask for both layers there would be two values.
    kinds = [len(np.unique(np.round(row, 3))) for row in np.asarray(states)]
    assert max(kinds) == 3
    assert min(kinds) > 1
    assert len({row.tobytes() for row in np.asarray(states)}) == rows
