"""Attention over queries, keys and values: the implementations, and which of them computes.

`xla` writes scores and weights of all pairs of tokens to memory, and is the one that can drop
weights. The fused kernels keep them on the chip: `cudnn` on NVIDIA GPUs from Ampere on, `tpu` is
the splash attention that JAX brings along. They take no mask and no bias but what they make out of
lengths and causality as they go: a boolean mask would become an additive bias, which costs a read
of all pairs, and in the backward pass a write of its unused gradient.

Letters as in `layers.py`.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from seqrecipes.errors import UserError
from seqrecipes.models.cache import KeysValues
from seqrecipes.models.config import kernel_obstacle
from seqrecipes.models.fused_attention import dot_scores
from seqrecipes.models.products import wide_product

log = logging.getLogger(__name__)

Array = jax.Array

_KERNELS = {"gpu": "cudnn", "tpu": "tpu"}
_PLATFORMS = {"cudnn": "NVIDIA GPUs", "tpu": "TPUs"}
# Names what a kernel hands to its backward pass.
_CONTEXT = "attention_context"
# Lengths T and S are padded to these: cuDNN asks for it in training, and TPUs have registers of it.
_MULTIPLES = {"cudnn": 2, "tpu": 128}
# How many keys or queries a tile of the TPU kernel has at most.
_TILE = 512


def attend(
    query_BxTxHxK: Array,
    key_BxSxHxK: Array,
    value_BxSxHxK: Array,
    *,
    lengths_B: Array | None,
    causal: bool,
    implementation: str,
    drop: Callable[[Array], Array] | None,
) -> Array:
    """softmax(<query, key>) value for each head: [B, T, H, K], of the type of the query.

    Args:
      query_BxTxHxK: scaled.
      key_BxSxHxK: of its type.
      value_BxSxHxK: of its type.
      lengths_B: how many keys of each example may be attended to, from the first on; None: all.
        Where it is 0 the result is finite and means nothing.
      causal: position t attends to keys 0 to t only.
      implementation: 'xla', 'cudnn', 'tpu', or 'auto': the fused kernel of the devices in use where
        it is exact, else 'xla'; what it was, and why, is logged once.
      drop: dropout of the weights [B, H, T, S].

    Raises:
      UserError: an implementation was named that does not run on the devices in use, or cannot drop
        weights.
    """
    chosen = choose(
        implementation, str(query_BxTxHxK.dtype), query_BxTxHxK.shape[-1], drop is not None
    )
    operands = query_BxTxHxK, key_BxSxHxK, value_BxSxHxK
    if chosen == "xla":
        return _xla(*operands, lengths_B, causal, drop)
    if lengths_B is not None:
        # A fill-up row of padding alone has no key; a softmax over nothing might not be finite.
        lengths_B = jnp.maximum(lengths_B, 1)
    rows, targets, sources = *query_BxTxHxK.shape[:2], key_BxSxHxK.shape[1]
    multiple = _MULTIPLES[chosen]
    if lengths_B is None and sources % multiple and not causal:
        lengths_B = jnp.full(rows, sources, jnp.int32)
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0))) for x in operands
    )
    fused = _cudnn if chosen == "cudnn" else _tpu
    return fused(query, key, value, lengths_B, causal)[:, :targets]


def choose(implementation: str, dtype: str, head_size: int, dropping: bool) -> str:
    """The implementation that computes: 'xla', 'cudnn' or 'tpu'. Raises as `attend`."""
    platform = platform_in_use()
    kernel = _KERNELS.get(platform)
    if implementation == "auto":
        if kernel is None:
            chosen, why = "xla", "no fused kernel runs there"
        elif obstacle := kernel_obstacle(kernel, dtype, head_size, dropping):
            chosen, why = "xla", f"{kernel} {obstacle}"
        else:
            chosen, why = kernel, "fused, and exact here"
        _log_once(f"attention on {platform}: {chosen} ({why})")
        return chosen
    if implementation != "xla":
        if implementation != kernel:
            remedy = f"runs on {_PLATFORMS[implementation]}, not on {platform}; set 'auto' or 'xla'"
            raise UserError("attention", implementation, remedy)
        if obstacle := kernel_obstacle(kernel, dtype, head_size, dropping):
            raise UserError("attention", implementation, obstacle)
    return implementation


def platform_in_use() -> str:
    """'cpu', 'gpu' or 'tpu': of the mesh in use, whose devices need not be present."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()


@functools.cache
def _log_once(message: str) -> None:
    log.info(message)


def allowed(lengths_B: Array | None, causal: bool, targets: int, sources: int) -> Array | None:
    """True where a target may attend to a source, broadcastable to [B, H, T, S]; None: always."""
    parts = []
    if lengths_B is not None:
        parts.append((jnp.arange(sources) < lengths_B[:, None])[:, None, None, :])
    if causal:
        parts.append(jnp.tril(jnp.ones((1, 1, targets, sources), bool)))
    return functools.reduce(jnp.logical_and, parts) if parts else None


