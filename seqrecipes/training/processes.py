"""One run in several processes: started, agreed on what is run, and ended when one is lost.

JAX's coordination service ends a process, without a word of ours, when another one is lost. A small
child of the process therefore has the last word.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import signal
import socket
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence

from seqrecipes import folders
from seqrecipes.config import flags as flags_of
from seqrecipes.errors import UserError, exit_status
from seqrecipes.training.accelerators import visible_gpus

# A process that was not heard of for so long is lost; the others end then.
HEARTBEAT_SECONDS = 60

_AGAIN = "its log says why. Start all of them again: they go on from the last checkpoint"
_LAST_WORD = (
    "error: this process was ended from outside; as a rule another one of the run was lost up to "
    f"{HEARTBEAT_SECONDS} seconds ago, and {_AGAIN}\n"
)
# What collectives and JAX's coordination service say when another process is gone.
_LOST = re.compile(
    r"gloo|nccl|coordination service|connection (closed|reset)|heartbeat|socket closed|barrier",
    re.IGNORECASE,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of several processes, on a command's parser."""
    group = parser.add_argument_group(
        "several processes", "on TPU pods and SLURM --multiprocess finds the rest by itself"
    )
    group.add_argument("--multiprocess", action="store_true", help="start jax.distributed")
    group.add_argument("--coordinator_address", type=flags_of.name, metavar="HOST:PORT")
    group.add_argument("--process_count", type=flags_of.value(flags_of.Positive), metavar="N")
    group.add_argument("--process_index", type=flags_of.value(flags_of.Count), metavar="I")
    group.add_argument(
        "--local_devices",
        type=flags_of.name,
        metavar="all|0,1,...",
        help="GPUs that this process uses; under SLURM JAX takes one for each task",
    )


def check_flags(flags: argparse.Namespace) -> bool:
    """Whether there are several processes.

    Raises:
      UserError: flags contradict each other, or some are missing.
    """
    count, index = flags.process_count, flags.process_index
    if flags.coordinator_address and not re.fullmatch(r".+:\d+", flags.coordinator_address):
        raise UserError("--coordinator_address", flags.coordinator_address, "write HOST:PORT")
    if index is not None and index >= (count or index + 1):
        raise UserError("--process_index", index, f"lies in [0, --process_count = {count})")
    if flags.local_devices and not re.fullmatch(r"all|\d+(,\d+)*", flags.local_devices):
        raise UserError("--local_devices", flags.local_devices, "write all, or numbers: 0,1")
    if flags.multiprocess:
        return True
    named = {name: getattr(flags, name) for name in ("process_count", "process_index")}
    if flags.coordinator_address:
        for name, value in named.items():
            if value is None:
                remedy = "--coordinator_address needs it too, unless --multiprocess finds it"
                raise UserError(f"--{name}", value, remedy)
        return True
    for name, value in {**named, "local_devices": flags.local_devices}.items():
        if value is not None:
            remedy = "needs --multiprocess, or --coordinator_address: this process would run alone"
            raise UserError(f"--{name}", value, remedy)
    return False


