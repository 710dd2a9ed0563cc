"""Compiled programs are kept in the run's folder: a run that goes on does not compile again.

The folder of the run and not one of the user's: all hosts see it, while only the first process
writes programs; it outlives a machine that is taken away; and it goes when the run goes. Like a
checkpoint it is trusted: who can write there can have code executed.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

log = logging.getLogger(__name__)

FOLDER = "compiled"


@contextlib.contextmanager
def kept(model_dir: pathlib.Path) -> Iterator[None]:
    """Within it, programs that took JAX a second or more to compile are kept, and found again.

    A place that the user chose wins (`JAX_COMPILATION_CACHE_DIR`, which may be gs://), and so do
    JAX's other settings: `JAX_ENABLE_COMPILATION_CACHE=false` keeps nothing.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        yield
        return
    chosen = jax.config.values["jax_compilation_cache_dir"]
    folder = chosen or str(model_dir.absolute() / FOLDER)
    log.info("compiled programs are kept in %s", folder)
    _use(folder)
    try:
        yield
    finally:
        _use(chosen)


def _use(folder: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # JAX looks at the folder's name once
