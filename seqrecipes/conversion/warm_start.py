"""Warm starts: one model's parameters from another's, every leaf accounted for.

A conversion is an ordered list of rules over the target's paths. Each says where a leaf comes from:
the source's leaf of the same path, a copy of another source leaf, or the target's own random
initialisation. What no rule asks for is dropped.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from seqrecipes import tree
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig
from seqrecipes.training import checkpoints

SAME = "same path"
NEW = "new"

Rules = tuple[tuple[str, str], ...]

_ENCODER: Rules = ((r"encoder", SAME), (r"token_embedding", SAME))

CONVERSIONS: dict[str, Rules] = {
    # Soltan et al. 2023, section 2.1.5: a seq2seq model from an MLM encoder. An untied head starts
    # as a copy of the token table.
    "encoder_to_seq2seq": (
        *_ENCODER,
        (r"lm_head/embedding", "token_embedding/embedding"),
        (r"decoder", NEW),
    ),
    # Section 2.1.4: an encoder out of a seq2seq model, with a fresh MLM head whose projection, if
    # untied, starts as a copy of the token table.
    "seq2seq_to_encoder": (
        *_ENCODER,
        (r"mlm_head/projection/embedding", "token_embedding/embedding"),
        (r"mlm_head", NEW),
    ),
    # The same model goes on under another objective or schedule.
    "identity": ((r".*", SAME),),
}

_KINDS = {  # (source has a decoder, target has a decoder)
    "encoder_to_seq2seq": (False, True),
    "seq2seq_to_encoder": (True, False),
}

# What decides whether a leaf means the same in both models.
_ALIKE = (
    "vocab_size",
    "hidden_size",
    "mlp_size",
    "num_heads",
    "encoder_layers",
    "max_positions",
    "token_types",
    "norm",
    "embedding_norm",
    "norm_epsilon",
    "pad_id",
)


@dataclasses.dataclass(frozen=True)
class Account:
    """Where every leaf of the target came from, and what of the source was left.

    Attributes:
      conversion: its name.
      origins: {target path: source path, or NEW}.
      dropped: source paths that the target has no use for.
      sizes: {path: number of parameters} of target and dropped leaves.
    """

    conversion: str
    origins: dict[str, str]
    dropped: tuple[str, ...]
    sizes: dict[str, int]

    def __str__(self) -> str:
        groups: Counter[tuple[str, str]] = Counter()
        for path, origin in self.origins.items():
            verb = "new" if origin == NEW else "moved" if origin == path else f"copy of {origin}"
            groups[_group(path), verb] += self.sizes[path]
        for path in self.dropped:
            groups[_group(path), "dropped"] += self.sizes[path]
        width = max(len(group) for group, _ in groups)
        rows = [
            f"  {group:<{width}}  {count:>13,}  {verb}"
            for (group, verb), count in sorted(groups.items())
        ]
        return "\n".join([f"{self.conversion}: parameters", *rows])


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
) -> None:
    """Refuses a conversion whose result would not mean what the source means.

    Args:
      name: the conversion.
      source: configuration of the source model.
      target: configuration of the target model.
      source_vocabulary: checksum of the source's vocabulary.
      target_vocabulary: checksum of the target's vocabulary.

    Raises:
      UserError: unknown conversion, wrong kind of model, another vocabulary, shape or norm.
    """
    if name not in CONVERSIONS:
        raise UserError("WarmStart.conversion", name, f"choose one of {', '.join(CONVERSIONS)}")
    kinds = bool(source.decoder_layers), bool(target.decoder_layers)
    if kinds != _KINDS.get(name, kinds):
        words = ["a seq2seq model" if decoder else "an encoder" for decoder in kinds]
        raise UserError(
            "WarmStart.conversion", name, f"the source is {words[0]}, the target {words[1]}"
        )
    fields = _ALIKE if name in _KINDS else (*_ALIKE, "decoder_layers", "tie_head")
    if source_vocabulary != target_vocabulary:
        raise UserError(
            "vocabulary",
            target_vocabulary[:12],
            f"the source was trained with the vocabulary {source_vocabulary[:12]} (SHA-256); "
            "use that one",
        )
    for field in fields:
        theirs, ours = getattr(source, field), getattr(target, field)
        if theirs != ours:
            raise UserError(field, ours, f"the source has {theirs!r}; {name} keeps it as it is")


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
    return tree.unflatten(
        {
            # A copy, never an alias: both uses are trained apart.
            path: fresh[path] if origin == NEW else jnp.copy(leaves[origin])
            for path, origin in account.origins.items()
        }
    )


def plan(name: str, source: tree.Tree, target: tree.Tree) -> Account:
    """The account of a conversion, from the nested dictionaries of shapes alone.

    Raises:
      UserError: the source lacks a leaf, or has it in another shape.
    """
    leaves, wanted = tree.flatten(source), tree.flatten(target)
    rules = tree.first_match(CONVERSIONS[name], wanted, field=f"conversion {name}")
    origins = {path: path if rule == SAME else rule for path, rule in rules.items()}
    used = set()
    for path, origin in origins.items():
        if origin == NEW:
            continue
        if origin not in leaves:
            raise UserError("WarmStart.source", origin, f"missing there; {name} needs it")
        if leaves[origin].shape != wanted[path].shape:
            raise UserError(
                "WarmStart.source",
                origin,
                f"has the shape {leaves[origin].shape}; {path} needs {wanted[path].shape}",
            )
        used.add(origin)
    dropped = tuple(sorted(leaves.keys() - used))
    sizes = _sizes({path: leaves[path] for path in dropped}) | _sizes(wanted)
    return Account(name, origins, dropped, sizes)


def from_checkpoint(
    name: str,
    checkpoint: pathlib.Path,
    source: tree.Tree,
    *,
    initialise: Callable[[], tree.Tree],
    layout: Callable[[tree.Tree], Mapping[str, jax.sharding.Sharding]],
) -> tuple[dict[str, Any], Account]:
    """Converts a checkpoint's parameters, from disk straight onto a mesh.

    Args:
      name: one of `CONVERSIONS`.
      checkpoint: a checkpoint's folder.
      source: nested dictionary of the source's shapes.
      initialise: makes the target's random parameters.
      layout: gives {path: sharding} for a nested dictionary of shapes.

    Returns:
      The target's nested dictionary, and the account of it.
    """
    target = jax.eval_shape(initialise)
    account = plan(name, source, target)
    shardings = layout(source)
    like = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[path])
        for path, leaf in tree.flatten(source).items()
    }
    params = checkpoints.restore_params(checkpoint, tree.unflatten(like))
    function = functools.partial(convert, account=account, initialise=initialise)
    return jax.jit(function, out_shardings=tree.unflatten(layout(target)))(params), account


def _sizes(leaves: Mapping[str, Any]) -> dict[str, int]:
    return {path: int(leaf.size) for path, leaf in leaves.items()}
