"""Reading compiled programs: which arrays they name, and what devices send to each other."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Training
from seqrecipes.training.phases import Span

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_CALLED = re.compile(r"\b(?:body|condition|calls|to_apply)=%?([\w.-]+)")
_TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
# Of an asynchronous pair the second is counted: the first one's result names the input too.
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-done)?\(")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array on one device, as a compiled program names it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        bits = re.search(r"\d+", self.dtype)
        return self.size * (int(bits[0]) // 8 if bits else 1)


@dataclasses.dataclass(frozen=True)
class Collective:
    """What devices send to each other in one place of a program.

    Attributes:
      kind: one of `KINDS`.
      arrays: what each device has afterwards.
      times: how often in one run of the program: more than once within loops.
    """

    kind: str
    arrays: tuple[Array, ...]
    times: int

    @property
    def nbytes(self) -> int:
        """Bytes of the results on one device, over all times.

        What crosses the wires depends on the algorithm: a ring of n devices sends (n - 1) / n of an
        all-gather's result, twice that of an all-reduce's, and n - 1 times a reduce-scatter's.
        """
        return self.times * sum(array.nbytes for array in self.arrays)


def lower(training: Training, span: Span, mesh: Mesh) -> Any:
    """The update of a phase, traced for a mesh and ready to compile; nothing is allocated."""
    with training.partitioning.on(mesh):
        rows = parts.batch_sharding(mesh)
        batch = {
            name: jax.ShapeDtypeStruct((training.batch_size, length), jnp.int32, sharding=rows)
            for name, length in training.features.items()
        }
        state = training.abstract_state(span, mesh)
        return training.compile_step(span, mesh).lower(state, batch)


def arrays(hlo: str) -> set[Array]:
    """All arrays that the text of a program names, those within fused operations too."""
    return {_array(*found) for found in _ARRAY.findall(hlo)}


def collectives(hlo: str) -> list[Collective]:
    """All collectives in the text of a compiled program, as one device sees them.

    Raises:
      ValueError: one is in a loop of which the compiler does not know how often it turns.
    """
    callers: dict[str, list[tuple[str, int | None]]] = {}
    found: list[tuple[str, str, str]] = []
    name = ""
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[1]
            continue
        if match := _COLLECTIVE.search(line):
            found.append((name, match[2], match[1]))
        called = _CALLED.findall(line)
        if called:
            known = _TURNS.search(line)
            turns = (int(known[1]) if known else None) if " while(" in line else 1
            for each in called:
                callers.setdefault(each, []).append((name, turns))

    def times(computation: str) -> int:
        if computation not in callers:
            return 1
        total = 0
        for caller, turns in callers[computation]:
            if turns is None:
                raise ValueError(f"nobody knows how often {computation} of {caller} runs")
            total += turns * times(caller)
        return total

    return [
        Collective(kind, tuple(_array(*a) for a in _ARRAY.findall(result)), times(computation))
        for computation, kind, result in found
    ]


def _array(dtype: str, dims: str) -> Array:
    return Array(dtype, tuple(int(dim) for dim in dims.split(",") if dim))