def weigh(
    scores_BxHxTxS: Array,
    lengths_B: Array | None,
    causal: bool,
    dtype: str,
    drop: Callable[[Array], Array] | None,
) -> Array:
    """Scores to weights [B, H, T, S]: softmax in the scores' type, then dropout in `dtype`."""
    mask = allowed(lengths_B, causal, *scores_BxHxTxS.shape[2:])
    if mask is not None:
        scores_BxHxTxS = jnp.where(mask, scores_BxHxTxS, jnp.finfo(scores_BxHxTxS.dtype).min)
    weights_BxHxTxS = jax.nn.softmax(scores_BxHxTxS).astype(dtype)
    return weights_BxHxTxS if drop is None else drop(weights_BxHxTxS)


def attend_to_past(
    query_BxNxHxK: Array, past: KeysValues, seen: Array, new: KeysValues | None
) -> Array:
    """softmax(<query, key>) value for one token of each of N beams: [B, N, H, K].

    Computed plainly on all platforms: a token's scores take no room worth a kernel.

    Args:
      query_BxNxHxK: scaled.
      past: keys and values of each beam [B, N, H, S, K], or for all of a source [B, H, S, K].
      seen: which of them may be attended to, broadcastable to [B, N, H, S].
      new: keys and values [B, N, H, K] of the tokens themselves, attended to as well.
    """
    keys = "bnhsk" if past.keys.ndim == 5 else "bhsk"
    scores = wide_product(f"bnhk,{keys}->bnhs", query_BxNxHxK, past.keys)
    scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
    sources = scores.shape[-1]
    if new is not None:
        own_BxNxH = wide_product("bnhk,bnhk->bnh", query_BxNxHxK, new.keys)
        scores = jnp.concatenate([scores, own_BxNxH[..., None]], axis=-1)
    weights = jax.nn.softmax(scores).astype(query_BxNxHxK.dtype)
    mixed_BxNxHxK = jnp.einsum(f"bnhs,{keys}->bnhk", weights[..., :sources], past.values)
    return mixed_BxNxHxK if new is None else mixed_BxNxHxK + weights[..., sources:] * new.values


def _xla(
    query_BxTxHxK: Array,
    key_BxSxHxK: Array,
    value_BxSxHxK: Array,
    lengths_B: Array | None,
    causal: bool,
    drop: Callable[[Array], Array] | None,
) -> Array:
    scores_BxHxTxS = dot_scores(query_BxTxHxK, key_BxSxHxK)
    weights_BxHxTxS = weigh(scores_BxHxTxS, lengths_B, causal, query_BxTxHxK.dtype.name, drop)
    mixed_BxTxHxK = jnp.einsum("bhts,bshk->bthk", weights_BxHxTxS, value_BxSxHxK)
    return checkpoint_name(mixed_BxTxHxK, _CONTEXT)


def _cudnn(query: Array, key: Array, value: Array, lengths_B: Array | None, causal: bool) -> Array:
    # Queries of padding are computed like the others: no one reads them, and their lengths would
    # have to come from another place than those of the keys.
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        scale=1.0,
        is_causal=causal,
        key_value_seq_lengths=lengths_B,
        implementation="cudnn",
    )


def _tpu(query: Array, key: Array, value: Array, lengths_B: Array | None, causal: bool) -> Array:
    splash = functools.partial(_splash, causal=causal)
    if jax.sharding.get_abstract_mesh().empty:
        return splash(query, key, value, lengths_B)
    # XLA does not see into the kernel, and would gather all operands onto every device.
    spec = nn.logical_to_mesh_axes(("batch", "length", "heads", "head")) or PartitionSpec()
    rows = PartitionSpec(*spec[:1])
    return jax.shard_map(
        splash, in_specs=(spec, spec, spec, rows), out_specs=spec, check_vma=False
    )(query, key, value, lengths_B)


def _splash(
    query_BxTxHxK: Array,
    key_BxSxHxK: Array,
    value_BxSxHxK: Array,
    lengths_B: Array | None,
    *,
    causal: bool,
) -> Array:
    """What one device computes."""
    # Takes a second to import, which only those who use it have to wait.
    from jax.experimental.pallas.ops.tpu import splash_attention

    batch, targets, heads, _ = query_BxTxHxK.shape
    shape = targets, key_BxSxHxK.shape[1]
    by_query, by_key = (math.gcd(length, _TILE) for length in shape)
    mask = splash_attention.CausalMask(shape) if causal else splash_attention.FullMask(shape)
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention.BlockSizes(
            block_q=by_query,
            block_kv=by_key,
            block_q_dkv=by_query,
            block_kv_dkv=by_key,
            block_q_dq=by_query,
            block_kv_dq=by_key,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=_CONTEXT,
    )
    segments = None
    if lengths_B is not None:
        # All queries are of the segment of the real keys.
        real_BxS = jnp.arange(shape[1]) < lengths_B[:, None]
        segments = splash_attention.SegmentIds(
            q=jnp.ones((batch, targets), jnp.int32), kv=real_BxS.astype(jnp.int32)
        )
    operands = (x.swapaxes(1, 2) for x in (query_BxTxHxK, key_BxSxHxK, value_BxSxHxK))
    mixed_BxHxTxK = jax.vmap(kernel)(*operands, segments)
    return mixed_BxHxTxK.swapaxes(1, 2)


def saves_context(primitive: Any, *_: Any, **params: Any) -> bool:
    """A `jax.checkpoint` policy that keeps what attention gives, so that none is computed twice."""
    # cuDNN's statistics have no name, but are results of this one.
    return primitive.name == "dot_product_attention_fwd_wrapper" or (
        primitive.name == "name" and params["name"] == _CONTEXT
    )
