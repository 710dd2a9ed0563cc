"""Cross-attention to the states of all encoder layers, which the decoder's own queries weigh.

Take one head, its scaled query q at a target position, and a source token with a key k_l and a
value v_l after every encoder layer l. Of the token the head sees

    the score sum_l a_l <q, k_l> and the value sum_l a_l v_l, with a = softmax_l(<q, k_l>).

Keys and values are affine in the states h_l and the weights sum to 1. So this is plain attention to
a memory sum_l a_l h_l, and a case of attention fusion (Soltan et al. 2023, section 2.1.5) in which
the query of each head and target position takes the place of a learned one. It adds no parameter.
One layer is plain cross-attention; a query of zero takes the mean of the layers.

Keys, values and scores exist for one layer at a time. What has to outlive a layer are two numbers
for each pair of tokens; all else is made again from the states where it is needed.

Letters as in `layers.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqrecipes.models.products import wide, wide_product

Array = jax.Array
Params = Any
# (parameters, states [B, S, D]) to keys or values [B, S, H, K].
Project = Callable[[Params, Array], Array]


def dot_scores(query_BxTxHxK: Array, key_BxSxHxK: Array) -> Array:
    """<query, key> for each head and pair of tokens: [B, H, T, S], in float32 at least."""
    return wide_product("bthk,bshk->bhts", query_BxTxHxK, key_BxSxHxK)


def _pull_back(
    function: Callable[[Any, Array], Array],
    operands: Any,
    states_LxBxSxD: Array,
    gradient_of: Callable[[Array], Array],
) -> tuple[Any, Array]:
    """Gradients with respect to operands and states of what sums function(operands, h_l) over l.

    `gradient_of` gives the gradient with respect to a result of `function` from that result.
    """

    def pull(sums: Any, states_BxSxD: Array) -> Any:
        result, back = jax.vjp(function, operands, states_BxSxD)
        of_operands, of_states = back(gradient_of(result))
        return jax.tree.map(jnp.add, sums, of_operands), of_states

    # In float32 at least, whatever the type of what is added.
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, wide(x.dtype)), operands)
    of_operands, of_states = jax.lax.scan(pull, start, states_LxBxSxD)
    return jax.tree.map(lambda x, sum_: sum_.astype(x.dtype), operands, of_operands), of_states


# Both loops over layers bring their own gradients. Differentiated as they stand, they would keep
# sums after every layer; and under a `jax.checkpoint` whose policy keeps matrix products, the keys
# and values of all layers, also if there were a checkpoint of another policy in here. Inside their
# forward rules they call themselves, because what such a call computes no policy sees.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def layer_scores(
    project: Project, query_BxTxHxK: Array, key_params: Params, states_LxBxSxD: Array
) -> tuple[Array, Array]:
    """The score of every pair of tokens, and what turns <q, k_l> into a weight a_l.

    Args:
      project: makes keys.
      query_BxTxHxK: scaled.
      key_params: what `project` makes keys with.
      states_LxBxSxD: after each encoder layer.

    Returns:
      Scores [B, H, T, S], and the logarithms [B, H, T, S] of sum_l exp(<q, k_l>), both in float32
      at least.
    """

    def add(carry: tuple[Array, Array, Array], states_BxSxD: Array) -> Any:
        # Sums of exponentials relative to the largest so far.
        largest, total, weighted = carry
        scores = dot_scores(query_BxTxHxK, project(key_params, states_BxSxD))
        larger = jnp.maximum(largest, scores)
        shrink, power = jnp.exp(largest - larger), jnp.exp(scores - larger)
        return (larger, total * shrink + power, weighted * shrink + power * scores), None

    batch, length, heads, _ = query_BxTxHxK.shape
    shape = batch, heads, length, states_LxBxSxD.shape[2]
    zeros = jnp.zeros(shape, wide(query_BxTxHxK.dtype))
    start = jnp.full_like(zeros, -jnp.inf), zeros, zeros
    (largest, total, weighted), _ = jax.lax.scan(add, start, states_LxBxSxD)
    return weighted / total, largest + jnp.log(total)


def _scores_forward(project: Project, *operands: Any) -> Any:
    results = layer_scores(project, *operands)
    return results, (operands, results)


def _scores_backward(project: Project, kept: Any, gradients: tuple[Array, Array]) -> Any:
    (*operands, states_LxBxSxD), (score, log_total) = kept
    of_score, of_log_total = gradients

    def gradient_of(layer_score: Array) -> Array:
        weight = jnp.exp(layer_score - log_total)
        return weight * (of_log_total + of_score * (1 + layer_score - score))

    def layer_score_of(operands: Any, states_BxSxD: Array) -> Array:
        query, key_params = operands
        return dot_scores(query, project(key_params, states_BxSxD))

    of_operands, of_states = _pull_back(layer_score_of, operands, states_LxBxSxD, gradient_of)
    return *of_operands, of_states


layer_scores.defvjp(_scores_forward, _scores_backward)


class Mix(NamedTuple):
    """What `mix_layers` weighs values with, and makes them with.

    Attributes:
      query_BxTxHxK: scaled.
      key_params: what the projection makes keys with.
      value_params: what the projection makes values with.
      weights_BxHxTxS: of source tokens for each target position.
      log_totals_BxHxTxS: as `layer_scores` gives them.
    """

    query_BxTxHxK: Array
    key_params: Params
    value_params: Params
    weights_BxHxTxS: Array
    log_totals_BxHxTxS: Array

    def of_layer(self, project: Project, states_BxSxD: Array) -> Array:
        """The part of one layer: [B, T, H, K], in float32 at least."""
        scores = dot_scores(self.query_BxTxHxK, project(self.key_params, states_BxSxD))
        weights_BxHxTxS = self.weights_BxHxTxS * jnp.exp(scores - self.log_totals_BxHxTxS)
        return wide_product(
            "bhts,bshk->bthk",
            weights_BxHxTxS.astype(self.weights_BxHxTxS.dtype),
            project(self.value_params, states_BxSxD),
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def mix_layers(project: Project, mix: Mix, states_LxBxSxD: Array) -> Array:
    """The sum over source tokens, by their weights, of sum_l a_l v_l.

    Args:
      project: makes keys and values.
      mix: queries, parameters, weights.
      states_LxBxSxD: after each encoder layer.

    Returns:
      [B, T, H, K], of the type of the query.
    """
    zeros = jnp.zeros(mix.query_BxTxHxK.shape, mix.log_totals_BxHxTxS.dtype)
    mixed_BxTxHxK, _ = jax.lax.scan(
        lambda mixed, states: (mixed + mix.of_layer(project, states), None), zeros, states_LxBxSxD
    )
    return mixed_BxTxHxK.astype(mix.query_BxTxHxK.dtype)


def _mix_forward(project: Project, *operands: Any) -> Any:
    return mix_layers(project, *operands), operands


def _mix_backward(project: Project, kept: Any, gradient: Array) -> Any:
    mix, states_LxBxSxD = kept
    return _pull_back(
        lambda operands, states_BxSxD: operands.of_layer(project, states_BxSxD),
        mix,
        states_LxBxSxD,
        lambda part: gradient.astype(part.dtype),
    )


mix_layers.defvjp(_mix_forward, _mix_backward)
