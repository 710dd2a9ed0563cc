"""One memory out of the states of all encoder layers, by a learned query.

Letters as in `layers.py`.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from seqrecipes.models.config import ModelConfig
from seqrecipes.models.products import wide

Array = jax.Array


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
        fused_BxSxD = fuse(query_D, states_LxBxSxD)
        return nn.with_logical_constraint(fused_BxSxD, ("batch", "length", "hidden"))
