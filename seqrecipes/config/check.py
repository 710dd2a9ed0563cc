"""One check of values against what is declared: the annotations of a dataclass, or those of a flag.

    steps: Annotated[int, Range(1)]
    warmup: Literal["linear", "exponential"]
    freeze: Sequence[str]
    best: Annotated[tuple[str, str], "write a pair: ('f1', 'max')"]

A text beside the type is the remedy for all that is not accepted, where ours would say too little.
A float is no int, not even 8.0; a bool is no int, a string no bool and no list; infinity and NaN
are no numbers. An int may stand for a float. Lists and tuples may stand for each other, as gin
files write lists.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union

from seqrecipes.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, or strictly `above` and `below` others.

    Attributes:
      least: the smallest of them.
      most: the largest of them.
      above: all are larger.
      below: all are smaller.
      also: one more, with a meaning of its own, such as -1.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    also: float | None = None

    def __contains__(self, value: float) -> bool:
        inside = self.least <= value <= self.most and self.above < value < self.below
        return inside or value == self.also

    def __str__(self) -> str:
        low = self.least if self.least > -math.inf else self.above
        high = self.most if self.most < math.inf else self.below
        if low > -math.inf and high < math.inf:
            left = "[" if self.least > -math.inf else "("
            right = "]" if self.most < math.inf else ")"
            text = f"must lie in {left}{_plain(low)}, {_plain(high)}{right}"
        elif low > -math.inf:
            text = f"must be {'at least' if self.least > -math.inf else 'above'} {_plain(low)}"
        else:
            text = f"must be {'at most' if self.most < math.inf else 'below'} {_plain(high)}"
        return text + ("" if self.also is None else f", or {_plain(self.also)}")


def check_fields(instance: Any, name: str | None = None) -> None:
    """Checks every field of a dataclass against its declaration.

    Args:
      instance: a dataclass whose values were just set.
      name: what errors call it, by default its class; empty for the bare names of its fields.

    Raises:
      UserError: names the first field whose value is not accepted, and what would be.
    """
    name = type(instance).__name__ if name is None else name
    hints = _hints(type(instance))
    for field in dataclasses.fields(instance):
        if field.init:
            where = f"{name}.{field.name}".removeprefix(".")
            check(getattr(instance, field.name), hints[field.name], where)


def check(value: Any, declared: Any, field: str) -> None:
    """Checks one value against a declaration.

    Raises:
      UserError: the value is not accepted; `field` says where it was written.
    """
    if declared in (Any, object, inspect.Parameter.empty):
        return
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is typing.Annotated:
        remedies = [each for each in arguments[1:] if isinstance(each, str)]
        try:
            check(value, arguments[0], field)
        except UserError:
            if remedies:
                raise UserError(field, value, remedies[0]) from None
            raise
        for allowed in arguments[1:]:
            if isinstance(allowed, Range) and value not in allowed:
                raise UserError(field, value, str(allowed))
    elif origin is Literal:
        if not any(value == each and type(value) is type(each) for each in arguments):
            raise UserError(field, value, choose(value, arguments))
    elif origin in (Union, types.UnionType):
        _check_union(value, arguments, field)
    elif declared in _SCALARS:
        _check_scalar(value, declared, field)
    elif origin is tuple and Ellipsis not in arguments:
        _check_list(value, f"{len(arguments)} values", field)
        if len(value) != len(arguments):
            raise UserError(field, value, f"must be a list of {len(arguments)} values")
        for number, (each, its) in enumerate(zip(value, arguments, strict=True)):
            check(each, its, f"{field}[{number}]")
    elif _is(origin or declared, Sequence):
        example = repr([value]) if isinstance(value, str | int | float) else "[...]"
        _check_list(value, example, field)
        for number, each in enumerate(value):
            check(each, arguments[0] if arguments else Any, f"{field}[{number}]")
    elif _is(origin or declared, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(field, value, "must be a dictionary: {'name': value}")
        keys, values = arguments or (Any, Any)
        for key, each in value.items():
            check(key, keys, f"a key of {field}")
            check(each, values, f"{field}[{key!r}]")
    elif _is(origin or declared, Callable):
        if not callable(value):
            raise UserError(field, value, "must be a function: @name")
    elif isinstance(kind := origin or declared, type) and not isinstance(value, kind):
        raise UserError(field, value, f"must be a {kind.__name__}: @{kind.__name__}()")


def choose(value: Any, choices: Iterable[Any]) -> str:
    """The remedy for a value that is none of some choices."""
    words = [str(each) if isinstance(each, str) else repr(each) for each in choices]
    return f"choose one of {', '.join(words)}{did_you_mean(value, words)}"


def did_you_mean(value: Any, known: Iterable[str]) -> str:
    """'; did you mean X?' where a known name is close to what was written, else nothing."""
    close = difflib.get_close_matches(str(value), list(known), 1, 0.75)
    return f"; did you mean {close[0]}?" if close and close[0] != value else ""


_SCALARS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def _check_scalar(value: Any, declared: type, field: str) -> None:
    if declared is bool or declared is str:
        good = isinstance(value, declared)
    else:
        kind = numbers.Integral if declared is int else numbers.Real
        good = isinstance(value, kind) and not isinstance(value, bool)
    if good and declared is float and not math.isfinite(value):
        raise UserError(field, value, "must be a finite number")
    if good:
        return
    remedy = f"must be {_SCALARS[declared]}"
    if value is None:
        remedy += "; no gin file or flag sets it"
    elif declared is int and isinstance(value, float) and value.is_integer():
        remedy += f": write {int(value)}"
    elif declared is str and isinstance(value, int | float):
        remedy += f": '{value}'"
    elif isinstance(value, str):
        remedy += ", without quotes"
    elif isinstance(value, Sequence):
        remedy += ", not a list"
    raise UserError(field, value, remedy)


def _check_union(value: Any, members: Sequence[Any], field: str) -> None:
    problems = []
    for member in members:
        if member is type(None):
            if value is None:
                return
            continue
        try:
            return check(value, member, field)
        except UserError as error:
            problems.append(error)
    # Of what is inside a list or a dictionary, the complaint about the inner value says more.
    inner = [error for error in problems if error.field != field]
    chosen = inner or problems
    remedies = list(dict.fromkeys(error.remedy for error in chosen))
    if not inner and type(None) in members:
        remedies.append("None")
    raise UserError(chosen[0].field, chosen[0].value, ", or ".join(remedies))


def _check_list(value: Any, example: str, field: str) -> None:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise UserError(field, value, f"write a list: {example}")


def _is(declared: Any, kind: Any) -> bool:
    if kind is Callable:
        return declared is kind
    return isinstance(declared, type) and issubclass(declared, kind) and declared is not str


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _plain(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"
