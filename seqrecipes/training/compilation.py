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
from jax._src.compilation_cache import decompress_executable
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
    ours = model_dir.absolute() / FOLDER
    others = jax.config.values["jax_persistent_cache_enable_xla_caches"]
    log.info("compiled programs are kept in %s", chosen or str(ours))
    if not chosen and jax.process_index() == 0:
        _remove_cut_off(ours)
    # XLA's own caches lie at places whose names would be part of every program's key: after our
    # folder was moved none would be found.
    _use(chosen or str(ours), others if chosen else "none")
    try:
        yield
    finally:
        _use(chosen, others)


def _use(folder: str | None, others: str) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_enable_xla_caches", others)
    compilation_cache.reset_cache()  # JAX looks at the folder's name once


def _remove_cut_off(folder: pathlib.Path) -> None:
    """Removes programs that a kill left half written: JAX would keep them and compile anew."""
    for file in folder.glob("*-cache"):
        try:
            decompress_executable(file.read_bytes())
        except Exception:  # of whichever library compressed it
            log.info("removing %s: it was cut off", file)
            file.unlink(missing_ok=True)
