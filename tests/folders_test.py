"""Folders in use: a second process is refused by name, a dead one hinders nobody."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from seqrecipes import folders
from seqrecipes.errors import UserError

HOLD = """
import pathlib, sys, time
from seqrecipes import folders
with folders.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(folder: pathlib.Path) -> subprocess.Popen[bytes]:
    """A process that has the folder, until it is killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    return holder


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    folder = tmp_path / "run"
    holder = hold(folder)
    try:
        in_use = pytest.raises(UserError, match=f"is in use by process {holder.pid} on ")
        with in_use, folders.locked(folder):
            raise AssertionError("two have it")
    finally:
        holder.kill()
        holder.wait()
    with folders.locked(folder):
        assert f"process {os.getpid()} on" in (folder / folders.LOCK_FILE).read_text("utf-8")
    with folders.locked(folder):
        pass


def test_one_may_wait_for_a_folder(tmp_path):
    holder = hold(tmp_path)
    threading.Timer(0.5, holder.kill).start()
    with folders.locked(tmp_path, wait=True):
        assert holder.wait() == -signal.SIGKILL


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def none(*_, **__):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(folders.filelock.FileLock, "acquire", none)
    with folders.locked(tmp_path):
        pass
    assert "cannot be locked" in caplog.text


def test_a_file_is_whole_or_what_it_was_and_nothing_is_left_of_a_kill(tmp_path, monkeypatch):
    file = tmp_path / "said.json"
    folders.write_file(file, "before")

    def killed(*args):
        raise InterruptedError("killed")

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(os, "replace", killed)
        folders.write_file(file, "after")
    assert file.read_text("utf-8") == "before"
    with folders.locked(tmp_path):
        assert {each.name for each in tmp_path.iterdir()} == {"said.json", folders.LOCK_FILE}
