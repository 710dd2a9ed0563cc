"""One core, and what machine it belongs to; to be used before NumPy and others are imported."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

_LIBRARIES = ("numpy", "tensorflow", "seqio", "sentencepiece", "torch", "transformers", "t5")
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "RAYON_NUM_THREADS",
)


def pin(core: int | None = None) -> int | None:
    """Keeps this process, and what it starts, on one core and every library at one thread.

    Args:
      core: its number; None for the last one that this process may use.

    Returns:
      The core, or None where the system cannot pin.
    """
    for name in _ONE_THREAD:
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # No accelerator takes part; TensorFlow would reserve its memory.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not hasattr(os, "sched_setaffinity"):
        return None
    if core is None:
        core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def describe(core: int | None, libraries: Sequence[str] = _LIBRARIES) -> dict[str, object]:
    """The machine, and which versions of some libraries are in use."""
    versions: dict[str, str | None] = {}
    for name in libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "pinned_core": core,
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "versions": versions,
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
