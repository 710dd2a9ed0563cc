"""Several processes: flags, agreement, idle GPUs, the last word. Whole runs: `tests/commands`."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys

import pytest

from seqrecipes.errors import UserError
from seqrecipes.training import processes


def flags(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    processes.add_flags(parser)
    return parser.parse_args(arguments)


ADDRESS, COUNT, INDEX = "--coordinator_address=host:1", "--process_count=2", "--process_index=1"


@pytest.mark.parametrize(
    ("arguments", "several"),
    [
        ([], False),
        (["--multiprocess"], True),
        (["--multiprocess", "--local_devices=all"], True),
        ([ADDRESS, COUNT, INDEX, "--local_devices=0,1"], True),
    ],
)
def test_flags_that_say_whether_there_are_several(arguments: list[str], several: bool) -> None:
    assert processes.check_flags(flags(*arguments)) == several


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ([COUNT, INDEX], "--process_count = 2: needs --multiprocess, or --coordinator_address"),
        ([INDEX], "--process_index"),
        (["--local_devices=all"], "--local_devices"),
        ([ADDRESS], "--process_count = None: --coordinator_address needs it too"),
        ([ADDRESS, COUNT], "--process_index"),
        ([ADDRESS, COUNT, "--process_index=2"], r"--process_index = 2: lies in \[0,"),
        (["--coordinator_address=host", COUNT, INDEX], "--coordinator_address = 'host'"),
        (["--multiprocess", "--local_devices=some"], "--local_devices = 'some'"),
    ],
)
def test_flags_with_which_a_process_would_train_alone_are_refused(
    arguments: list[str], field: str
) -> None:
    with pytest.raises(UserError, match=field):
        processes.check_flags(flags(*arguments))


def test_processes_with_other_settings_are_named_with_the_line() -> None:
    processes.check_alike(["a = 1\nb = 2"] * 3)
    with pytest.raises(UserError, match=r"\[1, 3\].*'b = 3' there, 'b = 2' in process 0"):
        processes.check_alike(["a = 1\nb = 2", "a = 1\nb = 3", "a = 1\nb = 2", "c"])
    with pytest.raises(UserError, match=r"\[1\].*'b = 2' there, '' in process 0"):
        processes.check_alike(["a = 1", "a = 1\nb = 2"])


def test_gpus_that_nobody_uses_are_refused() -> None:
    processes.check_no_gpu_idles([(1, 8, 8), (2, 8, 8)])
    processes.check_no_gpu_idles([(1, 1, 2), (1, 1, 2), (2, 1, 1)])
    processes.check_no_gpu_idles([(1, 8, 0)])  # CPUs
    with pytest.raises(UserError, match="a host has 8 GPUs, and the 1 processes there use 1"):
        processes.check_no_gpu_idles([(1, 1, 8), (2, 1, 8)])


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), True),
        (RuntimeError("NCCL operation ncclAllReduce failed: remote process exited"), True),
        (ValueError("operands could not be broadcast together"), False),
        (KeyError("gloo"), False),
    ],
)
def test_the_loss_of_another_process_is_told_from_other_errors(
    error: Exception, lost: bool
) -> None:
    assert processes.is_loss(error) == lost


SCRIPT = """
import os, sys
from seqrecipes.training import processes
with processes.last_word():
    os.kill(os.getpid(), int(sys.argv[1])) if sys.argv[1] != "0" else None
"""


@pytest.mark.parametrize(("signum", "said"), [(signal.SIGABRT, True), (0, False)])
def test_a_process_that_is_ended_from_outside_has_a_last_word(signum: int, said: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(int(signum))], capture_output=True, text=True
    )
    assert done.returncode == -signum
    lines = done.stderr.splitlines()
    assert len(lines) == int(said) and all(line.startswith("error: ") for line in lines)
