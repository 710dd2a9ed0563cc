"""Where imported parameters go in most tests."""

from __future__ import annotations

import jax

from seqrecipes import tree


def on_one_device(shapes: tree.Tree) -> dict[str, jax.sharding.Sharding]:
    """Every leaf whole, on the first device."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return dict.fromkeys(tree.flatten(shapes), sharding)
