"""Parameter trees by path, and ordered rules over those paths.

A path joins the keys of a nested dictionary: `encoder/stack/layers/mlp/input/kernel`. Sharding,
freezing, weight decay and conversions all choose parameters by regular expressions over paths.
An expression matches whole leading components: `encoder` matches `encoder/embedding/norm/scale`
but not `encoder_2/bias`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from flax import traverse_util

from seqrecipes.errors import UserError

Tree = Mapping[str, Any]
T = TypeVar("T")


def flatten(tree: Tree) -> dict[str, Any]:
    """Nested dictionary to {path: leaf}."""
    return traverse_util.flatten_dict(tree, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} to nested dictionary."""
    return traverse_util.unflatten_dict(leaves, sep="/")


def compile_pattern(pattern: str, *, field: str) -> re.Pattern[str]:
    """The expression, made to match whole leading components.

    Raises:
      UserError: it is malformed.
    """
    try:
        return re.compile(rf"(?:{pattern})(?=/|$)")
    except re.error as error:
        raise UserError(field, pattern, f"not a regular expression: {error}") from error


def first_match(
    rules: Sequence[tuple[str, T]], paths: Iterable[str], *, field: str
) -> dict[str, T]:
    """Gives every path the value of the first rule whose expression matches it.

    Raises:
      UserError: a malformed expression, or a path that matches no rule; `field` says where the
        rules were written.
    """
    compiled = [(compile_pattern(pattern, field=field), value) for pattern, value in rules]
    values: dict[str, T] = {}
    missing = []
    for path in paths:
        for expression, value in compiled:
            if expression.match(path):
                values[path] = value
                break
        else:
            missing.append(path)
    if missing:
        raise UserError(field, missing, "no rule matches these parameters; add one for them")
    return values


def select(patterns: Sequence[str], paths: Iterable[str], *, field: str) -> frozenset[str]:
    """The paths that any of the expressions matches.

    Raises:
      UserError: an expression is malformed or matches nothing.
    """
    paths = list(paths)
    chosen: set[str] = set()
    for pattern in patterns:
        expression = compile_pattern(pattern, field=field)
        found = [path for path in paths if expression.match(path)]
        if not found:
            tops = sorted({path.split("/")[0] for path in paths})
            raise UserError(
                field, pattern, f"matches no parameter; the top-level names are {', '.join(tops)}"
            )
        chosen.update(found)
    return frozenset(chosen)
