"""Transformer layers, pre- or post-LayerNorm, shared by encoder and decoder.

Letters in shape suffixes: B batch, T query length, S key length, D hidden size, F feed-forward
size, H heads, K head size, L layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqrecipes.models.attention import attend, saves_context, weigh
from seqrecipes.models.config import ModelConfig
from seqrecipes.models.dropout import Dropout
from seqrecipes.models.fused_attention import Mix, layer_scores, mix_layers
from seqrecipes.models.products import wide

Array = jax.Array

_DOTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_REMAT = {
    "dots": _DOTS,
    "context": jax.checkpoint_policies.save_from_both_policies(_DOTS, saves_context),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def kernel_init(config: ModelConfig) -> nn.initializers.Initializer:
    """N(0, initializer_range): the one initialiser of matrices and tables."""
    return nn.initializers.normal(config.initializer_range)


def layer_norm(config: ModelConfig, name: str) -> nn.LayerNorm:
    """LayerNorm with the centred variance, computed in float32 whatever the type of the input."""
    # The fast variance E[x^2] - E[x]^2 cancels catastrophically on inputs with a large mean.
    return nn.LayerNorm(
        epsilon=config.norm_epsilon, dtype=config.dtype, use_fast_variance=False, name=name
    )


def constrain_hidden(x: Array) -> Array:
    """Names the axes of states [..., B, T, D], for the mesh in use (none: no effect)."""
    layers = (None,) * (x.ndim - 3)
    return nn.with_logical_constraint(x, (*layers, "batch", "length", "hidden"))


class Attention(nn.Module):
    """Multi-head attention with biases everywhere; the softmax is computed in float32.

    Attributes:
      config: the model's.
      causal: position t of x attends to positions 0 to t of the memory only.
    """

    config: ModelConfig
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x_BxTxD: Array,
        memory: Array,
        lengths_B: Array | None,
        example_ids_B: Array | None,
    ) -> Array:
        """Attends from x to the first tokens of memory (None: to all): [B, T, D].

        The memory is [B, S, D], or [L, B, S, D] for a fusion by the queries (`fused_attention`).
        """
        c = self.config

        def linear(name: str) -> nn.DenseGeneral:
            return nn.DenseGeneral(
                (c.num_heads, c.head_size), dtype=c.dtype, kernel_init=kernel_init(c), name=name
            )

        def constrain(y: Array) -> Array:
            return nn.with_logical_constraint(y, ("batch", "length", "heads", "head"))

        drop = None
        if example_ids_B is not None and c.attention_dropout:
            dropout = Dropout(c.attention_dropout, name="dropout")
            drop = functools.partial(dropout, example_ids_B=example_ids_B)
        query_BxTxHxK = constrain(linear("query")(x_BxTxD)) * c.head_size**-0.5
        key, value = linear("key"), linear("value")
        if memory.ndim == 3:
            mixed_BxTxHxK = attend(
                query_BxTxHxK,
                constrain(key(memory)),
                constrain(value(memory)),
                lengths_B=lengths_B,
                causal=self.causal,
                # Parameters are initialised on whatever devices there are.
                implementation="xla" if self.is_initializing() else c.attention,
                drop=drop,
            )
        else:
            # Loops over layers take functions of parameters, not modules.
            bare = key.clone(parent=None, name=None)

            def project(params: Any, states_BxSxD: Array) -> Array:
                projected: Any = bare.apply({"params": params}, states_BxSxD)
                return constrain(projected)

            if self.is_initializing():
                for module in (key, value):
                    module(memory[0])
            keys, values = key.variables["params"], value.variables["params"]
            scores_BxHxTxS, log_totals = layer_scores(project, query_BxTxHxK, keys, memory)
            weights_BxHxTxS = weigh(scores_BxHxTxS, lengths_B, self.causal, c.dtype, drop)
            mix = Mix(query_BxTxHxK, keys, values, weights_BxHxTxS, log_totals)
            mixed_BxTxHxK = mix_layers(project, mix, memory)
        return nn.DenseGeneral(
            c.hidden_size, axis=(-2, -1), dtype=c.dtype, kernel_init=kernel_init(c), name="output"
        )(mixed_BxTxHxK)


def layer_weights(query_D: Array, states_LxBxSxD: Array) -> Array:
    """Softmax over layers of <query, state> / sqrt(D): [L, B, S], in float32 at least."""
    dtype = wide(states_LxBxSxD.dtype)
    # Products and a sum, not a matrix product: that would want the states copied to float32.
    products_LxBxSxD = states_LxBxSxD.astype(dtype) * query_D.astype(dtype)
    scores_LxBxS = jnp.sum(products_LxBxSxD, axis=-1) * query_D.size**-0.5
    return jax.nn.softmax(scores_LxBxS, axis=0)


def fuse_layers(query_D: Array, states_LxBxSxD: Array) -> Array:
    """For each token the sum of its states, weighted by `layer_weights`: [B, S, D]."""
    weights_LxBxS = layer_weights(query_D, states_LxBxSxD)
    fused_BxSxD = jnp.sum(weights_LxBxS[..., None] * states_LxBxSxD, axis=0)
    return fused_BxSxD.astype(states_LxBxSxD.dtype)


class AttentionFusion(nn.Module):
    """One memory out of the states of all encoder layers, by one learned query.

    Soltan et al. 2023, section 2.1.5, let the decoder attend to all encoder layers and give no
    formula. Here a token's weights over layers come from its own states (`layer_weights`); the
    query is all there is to learn, and starts at zero: the mean of the layers.

    Attributes:
      config: the model's.
      in_loop: it runs in the body of a compiled loop.
    """

    config: ModelConfig
    in_loop: bool

    @nn.compact
    def __call__(self, states_LxBxSxD: Array) -> Array:
        """The weighted sum over layers [B, S, D]."""
        query_D = self.param("query", nn.initializers.zeros, (self.config.hidden_size,))
        # Else each decoder layer would keep float32 copies of all encoder layers' states for the
        # backward pass. In a loop nothing can be merged across passes, so no barrier is needed.
        fuse = jax.checkpoint(fuse_layers, prevent_cse=not self.in_loop)
        return constrain_hidden(fuse(query_D, states_LxBxSxD))


class FeedForward(nn.Module):
    """Two matrices with the exact (erf) GELU between them."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxTxD: Array) -> Array:
        c = self.config
        h_BxTxF = nn.Dense(c.mlp_size, dtype=c.dtype, kernel_init=kernel_init(c), name="input")(
            x_BxTxD
        )
        h_BxTxF = nn.with_logical_constraint(h_BxTxF, ("batch", "length", "mlp"))
        h_BxTxF = nn.gelu(h_BxTxF, approximate=False)
        return nn.Dense(c.hidden_size, dtype=c.dtype, kernel_init=kernel_init(c), name="output")(
            h_BxTxF
        )


