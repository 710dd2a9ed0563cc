"""Whether a checkpoint is whole: its parts are there, and read as they were written.

Checksums are made of the arrays in memory and kept in the checkpoint's metadata.

A leaf's checksum is the sum, in 32-bit arithmetic, of a hash of each of its words with the word's
position: exact and in any order, so that it is the same on every mesh and for any number of
processes. Every changed word changes it, and two faults cancel each other once in 2^32 times. It
costs one pass over the arrays, on the devices.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from seqrecipes.errors import UserError

log = logging.getLogger(__name__)

Checksums = dict[str, int]

# Names in a checkpoint's metadata.
ARRAYS, OWN = "checksums", "checksum"
# Orbax's mark of a checkpoint's folder, and what every checkpoint has.
_PARTS = ("_CHECKPOINT_METADATA", "params/_METADATA", "metadata/metadata")
_CHUNK = 2**15  # words of an array in host memory at a time: they fit the cache


class Damaged(Exception):
    """What was read is not what was written; says what."""


def of_tree(values: Any) -> Checksums:
    """{path: checksum} of a tree of arrays, the same in every process that holds a part of it."""
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(values)[0], strict=True)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    sharding = getattr(leaves[0], "sharding", None)
    mesh = sharding.mesh if isinstance(sharding, NamedSharding) else None
    return dict(zip(names, np.asarray(_program(mesh)(list(leaves))).tolist(), strict=True))


@functools.cache
def _program(mesh: Any) -> Any:
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda leaves: jnp.stack([*map(_sum, leaves)]), out_shardings=everywhere)


def _sum(leaf: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * min(leaf.dtype.itemsize, 4)}")
    words = bits.astype(jnp.uint32)
    position: Any = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        position += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    return jnp.sum(_mixed(words, position), dtype=jnp.uint32)


def _mixed(words: Any, position: Any) -> Any:
    """uint32 of words at positions: a bijection of the word (the finaliser of MurmurHash3)."""
    x = words + position * np.uint32(0x9E3779B1)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x


def of_array(array: np.ndarray) -> int:
    """The checksum of an array in host memory."""
    words = np.ascontiguousarray(array).view(f"uint{8 * min(array.itemsize, 4)}").reshape(-1)
    total = 0
    for start in range(0, words.size, _CHUNK):
        part = words[start : start + _CHUNK].astype(np.uint32)
        position = np.arange(start, start + part.size).astype(np.uint32)
        total += int(np.sum(_mixed(part, position), dtype=np.uint32))
    return total % 2**32


def sealed(metadata: Mapping[str, Any], arrays: Mapping[str, Checksums]) -> dict[str, Any]:
    """Metadata with the checksums of a checkpoint's items, and with one of its own."""
    whole = {**metadata, ARRAYS: dict(arrays)}
    return {**whole, OWN: _of_json(whole)}


def check_metadata(metadata: Mapping[str, Any]) -> None:
    """Compares metadata with its own checksum.

    Raises:
      Damaged: they differ.
    """
    rest = {name: value for name, value in metadata.items() if name != OWN}
    if OWN in metadata and metadata[OWN] != _of_json(rest):
        raise Damaged("metadata reads otherwise than it was written")


def check_arrays(metadata: Mapping[str, Any], item: str, found: Checksums) -> None:
    """Compares the arrays of an item, or some of them, with their checksums.

    Raises:
      Damaged: names the first that differs.
    """
    if ARRAYS not in metadata:
        log.warning("%s: written before checkpoints had checksums, read unverified", item)
        return
    for path, value in found.items():
        if metadata[ARRAYS][item].get(path) != value:
            raise Damaged(f"{item}/{path} reads otherwise than it was written")


def _of_json(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def complete_steps(folder: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, ascending."""
    return sorted(int(each.name) for each in _named(folder) if is_complete(each))


def is_complete(checkpoint: pathlib.Path) -> bool:
    """Whether the folder holds a checkpoint of which nothing is missing at first sight."""
    return all((checkpoint / part).is_file() for part in _PARTS)


def check_complete(folder: pathlib.Path) -> None:
    """Refuses a folder with a step's name that holds no complete checkpoint.

    Raises:
      UserError: says which step to go on from, and how.
    """
    for each in _named(folder):
        if not is_complete(each):
            raise UserError("MODEL_DIR", str(each), f"is no complete checkpoint; {_remedy(each)}")


@contextlib.contextmanager
def intact(checkpoint: pathlib.Path) -> Iterator[None]:
    """Turns what damaged files lead to, whichever library finds it, into one error.

    Raises:
      UserError: says which step to go on from, and how.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        found = str(error).strip().split("\n")[0][:200] or type(error).__name__
        remedy = f"is damaged ({found}); {_remedy(checkpoint)}"
        raise UserError("MODEL_DIR", str(checkpoint), remedy) from error


def _named(folder: pathlib.Path) -> list[pathlib.Path]:
    return [each for each in folder.glob("*") if each.name.isdigit()]


def _remedy(damaged: pathlib.Path) -> str:
    steps = complete_steps(damaged.parent)
    before = max((step for step in steps if step < int(damaged.name)), default=None)
    if before is None:
        return "there is none before it: remove the folder, and the stage begins anew"
    return (
        f"the one before is that of step {before:,}: remove the folder, and the same command goes "
        f"on from there; elsewhere name {damaged.with_name(str(before))}"
    )
