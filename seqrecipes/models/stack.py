"""Layers one after the other, as a compiled loop or unrolled.

Letters as in `layers.py`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqrecipes.models.attention import saves_context
from seqrecipes.models.cache import KeysValues, Source, write
from seqrecipes.models.config import ModelConfig
from seqrecipes.models.layers import Array, TransformerLayer, constrain_hidden, layer_norm

_DOTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_REMAT = {
    "dots": _DOTS,
    "context": jax.checkpoint_policies.save_from_both_policies(_DOTS, saves_context),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class TransformerStack(nn.Module):
    """`num_layers` layers, their parameters stacked on a leading axis L, and the final LayerNorm.

    Every leaf below `layers` has shape [L, ...], whether or not the loop is unrolled.

    Attributes:
      config: the model's.
      num_layers: depth.
      every_layer: give the output of every layer, each after the final LayerNorm if pre-LN.
      causal: self-attention does not see what comes after a position.
    """

    config: ModelConfig
    num_layers: int
    every_layer: bool = False
    causal: bool = False

    def setup(self) -> None:
        self.layers = _loop(self.config, self.num_layers)(
            self.config, self.every_layer, self.causal
        )
        if self.config.norm == "pre":
            self.final_norm = layer_norm(self.config)

    def __call__(
        self,
        x_BxTxD: Array,
        lengths_B: Array | None,
        memory: Array | None,
        memory_lengths_B: Array | None,
        example_ids_B: Array | None,
        *,
        frozen_layers: int = 0,
    ) -> Array:
        """States [B, T, D] after the last layer, or [L, B, T, D] after every layer.

        The gradient of the lowest `frozen_layers` is 0 and is not computed, as long as x has none;
        with any, the layers have other dropout masks than with none.
        """
        c, inputs = self.config, (lengths_B, memory, memory_lengths_B, example_ids_B)
        if frozen_layers:
            # One loop would differentiate all layers: two, over slices of the same parameters.
            stacked = self.variables["params"]["layers"]
            lower = jax.tree.map(lambda p: jax.lax.stop_gradient(p[:frozen_layers]), stacked)
            upper = jax.tree.map(lambda p: p[frozen_layers:], stacked)
            x, states = x_BxTxD, []
            for part, length in ((lower, frozen_layers), (upper, self.num_layers - frozen_layers)):
                rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else None
                layers = _loop(c, length)(c, self.every_layer, self.causal, parent=None)
                x, of_part = layers.apply({"params": part}, x, *inputs, rngs=rngs)
                states.append(of_part)
            states_LxBxTxD = jnp.concatenate(states) if self.every_layer else None
        else:
            x, states_LxBxTxD = self.layers(x_BxTxD, *inputs)
        if states_LxBxTxD is not None:
            x = constrain_hidden(states_LxBxTxD)
        return self._normed(x)

    def _normed(self, x: Array) -> Array:
        return self.final_norm(x) if self.config.norm == "pre" else x

    def remember(self, memory: Array) -> KeysValues:
        """What the cross-attention of every layer reads of the memory: [L, B, H, S, K]."""
        _, read = self.layers.remember((), memory)
        return read

    def step(
        self, x_BxNxD: Array, past: KeysValues, source: Source, position: Array
    ) -> tuple[Array, KeysValues]:
        """States [B, N, D] of one token of each beam, and `past` with its keys and values.

        `past` is [L, B, N, H, T, K]; `position` is that of all these tokens.
        """
        x_BxNxD, new = self.layers.step(x_BxNxD, past, source.read, source, position)
        return self._normed(x_BxNxD), write(past, new, position)


def _loop(config: ModelConfig, length: int) -> Any:
    """A class of so many layers, one after the other."""
    layer: Any = TransformerLayer
    if config.remat != "none":
        policy = _REMAT[config.remat]
        layer = nn.remat(layer, policy=policy, prevent_cse=not config.scan_layers)

    def over_layers(in_axes: Any) -> dict[str, Any]:
        return {
            "variable_axes": {"params": 0},
            "split_rngs": {"params": True, "dropout": True},
            "in_axes": in_axes,
            "length": length,
            "unroll": 1 if config.scan_layers else length,
        }

    every = nn.broadcast
    methods = {"__call__": every, "remember": every, "step": (0, 0, every, every)}
    return nn.scan(layer, methods={name: over_layers(axes) for name, axes in methods.items()})
