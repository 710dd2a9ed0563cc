"""Names in output folders, files of the clone, what appears whole, and folders in use."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import pathlib
import shutil
import socket
import tempfile
from collections.abc import Iterator

import filelock

from seqrecipes.errors import UserError

log = logging.getLogger(__name__)

# Of a finished seed of a fine-tuning, in its folder.
SCORES_FILE = "scores.json"
# Of a finished stage, in its folder: see `seqrecipes.samples`.
PREDICTIONS_FILE = "predictions.json"
# Of a folder in use; it stays, and says who used it last.
LOCK_FILE = ".lock"
# How names of what is being written end; they begin with a dot.
UNFINISHED = ".tmp"
# What the package is used from: gin/, configs/ and tasks/ lie beside it.
CLONE = pathlib.Path(__file__).resolve().parents[1]


def shipped(path: str | pathlib.Path) -> pathlib.Path:
    """A file by its name here, or else by its name in the clone, as 'configs/roberta_12e.py'."""
    here, there = pathlib.Path(path), CLONE / path
    return here if here.exists() or not there.is_file() else there


def check_writable(folder: str | pathlib.Path, field: str) -> None:
    """Refuses a folder, there or still to be made, into which nothing can be written.

    Raises:
      UserError: `field` says where it was named.
    """
    path = pathlib.Path(folder).absolute()
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    try:
        # Permissions alone do not tell: of a full or a read-only disk they say nothing.
        with tempfile.TemporaryDirectory(prefix=".", dir=there):
            pass
    except OSError as error:
        problem = error.strerror if there.is_dir() else f"{there} is a file"
        raise UserError(field, str(folder), f"cannot be written: {problem}") from error


def write_file(file: pathlib.Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, whenever the process or the machine stops."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}{UNFINISHED}")
    with temporary.open("wb") as opened:
        opened.write(content.encode() if isinstance(content, str) else content)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(temporary, file)


def tidy(folder: pathlib.Path) -> None:
    """Removes what a kill left half-written; only for a process that alone writes there."""
    for left in folder.glob(f".*{UNFINISHED}"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextlib.contextmanager
def whole_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder to fill; it gets its name when the block ends well, else it is removed.

    Raises:
      UserError: the name is taken.
    """
    if folder.exists():
        raise UserError("OUT_DIR", str(folder), "exists already; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = pathlib.Path(tempfile.mkdtemp(UNFINISHED, f".{folder.name}-", folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's own is private
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextlib.contextmanager
def locked(folder: pathlib.Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if it is missing.

    The lock is the operating system's, over NFS too, and ends with the process, however that ends:
    the file that is left hinders nobody.

    Args:
      folder: to be used by one process at a time.
      wait: until the folder is free.

    Raises:
      UserError: another process has it; names host and process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK_FILE
    lock = filelock.FileLock(file, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        holder = file.read_text("utf-8").strip() or "another process"
        raise UserError(
            "MODEL_DIR",
            str(folder),
            f"is in use by {holder}; stop that, wait for it, or name another folder",
        ) from None
    except (OSError, NotImplementedError) as error:
        log.warning("%s cannot be locked (%s): start no second run in it", folder, error)
        yield
        return
    try:
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        who = f"process {os.getpid()} on {socket.gethostname()} since {now}"
        file.write_text(who + "\n", "utf-8")
        tidy(folder)
        yield
    finally:
        lock.release()
