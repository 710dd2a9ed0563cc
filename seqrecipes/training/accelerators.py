"""What a device can do and hold: for utilisation while training, and for plans."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess

from seqrecipes.errors import UserError

GIB = 2**30
# Of CUDA: the GPUs that a process may use.
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One device of a kind.

    Attributes:
      name: as users call it.
      kinds: what `jax.Device.device_kind` calls it.
      peak: dense bfloat16 operations a second, as its maker states them.
      memory: bytes that a program may use.
      topology: its prefix in the names of TPU topologies; empty for GPUs.
      chip: configuration of a TPU chip in which it is one device, where that is not the default.
    """

    name: str
    kinds: tuple[str, ...]
    peak: float
    memory: int
    topology: str = ""
    chip: str = ""


ACCELERATORS = (
    Accelerator("v4", ("TPU v4",), 275e12, 32 * GIB, "v4", "megacore"),
    Accelerator("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16 * GIB, "v5e"),
    Accelerator("v5p", ("TPU v5", "TPU v5p"), 459e12, 95 * GIB, "v5p"),
    Accelerator("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32 * GIB, "v6e"),
    Accelerator("a100-40gb", ("NVIDIA A100-SXM4-40GB",), 312e12, 40 * GIB),
    Accelerator("a100-80gb", ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"), 312e12, 80 * GIB),
    Accelerator("h100", ("NVIDIA H100 80GB HBM3",), 989e12, 79 * GIB),
    Accelerator("h100-pcie", ("NVIDIA H100 PCIe",), 756e12, 79 * GIB),
    Accelerator("h200", ("NVIDIA H200",), 989e12, 139 * GIB),
    Accelerator("b200", ("NVIDIA B200",), 2250e12, 178 * GIB),
)


def named(name: str) -> Accelerator:
    """The accelerator of a name.

    Raises:
      UserError: there is none.
    """
    for accelerator in ACCELERATORS:
        if accelerator.name == name:
            return accelerator
    known = ", ".join(accelerator.name for accelerator in ACCELERATORS)
    raise UserError("--accelerator", name, f"choose one of {known}")


def peak(device_kind: str) -> float | None:
    """Operations a second of one device, if its kind is known."""
    return next((a.peak for a in ACCELERATORS if device_kind in a.kinds), None)


def visible_gpus() -> str | None:
    """The GPUs that commands may use: those of CUDAVISIBLE_DEVICES, or all; None without any.

    JAX would take what it looks at, so that the driver's own tool is asked.
    """
    if VISIBLE in os.environ:
        return os.environ[VISIBLE]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        asked = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True)
        return ",".join(found.stdout.split()) or None
    return None
