"""What task modules declared, and whether seqio is told of it.

The commands read the declarations as they stand. Where a user imports a task module, seqio's
registries get the same tasks and mixtures, if seqio is installed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from seqrecipes.errors import UserError
from seqrecipes.folders import CLONE

if TYPE_CHECKING:
    from seqrecipes.data.labelled.sets import LabelledSet
    from seqrecipes.data.tasks import PretrainingTask

TASKS: dict[str, PretrainingTask] = {}
SETS: dict[str, LabelledSet] = {}
_without_seqio = False


def wanted_by_seqio() -> bool:
    """Whether a declaration goes to seqio's registries too: not for the commands.

    They do without, because seqio takes seconds to import.
    """
    return not _without_seqio and importlib.util.find_spec("seqio") is not None


@contextlib.contextmanager
def without_seqio() -> Iterator[None]:
    """Within it nothing goes to seqio's registries."""
    global _without_seqio
    before, _without_seqio = _without_seqio, True
    try:
        yield
    finally:
        _without_seqio = before


def import_tasks(module: str, field: str) -> None:
    """Imports the module that registers the tasks; `field` is the setting that names it.

    Raises:
      UserError: there is no such module, or it registers nothing.
    """
    before = len(TASKS) + len(SETS)
    if str(CLONE) not in sys.path:
        sys.path.append(str(CLONE))  # for `tasks`, from whatever folder a command is given
    try:
        with without_seqio():
            imported = importlib.import_module(module)
    except (ImportError, ValueError, TypeError) as error:  # the last two of '' and of '.tasks'
        raise UserError(field, module, f"{error}; name a module such as tasks.pretrain") from error
    # A module that was imported before adds nothing now.
    registers = {"register_tasks", "register_sets"} & vars(imported).keys()
    if not registers and len(TASKS) + len(SETS) == before:
        raise UserError(
            field, module, "registers no tasks; see tasks/pretrain.py for one that does"
        )