class TransformerLayer(nn.Module):
    """Self-attention, cross-attention if there is a memory, feed-forward.

    Each sub-layer f with its LayerNorm and dropout updates the residual stream x:
    pre-LN: x + drop(f(norm(x))); post-LN: norm(x + drop(f(x))).

    Attributes:
      config: the model's.
      every_layer: a loop over layers stacks the output of each.
      causal: self-attention does not see what comes after a position.
    """

    config: ModelConfig
    every_layer: bool = False
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        x_BxTxD: Array,
        lengths_B: Array | None,
        memory: Array | None,
        memory_lengths_B: Array | None,
        example_ids_B: Array | None,
    ) -> tuple[Array, Array | None]:
        """One layer; the memory is [B, S, D], or [L, B, S, D] for a fusion inside the layer.

        Lengths int32[B] say how many tokens of x and of the memory may be attended to, None all.

        Returns:
          The carry and the output of a scan over layers: x, and x again or None.
        """
        c = self.config

        def sublayer(name: str, x: Array, function: Callable[[Array], Array]) -> Array:
            norm = layer_norm(c, f"{name}_norm")
            drop = Dropout(c.dropout, name=f"{name}_dropout")
            if c.norm == "pre":
                x = x + drop(function(norm(x)), example_ids_B)
            else:
                x = norm(x + drop(function(x), example_ids_B))
            return constrain_hidden(x)

        inner = Attention(c, self.causal, name="self_attention")
        x_BxTxD = sublayer(
            "self_attention", x_BxTxD, lambda x: inner(x, x, lengths_B, example_ids_B)
        )
        if memory is not None:
            if c.attention_fusion == "per_layer":
                memory = AttentionFusion(c, in_loop=c.scan_layers, name="fusion")(memory)
            cross = Attention(c, name="cross_attention")
            x_BxTxD = sublayer(
                "cross_attention",
                x_BxTxD,
                lambda x: cross(x, memory, memory_lengths_B, example_ids_B),
            )
        x_BxTxD = sublayer("mlp", x_BxTxD, FeedForward(c, name="mlp"))
        return x_BxTxD, x_BxTxD if self.every_layer else None


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

    @nn.compact
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
        layer = TransformerLayer
        if c.remat != "none":
            layer = nn.remat(layer, policy=_REMAT[c.remat], prevent_cse=not c.scan_layers)

        def loop(length: int) -> Any:
            return nn.scan(
                layer,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=nn.broadcast,
                length=length,
                unroll=1 if c.scan_layers else length,
            )

        if frozen_layers:
            # One loop would differentiate all layers: two, over slices of the same parameters.
            stacked = self.variables["params"]["layers"]
            lower = jax.tree.map(lambda p: jax.lax.stop_gradient(p[:frozen_layers]), stacked)
            upper = jax.tree.map(lambda p: p[frozen_layers:], stacked)
            x, states = x_BxTxD, []
            for part, length in ((lower, frozen_layers), (upper, self.num_layers - frozen_layers)):
                rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else None
                layers = loop(length)(c, self.every_layer, self.causal, parent=None)
                x, of_part = layers.apply({"params": part}, x, *inputs, rngs=rngs)
                states.append(of_part)
            states_LxBxTxD = jnp.concatenate(states) if self.every_layer else None
        else:
            layers = loop(self.num_layers)(c, self.every_layer, self.causal, name="layers")
            x, states_LxBxTxD = layers(x_BxTxD, *inputs)
        if states_LxBxTxD is not None:
            x = constrain_hidden(states_LxBxTxD)
        return layer_norm(c, "final_norm")(x) if c.norm == "pre" else x
