"""Devices to compile for, none of which has to be there."""

from __future__ import annotations

import importlib.util
import math
import os
import re

import jax

from seqrecipes.errors import UserError
from seqrecipes.training.accelerators import Accelerator


def count(devices: str) -> int:
    """The number of devices of `64` or of a topology `4x8`."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", devices):
        raise UserError("--devices", devices, "write a number, 64, or a TPU topology, 4x8")
    return math.prod(map(int, devices.split("x")))


def of_host(number: int) -> list[jax.Device]:
    """So many CPU devices, on whatever machine.

    Call it before JAX looks for devices: nothing else is looked for then, and accelerators that are
    present stay free.

    Raises:
      UserError: JAX has looked before, and found fewer.
    """
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", number)
    except RuntimeError:  # it has looked
        pass
    devices = jax.devices("cpu")
    if len(devices) < number:
        raise UserError("--devices", number, f"JAX runs with {len(devices)} CPU devices already")
    return devices[:number]


def of_topology(accelerator: Accelerator, topology: str) -> list[jax.Device]:
    """TPUs of a topology that libtpu compiles for without having them.

    Raises:
      UserError: no TPU is meant, libtpu is not installed, or it knows no such topology.
    """
    from jax.experimental import topologies

    if not accelerator.topology:
        raise UserError("--compiler", "tpu", f"is none for {accelerator.name}; leave it out")
    # libtpu would ask the cloud's metadata server who it is.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("--compiler", "tpu", "needs libtpu: pip install -e '.[tpu]'")
    name = f"{accelerator.topology}:{topology}"
    options = {"chip_config_name": accelerator.chip} if accelerator.chip else {}
    try:
        return topologies.get_topology_desc(name, "tpu", **options).devices
    except (RuntimeError, ValueError) as error:
        first = str(error).split("\n")[0]
        raise UserError("--devices", topology, f"is no topology of {name}: {first}") from error
