"""A stack of layers: every sub-layer of every layer draws dropout of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqrecipes import tree
from seqrecipes.models.stack import TransformerStack
from tests.models import tiny

WIDTH, ROWS = 256, 4


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_each_layer_and_each_sublayer_has_dropout_of_its_own(
    frozen: int, scan_layers: bool
) -> None:
    config = tiny.config(dropout=0.5, hidden_size=WIDTH, scan_layers=scan_layers)
    stack, x = TransformerStack(config, 2), jnp.zeros((ROWS, 1, WIDTH))
    shapes = jax.eval_shape(lambda: stack.init(jax.random.key(0), x, None, None, None, None))
    values = {path: np.zeros(leaf.shape, np.float32) for path, leaf in tree.flatten(shapes).items()}
    values["params/final_norm/scale"] += 1
    # Two layers of two sub-layers: each adds another power of two, where its mask keeps it.
    for power, sublayer in enumerate(("self_attention", "mlp")):
        values[f"params/layers/{sublayer}/output/bias"] += 4.0**power * np.float32([[1], [2]])
    states = stack.apply(
        tree.unflatten(values),
        x,
        None,
        None,
        None,
        jnp.arange(ROWS),
        frozen_layers=frozen,
        rngs={"dropout": jax.random.key(0)},
    )
    rows = np.asarray(states)[:, 0]
    # All 16 combinations of four masks. Were two of them one, there would be 8 at most.
    assert [len(np.unique(np.round(row, 3))) for row in rows] == [16] * ROWS
    assert len({row.tobytes() for row in rows}) == ROWS, "each example has masks of its own"
