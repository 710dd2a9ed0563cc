"""Warm starts: one model's parameters from another's, every leaf accounted for.

The conversions stand in `conversions.py`. Here they are checked against two models, planned on
shapes, and applied to parameters.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from seqrecipes import tree
from seqrecipes.conversion import surgery
from seqrecipes.conversion.conversions import (
    CONVERSIONS,
    ENCODER,
    FINE_TUNING,
    FREE,
    SEQ2SEQ,
)
from seqrecipes.conversion.surgery import Pieces, Rows
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig
from seqrecipes.training import checkpoints
from seqrecipes.training.partitioning import Placement, laid_out

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Origin:
    """A leaf of the source, or some rows of it (None: all of it as it is)."""

    path: str
    rows: Rows | None = None


@dataclasses.dataclass(frozen=True)
class Account:
    """Where every leaf of the target came from, and what of the source was left.

    Printed, it has one line for each group of leaves and each thing that became of them. The
    numbers of parameters add up: moved and dropped ones to the source, moved, copied and new ones
    to the target.

    Attributes:
      conversion: its name.
      origins: {target path: its origin, or None for the target's own initialisation}.
      source: {path: shape} of all leaves of the source.
      target: {path: shape} of all leaves of the target.
    """

    conversion: str
    origins: dict[str, Origin | None]
    source: Shapes
    target: Shapes

    @property
    def dropped(self) -> tuple[str, ...]:
        """Paths of the source of which the target has no use at all."""
        used = {origin.path for origin in self.origins.values() if origin}
        return tuple(sorted(self.source.keys() - used))

    def __str__(self) -> str:
        groups: Counter[tuple[str, str]] = Counter()
        for path, count, fate in self._fates():
            groups[_group(path), fate] += count
        width = max(len(group) for group, _ in groups)
        lines = [
            f"  {group:<{width}}  {count:>13,}  {fate}"
            for (group, fate), count in sorted(groups.items())
            if count
        ]
        return "\n".join([f"{self.conversion}: parameters", *lines])

    def _fates(self) -> Iterator[tuple[str, int, str]]:
        for path in self.dropped:
            yield path, math.prod(self.source[path]), "dropped"
        for path, origin in self.origins.items():
            size = math.prod(self.target[path])
            if origin is None:
                yield path, size, "new"
            elif origin.path != path:
                chosen = origin.rows
                which = f" ({chosen.words(chosen.kept, 'copied')})" if chosen else ""
                yield path, size, f"copy of {_group(origin.path)}{which}"
            elif origin.rows is None:
                yield path, size, "moved"
            else:
                rows, row_size = origin.rows, math.prod(self.target[path][1:])
                kept, dropped = rows.kept, rows.dropped
                yield path, row_size * len(kept), f"moved ({rows.words(kept, 'kept')})"
                yield path, row_size * rows.new, f"new ({rows.unit}: {rows.new:,} new, the mean)"
                yield (
                    path,
                    row_size * len(dropped),
                    f"dropped ({rows.words(dropped, 'dropped')})",
                )


def _group(path: str) -> str:
    depth = 4 if "/layers/" in path else 3
    return "/".join(path.split("/")[:depth])


def check(
    name: str,
    source: ModelConfig,
    target: ModelConfig,
    *,
    source_vocabulary: str,
    target_vocabulary: str,
    pieces: Pieces | None = None,
) -> None:
    """Refuses a conversion whose result would not mean what the source means.

    Args:
      name: the conversion.
      source: configuration of the source model.
      target: configuration of the target model.
      source_vocabulary: checksum of the source's vocabulary.
      target_vocabulary: checksum of the target's vocabulary.
      pieces: of the source's vocabulary and of the target's, by id; for `new_vocabulary`.

    Raises:
      UserError: unknown conversion, wrong kind of model, another vocabulary, a field that the
        conversion keeps, or layers or pieces that it cannot choose from.
    """
    if name not in CONVERSIONS:
        raise UserError("WarmStart.conversion", name, f"choose one of {', '.join(CONVERSIONS)}")
    conversion, kinds = CONVERSIONS[name], (_kind(source), _kind(target))
    if not conversion.joins(*kinds):
        fitting = ", ".join(other for other, each in CONVERSIONS.items() if each.joins(*kinds))
        remedy = f"the source is {kinds[0]}, the target {kinds[1]}; choose one of {fitting}"
        if kinds[1] == ENCODER and conversion.joins(kinds[0], SEQ2SEQ):
            remedy += ", or a target with a decoder: convert --set decoder_layers=N"
        if kinds[1] == SEQ2SEQ and conversion.joins(kinds[0], ENCODER):
            remedy += ", or a target without a decoder: convert --set decoder_layers=0"
        raise UserError("WarmStart.conversion", name, remedy)
    if "vocab_size" not in conversion.changes and source_vocabulary != target_vocabulary:
        raise UserError(
            "vocabulary",
            target_vocabulary[:12],
            f"the source was trained with the vocabulary {source_vocabulary[:12]} (SHA-256); "
            "use that one, or convert the source by new_vocabulary first",
        )
    for field in (each.name for each in dataclasses.fields(ModelConfig)):
        theirs, ours = getattr(source, field), getattr(target, field)
        if theirs != ours and field not in (*FREE, *conversion.changes):
            # What leaves the kind of model as it is can be applied to the source beforehand.
            changing = [
                other
                for other, each in CONVERSIONS.items()
                if field in each.changes and each.joins(kinds[0], kinds[0])
            ]
            remedy = f"{' or '.join(changing) or 'no conversion'} changes it"
            raise UserError(field, ours, f"the source has {theirs!r} and {name} keeps it; {remedy}")
    if conversion.counted is not None:
        have, want = conversion.counted
        conversion.select(getattr(source, have), getattr(target, want), pieces)


def _kind(config: ModelConfig) -> str:
    return SEQ2SEQ if config.decoder_layers else ENCODER


def convert(
    source: tree.Tree, *, account: Account, initialise: Callable[[], tree.Tree]
) -> dict[str, Any]:
    """The target's parameters. A pure function; compile it to lay out the result on a mesh.

    Args:
      source: nested dictionary of the source's parameters.
      account: from `plan`.
      initialise: makes the target's random parameters.
    """
    leaves, fresh = tree.flatten(source), tree.flatten(initialise())

    def leaf(path: str, origin: Origin | None) -> jax.Array:
        if origin is None:
            return fresh[path]
        # A copy, never an alias: the source and other uses of it are trained apart.
        taken = leaves[origin.path]
        return jnp.copy(taken) if origin.rows is None else surgery.take(taken, origin.rows)

    return tree.unflatten({path: leaf(path, origin) for path, origin in account.origins.items()})


def plan(
    name: str, source: tree.Tree, target: tree.Tree, *, pieces: Pieces | None = None
) -> Account:
    """The account of a conversion, from the nested dictionaries of shapes alone.

    Args:
      name: the conversion, one of fine-tuning included.
      source: shapes of the source.
      target: shapes of the target.
      pieces: of the source's vocabulary and of the target's, by id; for `new_vocabulary`.

    Raises:
      UserError: the source lacks a leaf or has it in another shape, or the conversion cannot choose
        rows of it.
    """
    conversion = (CONVERSIONS | FINE_TUNING)[name]
    # One selection for all leaves with as many rows: those by piece take a while to find.
    select = functools.cache(lambda have, want: conversion.select(have, want, pieces))
    leaves = {path: tuple(leaf.shape) for path, leaf in tree.flatten(source).items()}
    wanted = {path: tuple(leaf.shape) for path, leaf in tree.flatten(target).items()}
    origins: dict[str, Origin | None] = {}
    for path, rule in tree.first_match(
        conversion.rules, wanted, field=f"conversion {name}"
    ).items():
        if rule is None:
            origins[path] = None
            continue
        origin = rule.path(path)
        if origin not in leaves:
            raise UserError("WarmStart.source", origin, f"missing there; {name} needs it")
        shape, rows = leaves[origin], None
        if rule.rows:
            rows = select(shape[0], wanted[path][0])
            shape = (len(rows.index), *shape[1:])
        if shape != wanted[path]:
            raise UserError(
                "WarmStart.source",
                origin,
                f"has the shape {leaves[origin]}; {path} needs {wanted[path]}",
            )
        origins[path] = Origin(origin, rows)
    return Account(name, origins, leaves, wanted)


def apply(
    account: Account,
    source: tree.Tree,
    *,
    initialise: Callable[[], tree.Tree],
    placement: Placement,
) -> dict[str, Any]:
    """Converts parameters that lie on a mesh; the result lies where `placement` says.

    Args:
      account: from `plan`.
      source: nested dictionary of the source's parameters.
      initialise: makes the target's random parameters.
      placement: gives {path: sharding} for a nested dictionary of shapes.
    """
    function = functools.partial(convert, account=account, initialise=initialise)
    return laid_out(function, placement, source)


def from_checkpoint(
    name: str,
    checkpoint: pathlib.Path,
    source: tree.Tree,
    *,
    initialise: Callable[[], tree.Tree],
    placement: Placement,
    pieces: Pieces | None = None,
) -> tuple[dict[str, Any], Account]:
    """Converts a checkpoint's parameters, from disk straight onto a mesh.

    Args:
      name: one of `CONVERSIONS`.
      checkpoint: a checkpoint's folder.
      source: nested dictionary of the source's shapes.
      initialise: as in `apply`.
      placement: as in `apply`.
      pieces: as in `plan`.

    Returns:
      The target's nested dictionary, and the account of it.
    """
    # Before anything is read: what cannot be converted should not take long to say so.
    account = plan(name, source, jax.eval_shape(initialise), pieces=pieces)
    params = checkpoints.restore_params(checkpoint, source, placement)
    return apply(account, params, initialise=initialise, placement=placement), account
