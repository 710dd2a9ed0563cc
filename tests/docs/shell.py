"""Runs the lines of a command block as a shell would, our own commands within this process.

To be small, a command that trains or compiles gets one more gin file, the last: `SMALL` says which.
Nothing else of what is printed is changed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import gin

from tests.docs.pages import ROOT, Block

SMALL = {
    "train": "tests/docs/pretraining.gin",
    "finetune": "tests/docs/finetuning.gin",
    "protocol": "tests/docs/protocol.gin",
}
# What a shell session begins with; make's own rules make it.
ACTIVATE = "source .venv/bin/activate"
_OURS = re.compile(r"(?:\.venv/bin/)?python -m seqrecipes\.(\w+)")


def commands(text: str) -> list[str]:
    """The commands of a block, one a line, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = (re.sub(r"(^|\s+)# .*$", "", line).strip() for line in joined.split("\n"))
    return [line for line in lines if line]


def run(block: Block) -> str:
    """Runs the commands of a block one after the other; returns what they print.

    Raises:
      AssertionError: a command ends with another status than 0.
    """
    printed = ""
    for line in commands(block.text):
        status, text = _run(line, dry=block.mode == "dry")
        assert status == 0, f"{block}: {line}\n{text}"
        printed += text
    return printed


def call(name: str, arguments: list[str], *, stdin: str = "", stdout: str = "") -> tuple[int, str]:
    """Exit status of one of our commands, and what it prints where that goes to no file."""
    gin.clear_config()
    with contextlib.ExitStack() as stack:
        # Files, because a command may ask for their numbers.
        text = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        errors = stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        source = stack.enter_context(open(stdin or os.devnull, encoding="utf-8"))
        stack.enter_context(_replaced("stdin", source))
        target = stack.enter_context(open(stdout, "w", encoding="utf-8")) if stdout else text
        with contextlib.redirect_stdout(target):
            try:
                status = importlib.import_module(f"seqrecipes.{name}").main(arguments)
            except SystemExit as end:
                status = int(end.code or 0)
        target.flush()
        text.seek(0)
        return status, text.read() + errors.getvalue()


@contextlib.contextmanager
def _replaced(name: str, value: object) -> Iterator[None]:
    before = getattr(sys, name)
    setattr(sys, name, value)
    try:
        yield
    finally:
        setattr(sys, name, before)


def _run(line: str, *, dry: bool) -> tuple[int, str]:
    if line == ACTIVATE:
        return 0, ""
    if line.startswith("make "):
        return _make(line)
    if not (ours := _OURS.match(line)):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    # Braces and globs are the shell's.
    words = _expanded(line[ours.end() :])
    files = {"<": "", ">": ""}
    while words and (sign := next((word for word in words if word in files), "")):
        at = words.index(sign)
        files[sign] = words[at + 1]
        del words[at : at + 2]
    name = ours[1]
    if dry:
        words.append("--dry_run")
    elif name in SMALL and "--dry_run" not in words:
        words.append(f"--gin_file={SMALL[name]}")
    return call(name, words, stdin=files["<"], stdout=files[">"])


def _expanded(text: str) -> list[str]:
    quoted = re.sub(r"(\s)([<>])(\s)", r"\1'\2'\3", text)
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {quoted}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


def _make(line: str) -> tuple[int, str]:
    """Runs what a target says; its set-up is that of the environment that runs this."""
    target = shlex.split(line, comments=True)[1]
    done = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", "-f", str(ROOT / "Makefile"), target],
        capture_output=True,
        text=True,
        # Of a `make test` that runs this: it would say which folder it enters.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
    )
    if done.returncode or target == "test":
        return done.returncode, done.stdout + done.stderr
    printed = ""
    for each in commands(done.stdout):
        status, text = _run(each, dry=False)
        printed += text
        if status:
            return status, printed
    return 0, printed


def link_farm(folder: pathlib.Path) -> None:
    """A clone as far as commands see it: its files and folders by name, and no outputs."""
    for name in ("gin", "configs", "tasks", "tests", "launch", "benchmarks", "seqrecipes", "docs"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("requirements.lock", "setup.py", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
