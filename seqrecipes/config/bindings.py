"""Which bindings of a gin configuration a run reads, found by following references as gin does.

A call in the scope `a/b` takes each argument from the binding of the innermost of `a/b`, `a` and no
scope that has one. So an unscoped `Stage.model` changes nothing where every stage has a model of
its own, and who sets it should be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from seqrecipes.config.check import did_you_mean

_REFERENCE = re.compile(r"@(?:([\w/]+)/)?([\w.]+)")
_MACRO = re.compile(r"%(\w+)")


class Key(NamedTuple):
    """A binding's name, `scope/configurable.argument`; a macro has a name alone."""

    scope: str
    name: str
    argument: str = ""

    def __str__(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.name}{'.' if self.argument else ''}{self.argument}"

    @classmethod
    def of(cls, text: str) -> Key:
        """The key that is written so."""
        scope, _, name = text.strip().rpartition("/")
        name, _, argument = name.rpartition(".")
        # Of a configurable's path the last name is enough.
        return cls(scope, name.rpartition(".")[2], argument) if name else cls(scope, argument)


class Bindings:
    """A configuration, and what is read of it.

    Args:
      text: gin's configuration as text, a binding a line.
      roots: configurables that are called in no scope.

    Attributes:
      values: {key: what it is set to, as text}.
      read: keys whose value some call takes.
    """

    def __init__(self, text: str, roots: Iterable[str]):
        self.values = _values(text)
        self.read: set[Key] = set()
        # The scopes in which a configurable is called.
        self.calls: dict[str, set[str]] = {}
        # Macros that are read and that nothing sets.
        self.missing: dict[str, Key] = {}
        for root in roots:
            self._call("", root)

    @property
    def macros(self) -> list[str]:
        """Names of the macros that are read."""
        return sorted(key.name for key in self.read if not key.argument)

    def problem(self, key: Key, homes: Mapping[str, str]) -> str | None:
        """Why setting this changes nothing, and what to set instead; None if it is read.

        Args:
          key: what was set.
          homes: {configurable: a binding that would make one}.
        """
        # Gin prints no infinite values; whoever reads one refuses it.
        if key in self.read or key not in self.values:
            return None
        if not key.argument:
            known = did_you_mean(key.name, self.macros) or f"; macros are {', '.join(self.macros)}"
            return f"nothing reads it{known}"
        scopes = self.calls.get(key.name, set())
        if not scopes:
            home = homes.get(key.name)
            there = f"; {home} = @{key.name}() would" if home else ""
            return f"nothing reads it: no {key.name} is made here{there}"
        below = {s for s in scopes if s == key.scope or s.startswith(f"{key.scope}/")}
        if key.scope and not below:
            named = sorted(filter(None, scopes))
            close = did_you_mean(key.scope, named)
            said = ", ".join(f"{scope}/{key.name}" for scope in named) or f"{key.name} without one"
            return f"nothing reads it: no {key.scope}/{key.name} is made here, but {said}{close}"
        winners = sorted(
            str(winner)
            for scope in (below or scopes)
            if (winner := self.winner(scope, key.name, key.argument)) is not None
        )
        return f"changes nothing: {' and '.join(winners)} win; set {winners[0]}"

    def winner(self, scope: str, name: str, argument: str) -> Key | None:
        """The binding that a call in a scope takes an argument from, if there is one."""
        parts = scope.split("/") if scope else []
        for depth in range(len(parts), -1, -1):
            key = Key("/".join(parts[:depth]), name, argument)
            if key in self.values:
                return key
        return None

    def _call(self, scope: str, name: str) -> None:
        scopes = self.calls.setdefault(name, set())
        if scope in scopes:
            return
        scopes.add(scope)
        for argument in {key.argument for key in self.values if key.name == name and key.argument}:
            if winner := self.winner(scope, name, argument):
                self.read.add(winner)
                self._follow(scope, winner)

    def _follow(self, scope: str, reader: Key) -> None:
        value = self.values[reader]
        for own, name in _REFERENCE.findall(value):
            self._call(own or scope, name.rpartition(".")[2])
        for macro in _MACRO.findall(value):
            key = Key("", macro)
            if key not in self.values:
                self.missing[macro] = reader
            elif key not in self.read:
                self.read.add(key)
                self._follow(macro, key)


def _values(text: str) -> dict[Key, str]:
    values: dict[Key, str] = {}
    last: Key | None = None
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0].isspace():  # a value that goes on
            assert last is not None
            values[last] += line
        else:
            name, _, value = line.partition(" = ")
            last = Key.of(name)
            values[last] = value
    return values
