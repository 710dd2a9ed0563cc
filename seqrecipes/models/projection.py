"""What logits are made of, kept apart so that a loss can multiply them out piece by piece."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax

from seqrecipes.models.products import whole_rows, wide_product

Array = jax.Array


class Projection(NamedTuple):
    """What logits over a vocabulary, or over labels, are made of.

    Attributes:
      states: [..., D], in the compute type.
      table_VxD: a row for each id, in its own type, so that its gradient is of that type too.
      bias_V: added to the logits, in its own type.
    """

    states: Array
    table_VxD: Array
    bias_V: Array | None = None

    def matrix(self) -> Array:
        """The table [V, D] in the compute type."""
        return whole_rows(self.table_VxD.astype(self.states.dtype))

    def logits(self) -> Array:
        """States times the transposed table, plus the bias: [..., V], in float32 at least."""
        letters = "abcd"[: self.states.ndim - 1]
        logits = wide_product(f"{letters}x,vx->{letters}v", self.states, self.matrix())
        axes = ("batch", *(None,) * (logits.ndim - 2), "vocab")
        logits = nn.with_logical_constraint(logits, axes)
        return logits if self.bias_V is None else logits + self.bias_V


class Prediction(NamedTuple):
    """A part of what a model predicts, and what it should have been.

    Attributes:
      projection: of states [B, T, D].
      targets_BxT: ids, rows of the projection's table.
      pad_id: stands where there is no target.
    """

    projection: Projection
    targets_BxT: Array
    pad_id: int
