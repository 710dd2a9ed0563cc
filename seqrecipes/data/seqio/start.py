"""The first import of TensorFlow, which only reads text: it leaves accelerators alone, quietly.

Two of its libraries say at loading that they found no CUDA, whatever the level of their logs is:
these lines are written before there is a log. They are taken out of what is written meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_GREETING = re.compile(rb"before absl::InitializeLog\(\) is called|cudart_stub\.cc")


def prepare() -> None:
    """Waits for the first import of TensorFlow; a level of its log that the user chose wins.

    To be called before JAX is imported, which sets a level of its own.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if "tensorflow" not in sys.modules and not any(isinstance(f, _First) for f in sys.meta_path):
        sys.meta_path.insert(0, _First(os.environ.get(_LEVEL, "3")))


class _First(MetaPathFinder):
    """Finds TensorFlow as others do, once, and surrounds its loading with a level of the log."""

    def __init__(self, level: str):
        self._level = level

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        before = os.environ.get(_LEVEL)
        os.environ[_LEVEL] = self._level

        def restore() -> None:
            # XLA under JAX reads the same variable, and what it has to say counts.
            os.environ.pop(_LEVEL, None)
            if before is not None:
                os.environ[_LEVEL] = before

        try:
            spec = importlib.util.find_spec(name)
        except BaseException:
            restore()
            raise
        if spec is None or spec.loader is None:
            restore()
            return spec
        load = spec.loader.exec_module

        def quietly(module: Any) -> None:
            try:
                with _without_greeting():
                    load(module)
                    # Otherwise it would take the memory of GPUs that JAX is to compute with.
                    module.config.set_visible_devices([], "GPU")
            finally:
                restore()

        spec.loader.exec_module = quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Within it standard error is held back; at the end all of it is written but the greeting."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            for line in held:
                if not _GREETING.search(line):
                    os.write(2, line)
