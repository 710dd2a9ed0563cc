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
from flax.linen.dtypes import promote_dtype

from seqrecipes.models.attention import allowed, attend, attend_to_past, weigh
from seqrecipes.models.attention_fusion import AttentionFusion
from seqrecipes.models.cache import KeysValues, Source
from seqrecipes.models.config import ModelConfig
from seqrecipes.models.dropout import Dropout
from seqrecipes.models.fused_attention import Mix, layer_scores, mix_layers
from seqrecipes.models.products import scaled

Array = jax.Array


def kernel_init(config: ModelConfig) -> nn.initializers.Initializer:
    """N(0, initializer_range): the one initialiser of matrices and tables."""
    return nn.initializers.normal(config.initializer_range)


def _leave_bias(inputs: Any, kernel: Any, bias: Any, *, dtype: Any) -> tuple[Any, Any, Any]:
    return (*promote_dtype(inputs, kernel, dtype=dtype), bias)


class Dense(nn.Dense):
    """flax's, but that the bias is added, and so its gradient summed over tokens, in float32."""

    promote_dtype: Callable[..., Any] = _leave_bias

    def __call__(self, inputs: Array) -> Array:
        return super().__call__(inputs).astype(self.dtype)


class DenseGeneral(nn.DenseGeneral):
    """flax's, with the bias as in `Dense`."""

    promote_dtype: Callable[..., Any] = _leave_bias

    def __call__(self, inputs: Array) -> Array:
        return super().__call__(inputs).astype(self.dtype)


def layer_norm(config: ModelConfig, name: str | None = None) -> nn.LayerNorm:
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

    def setup(self) -> None:
        c = self.config
        linear = functools.partial(
            DenseGeneral,
            (c.num_heads, c.head_size),
            dtype=c.dtype,
            kernel_init=kernel_init(c),
        )
        self.query, self.key, self.value = linear(), linear(), linear()
        self.output = DenseGeneral(
            c.hidden_size, axis=(-2, -1), dtype=c.dtype, kernel_init=kernel_init(c)
        )
        self.dropout = Dropout(c.attention_dropout)

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
        drop = None
        if example_ids_B is not None and c.attention_dropout:
            drop = functools.partial(self.dropout, example_ids_B=example_ids_B)
        query_BxTxHxK = self._queries(x_BxTxD)
        if memory.ndim == 3:
            mixed_BxTxHxK = attend(
                query_BxTxHxK,
                _constrain(self.key(memory)),
                _constrain(self.value(memory)),
                lengths_B=lengths_B,
                causal=self.causal,
                # Parameters are initialised on whatever devices there are.
                implementation="xla" if self.is_initializing() else c.attention,
                drop=drop,
            )
        else:
            # Loops over layers take functions of parameters, not modules.
            bare = self.key.clone(parent=None, name=None)

            def project(params: Any, states_BxSxD: Array) -> Array:
                projected: Any = bare.apply({"params": params}, states_BxSxD)
                return _constrain(projected)

            if self.is_initializing():
                for module in (self.key, self.value):
                    module(memory[0])
            keys, values = self.key.variables["params"], self.value.variables["params"]
            scores_BxHxTxS, log_totals = layer_scores(project, query_BxTxHxK, keys, memory)
            weights_BxHxTxS = weigh(scores_BxHxTxS, lengths_B, self.causal, c.dtype, drop)
            mix = Mix(query_BxTxHxK, keys, values, weights_BxHxTxS, log_totals)
            mixed_BxTxHxK = mix_layers(project, mix, memory)
        return self.output(mixed_BxTxHxK)

    def _queries(self, x_BxTxD: Array) -> Array:
        return scaled(_constrain(self.query(x_BxTxD)), self.config.head_size**-0.5)

    def _keys_values(self, x_BxTxD: Array) -> KeysValues:
        return KeysValues(_constrain(self.key(x_BxTxD)), _constrain(self.value(x_BxTxD)))

    def remember(self, memory_BxSxD: Array) -> KeysValues:
        """Keys and values [B, H, S, K] of a memory, for `recall`."""
        return KeysValues(*(x.swapaxes(1, 2) for x in self._keys_values(memory_BxSxD)))

    def recall(self, x_BxNxD: Array, read: KeysValues, lengths_B: Array) -> Array:
        """What calling it gives with the memory that `read` was made of: [B, N, D]."""
        seen = allowed(lengths_B, False, x_BxNxD.shape[1], read.keys.shape[2])
        assert seen is not None
        return self.output(attend_to_past(self._queries(x_BxNxD), read, seen, None))

    def step(self, x_BxNxD: Array, past: KeysValues, position: Array) -> tuple[Array, KeysValues]:
        """Attends from one token of each beam to itself and to the earlier ones of its beam.

        Args:
          x_BxNxD: of N beams.
          past: keys and values [B, N, H, T, K], of which those before `position` are read.
          position: of all these tokens.

        Returns:
          [B, N, D], and the keys and values [B, N, H, K] of these tokens.
        """
        new = self._keys_values(x_BxNxD)
        seen = jnp.arange(past.keys.shape[3]) < position
        return self.output(attend_to_past(self._queries(x_BxNxD), past, seen, new)), new


