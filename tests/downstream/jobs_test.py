"""Commands side by side: real processes, small ones."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from seqrecipes.downstream import jobs
from seqrecipes.downstream.jobs import Job
from seqrecipes.errors import UserError
from seqrecipes.training import accelerators


def job(folder: pathlib.Path, name: str, code: str) -> Job:
    """A Python program that finds the path of its result in sys.argv[1]."""
    result = folder / name / "result"
    command = (sys.executable, "-c", f"import os, sys, time\n{code}", str(result))
    return Job(name, command, folder / name / "log.txt", result)


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


WRITE = "open(sys.argv[1], 'w').write(os.environ.get('CUDA_VISIBLE_DEVICES', 'none'))"


def test_what_has_its_result_is_not_run_again(tmp_path):
    todo = [job(tmp_path, "a", WRITE), job(tmp_path, "b", WRITE)]
    todo[0].result.parent.mkdir()
    todo[0].result.write_text("of before")
    assert jobs.run(todo, [{}], title="t") == []
    assert todo[0].result.read_text() == "of before"
    assert todo[1].result.read_text() == "none"


def test_failures_are_told_by_their_last_line_and_stop_nothing_else(tmp_path):
    broken = job(tmp_path, "broken", "print('one'); sys.exit('error: the field')")
    silent = job(tmp_path, "silent", "pass")
    good = job(tmp_path, "good", WRITE)
    failures = jobs.run([broken, silent, good], [{}], title="t")
    assert [failure.job.name for failure in failures] == ["broken", "silent"]
    assert str(failures[0]) == "broken: exit status 1, error: the field"
    assert good.done


def test_two_run_at_the_same_time_each_with_its_devices(tmp_path):
    # Each waits for the other: one after the other they would never end.
    meet = (
        "mine, theirs = sys.argv[1], sys.argv[1].replace(*NAMES)\n"
        f"{WRITE}\n"
        "while not os.path.exists(theirs): time.sleep(0.01)"
    )
    todo = [
        job(tmp_path, "left", meet.replace("NAMES", "('left', 'right')")),
        job(tmp_path, "right", meet.replace("NAMES", "('right', 'left')")),
    ]
    for each in todo:
        each.result.parent.mkdir()
    assert jobs.run(todo, jobs.places(2, "0,1,2,3,4"), title="t") == []
    assert {each.result.read_text() for each in todo} == {"0,1", "2,3"}


def test_places():
    assert jobs.places(2, None) == [{}, {}]
    with pytest.raises(UserError, match=r"--side_by_side = 3: CUDA_VISIBLE_DEVICES has 2 GPUs"):
        jobs.places(3, "4,6")
    with pytest.raises(UserError, match="at least 1"):
        jobs.places(0, None)


def test_visible_gpus_are_those_of_the_variable_or_of_the_driver(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert accelerators.visible_gpus() == "3,5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")

    def driver(*_, **__):
        return subprocess.CompletedProcess([], 0, stdout="0\n1\n")

    monkeypatch.setattr(accelerators.subprocess, "run", driver)
    assert accelerators.visible_gpus() == "0,1"


def test_without_a_driver_that_can_be_run_there_are_no_gpus(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert accelerators.visible_gpus() is None
    (tmp_path / "nvidia-smi").touch()  # or a folder that one may not look into
    assert accelerators.visible_gpus() is None


SAVING = (
    "import signal\n"
    "def save(*_): open(sys.argv[1] + '.saved', 'w'); sys.exit(1)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "open(sys.argv[1] + '.started', 'w')\n"
    "time.sleep(600)"
)
PARENT = """
import pathlib, sys
from seqrecipes.downstream import jobs
from seqrecipes.errors import exit_status, signals_interrupt
def run():
    folder = pathlib.Path(sys.argv[1])
    slow = jobs.Job("slow", sys.argv[2:], folder / "log", folder / "result")
    with signals_interrupt():
        jobs.run([slow], [{}], title="t")
sys.exit(exit_status(run))
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_children_end_with_their_parent_whatever_ends_it(tmp_path, signum):
    if signum == signal.SIGKILL and sys.platform != "linux":
        return  # no other system tells a child
    command = job(tmp_path, "slow", SAVING).command
    command = [*command[:-1], str(tmp_path / "result")]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), *command])
    wait_for(tmp_path / "result.started")
    parent.send_signal(signum)
    assert parent.wait(120) == (-signum if signum == signal.SIGKILL else 128 + signum)
    wait_for(tmp_path / "result.saved")


def wait_for(path: pathlib.Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_interruption_ends_what_runs_and_waits_for_it(tmp_path):
    slow = job(tmp_path, "slow", SAVING)
    slow.log.parent.mkdir()
    started = pathlib.Path(f"{slow.result}.started")

    def interrupt() -> None:
        wait_for(started)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        jobs.run([slow], [{}], title="t")
    assert pathlib.Path(f"{slow.result}.saved").exists()