def run(flags: argparse.Namespace, command: Callable[[], int]) -> int:
    """Runs a command, alone or as one of several processes; its exit status.

    Of several, one that fails leaves at once: JAX would wait for the others, and they for it.
    """
    if not check_flags(flags):
        return command()
    with last_word():
        status = exit_status(lambda: _among_others(flags, command))
    if status and status < 128:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _among_others(flags: argparse.Namespace, command: Callable[[], int]) -> int:
    try:
        start(flags)
        return command()
    except Exception as error:
        if isinstance(error, UserError):
            raise
        if is_loss(error):
            print(f"error: another process was lost ({_first(error)}); {_AGAIN}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1


def _first(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]


def start(flags: argparse.Namespace) -> None:
    """Joins the other processes; before anything else is asked of JAX.

    Raises:
      UserError: JAX does not find the others, or GPUs would idle.
    """
    import jax

    local = None
    if flags.local_devices == "all":
        found = visible_gpus()
        local = list(range(len(found.split(",")))) if found else None
    elif flags.local_devices:
        local = [int(each) for each in flags.local_devices.split(",")]
    try:
        jax.distributed.initialize(
            flags.coordinator_address,
            flags.process_count,
            flags.process_index,
            local_device_ids=local,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            "--multiprocess",
            flags.multiprocess,
            f"JAX finds no cluster here ({error}); name --coordinator_address, --process_count and "
            "--process_index",
        ) from error
    _check_gpus()


def _check_gpus() -> None:
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    visible = visible_gpus() if jax.default_backend() == "gpu" else None
    host = zlib.crc32(socket.gethostname().encode()) & 0x7FFFFFFF
    own = [host, jax.local_device_count(), len(visible.split(",")) if visible else 0]
    rows = multihost_utils.process_allgather(np.asarray(own, np.int32)).reshape(-1, 3)
    check_no_gpu_idles([(int(a), int(b), int(c)) for a, b, c in rows])


def check_no_gpu_idles(processes: Sequence[tuple[int, int, int]]) -> None:
    """Refuses a run that leaves GPUs of a host idle.

    Args:
      processes: of each its host, the devices that it uses and the GPUs that it sees.

    Raises:
      UserError: says what would use them.
    """
    for host in {host for host, _, _ in processes}:
        here = [(used, seen) for name, used, seen in processes if name == host]
        used, seen = sum(used for used, _ in here), max(seen for _, seen in here)
        if used < seen:
            raise UserError(
                "--local_devices",
                None,
                f"a host has {seen} GPUs, and the {len(here)} processes there use {used}: add "
                "--local_devices=all, or start a process for each GPU",
            )


def agree(settings: str) -> None:
    """Refuses processes that were started with other settings than the first; in all of them.

    Args:
      settings: lines of all that must be alike.

    Raises:
      UserError: names the processes, and the first line that differs.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    encoded = np.frombuffer(settings.encode(), np.uint8)
    longest = int(np.max(multihost_utils.process_allgather(np.asarray([len(encoded)]))))
    padded = np.zeros(longest, np.uint8)
    padded[: len(encoded)] = encoded
    rows = np.asarray(multihost_utils.process_allgather(padded))
    check_alike([bytes(row).rstrip(b"\0").decode() for row in rows])


def check_alike(settings: Sequence[str]) -> None:
    """Refuses settings of processes that differ from those of the first.

    Raises:
      UserError: names the processes, and the first line that differs.
    """
    others = [index for index, each in enumerate(settings) if each != settings[0]]
    if not others:
        return
    ours, theirs = (settings[index].splitlines() for index in (0, others[0]))
    size = max(len(ours), len(theirs))
    ours, theirs = (lines + [""] * (size - len(lines)) for lines in (ours, theirs))
    first, other = next((a, b) for a, b in zip(ours, theirs, strict=True) if a != b)
    raise UserError(
        "--process_index",
        others,
        f"started with other settings than process 0: {other.strip()!r} there, "
        f"{first.strip()!r} in process 0; give all of them the same command",
    )


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a folder; the first process does, for all.

    Raises:
      UserError: in every process, if another run has it.
    """
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    with contextlib.ExitStack() as held:
        refused = None
        if jax.process_index() == 0:
            try:
                held.enter_context(folders.locked(folder))
            except UserError as error:
                refused = error
        if jax.process_count() > 1:
            flags = multihost_utils.process_allgather(np.asarray([refused is not None]))
            if np.any(flags) and not refused:
                refused = UserError("MODEL_DIR", str(folder), "is in use; see process 0")
        if refused:
            raise refused
        yield


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    return isinstance(error, RuntimeError | ValueError) and bool(_LOST.search(str(error)))


@contextlib.contextmanager
def last_word() -> Iterator[None]:
    """Within it, a line is printed if this process is ended without a word of ours.

    To be entered while the process has one thread.
    """
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(write)
        if not os.read(read, 1):
            os.write(2, _LAST_WORD.encode())
        os._exit(0)
    os.close(read)
    try:
        yield
    finally:
        os.write(write, b".")
        os.close(write)
        os.waitpid(child, 0)