def _constrain(y_BxTxHxK: Array) -> Array:
    return nn.with_logical_constraint(y_BxTxHxK, ("batch", "length", "heads", "head"))


class FeedForward(nn.Module):
    """Two matrices with the exact (erf) GELU between them."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxTxD: Array) -> Array:
        c = self.config
        h_BxTxF = Dense(c.mlp_size, dtype=c.dtype, kernel_init=kernel_init(c), name="input")(
            x_BxTxD
        )
        h_BxTxF = nn.with_logical_constraint(h_BxTxF, ("batch", "length", "mlp"))
        h_BxTxF = nn.gelu(h_BxTxF, approximate=False)
        return Dense(c.hidden_size, dtype=c.dtype, kernel_init=kernel_init(c), name="output")(
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

    def setup(self) -> None:
        c = self.config
        self.self_attention = Attention(c, self.causal)
        self.self_attention_norm, self.self_attention_dropout = layer_norm(c), Dropout(c.dropout)
        # What is never called has no parameters: all of this where there is no memory.
        self.fusion = AttentionFusion(c, in_loop=c.scan_layers)
        self.cross_attention = Attention(c)
        self.cross_attention_norm, self.cross_attention_dropout = layer_norm(c), Dropout(c.dropout)
        self.mlp = FeedForward(c)
        self.mlp_norm, self.mlp_dropout = layer_norm(c), Dropout(c.dropout)

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
        ids = example_ids_B
        x_BxTxD = self._sublayer(
            "self_attention", x_BxTxD, ids, lambda x: self.self_attention(x, x, lengths_B, ids)
        )
        if memory is not None:
            read = self._fused(memory)
            x_BxTxD = self._sublayer(
                "cross_attention",
                x_BxTxD,
                ids,
                lambda x: self.cross_attention(x, read, memory_lengths_B, ids),
            )
        x_BxTxD = self._sublayer("mlp", x_BxTxD, ids, self.mlp)
        return x_BxTxD, x_BxTxD if self.every_layer else None

    def remember(self, carry: tuple[()], memory: Array) -> tuple[tuple[()], KeysValues]:
        """The carry and the output of a scan over layers: what cross-attention reads (`Source`)."""
        return carry, self.cross_attention.remember(self._fused(memory))

    def step(
        self,
        x_BxNxD: Array,
        past: KeysValues,
        read: KeysValues | None,
        source: Source,
        position: Array,
    ) -> tuple[Array, KeysValues]:
        """This layer for one token of each beam.

        Args:
          x_BxNxD: of N beams.
          past: of this layer's self-attention, as `Attention.step` reads it.
          read: of the source for this layer's cross-attention, if `source` has such.
          source: of all layers.
          position: of all these tokens.

        Returns:
          The carry and the output of a scan over layers: x, and keys and values [B, N, H, K].
        """
        new: list[KeysValues] = []

        def look_back(x: Array) -> Array:
            mixed, of_tokens = self.self_attention.step(x, past, position)
            new.append(of_tokens)
            return mixed

        def look_up(x: Array) -> Array:
            if read is None:
                assert source.memory is not None
                # Beams stand where positions do: cross-attention does not tell the two apart.
                return self.cross_attention(x, source.memory, source.lengths_B, None)
            return self.cross_attention.recall(x, read, source.lengths_B)

        x_BxNxD = self._sublayer("self_attention", x_BxNxD, None, look_back)
        x_BxNxD = self._sublayer("cross_attention", x_BxNxD, None, look_up)
        return self._sublayer("mlp", x_BxNxD, None, self.mlp), new[0]

    def _fused(self, memory: Array) -> Array:
        return self.fusion(memory) if self.config.attention_fusion == "per_layer" else memory

    def _sublayer(
        self, name: str, x: Array, ids_B: Array | None, function: Callable[[Array], Array]
    ) -> Array:
        norm, drop = getattr(self, f"{name}_norm"), getattr(self, f"{name}_dropout")
        if self.config.norm == "pre":
            x = x + drop(function(norm(x)), ids_B)
        else:
            x = norm(x + drop(function(x), ids_B))
        return constrain_hidden(x)
