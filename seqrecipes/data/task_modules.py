"""Task modules found by their source, so that a gin file may bind what only they define.

A binding of an unknown name is a typo, or it is for a class of the user's that is known once the
task module is imported, which takes seconds. The source of the module tells the two apart at once.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys

DEFAULTS = ("tasks.pretrain", "tasks.downstream")


def import_one_with(name: str, text: str) -> bool:
    """Imports a task module that speaks of a configurable, if there is one that is not imported.

    Args:
      name: of the configurable.
      text: gin bindings, among them those that name task modules.

    Raises:
      UserError: the module registers no tasks.
    """
    named = re.findall(r"\b(?:Recipe|Finetuning)\.tasks = ['\"]([\w.]+)['\"]", text)
    for module in dict.fromkeys([*named, *DEFAULTS]):
        if module not in sys.modules and _speaks_of(module, name.rpartition(".")[2], set()):
            from seqrecipes.data.registry import import_tasks

            import_tasks(module, "tasks")
            return True
    return False


def _speaks_of(module: str, name: str, seen: set[str]) -> bool:
    """Whether the source of a module, or of one of the user's that it imports, has the name."""
    if module in seen or module.partition(".")[0] == "seqrecipes":
        return False
    seen.add(module)
    try:
        spec = importlib.util.find_spec(module)
        source = pathlib.Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    except (ImportError, ValueError, OSError):
        return False
    if "site-packages" in str(spec and spec.origin) or module in sys.stdlib_module_names:
        return False
    if re.search(rf"\b{re.escape(name)}\b", source):
        return True
    imported = re.findall(r"^\s*(?:from|import) ([\w.]+)", source, re.MULTILINE)
    return any(_speaks_of(each, name, seen) for each in imported)
