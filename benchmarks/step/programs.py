"""Who is measured, and the one way in which all of them are timed."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import shutil
import time
from collections.abc import Callable
from typing import Any

OURS, TORCH, COMPILED, T5X = "seqrecipes", "transformers", "transformers, compiled", "t5x"
PROGRAMS = (OURS, TORCH, COMPILED, T5X)
_HF = "pip install -e '.[hf]'"
# What each imports, and how to get that.
_NEEDS: dict[str, dict[str, str]] = {
    OURS: {},
    TORCH: {"torch": _HF, "transformers": _HF},
    COMPILED: {"torch": _HF, "transformers": _HF},
    T5X: {"t5x": "pip install -e '.[t5x]', or see docs/dependencies.md"},
}


@dataclasses.dataclass(frozen=True)
class Program:
    """A model, its optimizer and a batch, ready to train.

    Attributes:
      step: begins an update and returns a handle of it; it may or may not wait for its end.
      wait: returns once that update is done, whatever was begun after it.
      loss: the loss of that update; waits for everything.
      parameters: how many there are.
      trained: how many of them train.
      device: what it runs on, as JAX or torch calls it; 'cpu' for processors.
      product: from a width to a function that multiplies two square matrices, float32 or on an
        accelerator bfloat16, and returns when that is done.
      device_memory: most bytes in use on an accelerator so far; None on processors.
      remark: what a reader should know of how it computes.
    """

    step: Callable[[], Any]
    wait: Callable[[Any], None]
    loss: Callable[[Any], float]
    parameters: int
    trained: int
    device: str
    product: Callable[[int], Callable[[], None]]
    device_memory: Callable[[], int | None]
    remark: str = ""


def missing(program: str, *, on_cpu: bool) -> str | None:
    """Why it cannot be measured here, and what would help; None if it can."""
    absent = [name for name in _NEEDS[program] if importlib.util.find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed: {_NEEDS[program][absent[0]]}"
    # On an accelerator triton brings its own compiler.
    if program == COMPILED and on_cpu and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "torch.compile needs a C++ compiler: apt-get install g++"
    return None


def timed(program: Program, steps: int) -> tuple[list[float], Any]:
    """Seconds of each of some updates, and the last one's handle.

    The next update is begun before one is waited for, so that an accelerator never idles. Two more
    are computed: one first, whose end starts the clock, and one last, which is not timed.
    """
    handle, ends = program.step(), []
    for _ in range(steps + 1):
        following = program.step()
        program.wait(handle)
        ends.append(time.perf_counter())
        handle = following
    program.wait(handle)
    return [end - begin for begin, end in itertools.pairwise(ends)], handle


def rate(product: Callable[[], None], width: int, repetitions: int = 5) -> float:
    """Operations a second of a product of two square matrices: the fastest of some."""
    product()
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - began)
    return 2 * width**3 / min(seconds)
