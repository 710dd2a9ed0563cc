"""Stacked parameters by slices of layers.

The leaves of a stack are [L, ...], one row a layer. Where some of the layers train and others do
not, a leaf is handled as slices along L, named by its path and rows: `.../mlp/input/kernel[4:8]`.
Everywhere else a leaf is whole and its name is its path.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

_SLICE = re.compile(r"(.+)\[(\d+):(\d+)\]")


def names(path: str, bounds: Sequence[int]) -> list[str]:
    """The slices of a leaf between each bound and the next."""
    return [f"{path}[{start}:{stop}]" for start, stop in itertools.pairwise(bounds)]


def parse(name: str) -> tuple[str, slice | None]:
    """A leaf's path, and the rows that the name speaks of; None for all."""
    if match := _SLICE.fullmatch(name):
        return match[1], slice(int(match[2]), int(match[3]))
    return name, None


def path_of(name: str) -> str:
    """The path of the leaf: what rules over parameters see."""
    return parse(name)[0]


def shape(leaf: Any, name: str) -> tuple[int, ...]:
    """Shape of the leaf, or slice of it, that the name selects."""
    _, rows = parse(name)
    return leaf.shape if rows is None else (rows.stop - rows.start, *leaf.shape[1:])


def take(leaves: Mapping[str, Any], name: str) -> Any:
    """What the name speaks of, out of {path: leaf}."""
    path, rows = parse(name)
    return leaves[path] if rows is None else leaves[path][rows]


def join(parts: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} of {name: leaf or slice}; the slices of a leaf must be complete."""
    rows: dict[str, dict[int, Any]] = {}
    for name, part in parts.items():
        path, where = parse(name)
        rows.setdefault(path, {})[where.start if where else 0] = part
    return {
        path: jnp.concatenate([found[start] for start in sorted(found)])
        if len(found) > 1
        else found[0]
        for path, found in rows.items()
    }
