"""Compares two versions of this package: what one comes to, the other must come to bit for bit.

    git worktree add ../before HEAD~20
    python -m tests.reliability.same_numbers ../before

For changes that shall change no number. Both versions do the same small runs, each in a process of
its own: the ten recipes, one of them on eight devices, too, and one that goes on across a border of
phases, and a fine-tuning of each kind of labels. Compared are parameters, moments, metrics, ledgers
and exported tensors (`scenes.digest`); other files that differ are listed and are no failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from tests.downstream import tiny_runs
from tests.reliability.scenes import differences, digest

ROOT = pathlib.Path(__file__).parents[2]
RECIPES = sorted(
    file.stem for file in (ROOT / "gin").glob("[0-9br]*.gin") if "MODEL_DIR" in file.read_text()
)
WHOLE = "2stage_unfrz"
STAGE = "2stage_bart_12e12d_unfrz"
# Macros of all recipes: one file, because a flag must be read and a file's macro need not.
SMALL = """
SIZE = 'mini'
CORPUS = 'sample'
VOCABULARY_SIZE = 1_000
SEQUENCE_LENGTH = 32
BATCH_SIZE = 8
MLM_STEPS = 6
FROZEN_STEPS = 4
UNFROZEN_STEPS = 4
STEPS = 6
EXTRACTED_STEPS = 4
EXTRACTED_PEAK = 1e-3
EXTRACTED_WARMUP_STEPS = 1
PEAK = 1e-3
WARMUP_STEPS = 2
CHECKPOINT_EVERY = 3
LOG_EVERY = 1
VALIDATE_EVERY = 4
EXPORT_HF = True
"""
TUNED = """
BATCH_SIZE = 8
EPOCHS = 6
MAX_UPDATES = 6
PEAK = 1e-3
WARMUP_STEPS = 1
INPUT_LENGTH = 24
TARGET_LENGTH = 24
HIDDEN = [16]
SEEDS = [0, 1]
LANGUAGES = ['en']
VALIDATE_EVERY = 3
LOG_EVERY = 1
"""
# A set of each kind of labels: classes of pairs, of words, of both, and texts.
SETS = ("xnli", "udpos", "xsid", "scitldr")
NUMBERS = re.compile(
    r"checkpoints/|metrics\.jsonl|ledger\.json|\.safetensors|spm\.model|(^|/)data/blocks"
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A command, with the number of devices; `again` undoes the end of the run and repeats it."""

    name: str
    command: str
    arguments: Sequence[str]
    devices: int = 1
    again: bool = False


def runs(folder: pathlib.Path, data: pathlib.Path) -> Iterator[Run]:
    """What a version does in its folder, with labelled sets from another."""
    small, tuned = folder / "small.gin", folder / "tuned.gin"
    small.write_text(SMALL)
    tuned.write_text(TUNED)
    for recipe in RECIPES:
        files = (f"--gin_file=gin/{recipe}.gin", f"--gin_file={small}")
        yield Run(recipe, "train", files)
        if recipe == WHOLE:
            yield Run("again", "train", files, again=True)
            mesh = ("--gin.DATA=2", "--gin.FSDP=2", "--gin.TENSOR=2")
            yield Run("mesh", "train", (*files, *mesh), devices=8)
    for name in SETS:
        yield Run(
            name,
            "finetune",
            (
                f"--gin_file=gin/finetune/{name}.gin",
                f"--gin_file={tuned}",
                f"--gin.CHECKPOINT={str(folder / WHOLE / STAGE)!r}",
                f"--gin.LABELLED_FILES={str(data)!r}",
            ),
        )


def perform(run: Run, version: pathlib.Path, folder: pathlib.Path) -> None:
    """Does a run with a version of the package."""
    target = folder / run.name
    environment = os.environ | {
        "PYTHONPATH": str(version),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={run.devices}",
        # One for both versions: where programs are alike the second compiles nothing.
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def start() -> None:
        model_dir = f"--gin.MODEL_DIR={str(target)!r}"
        command = [sys.executable, "-m", f"seqrecipes.{run.command}", *run.arguments, model_dir]
        with open(folder / f"{run.name}.log", "ab") as log:
            done = subprocess.run(command, cwd=version, env=environment, stdout=log, stderr=log)
        if done.returncode:
            tail = (folder / f"{run.name}.log").read_text("utf-8", "replace")[-2000:]
            sys.exit(f"{run.name} of {version} ended with {done.returncode}:\n{tail}")

    start()
    if run.again:
        saved = sorted((target / STAGE / "checkpoints").iterdir(), key=lambda path: int(path.name))
        for step in saved[1:]:
            shutil.rmtree(step)
        start()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 1 if a number differs."""
    parser = argparse.ArgumentParser(prog="same_numbers", description=__doc__.split("\n")[0])
    parser.add_argument("before", type=pathlib.Path, help="a checkout of the other version")
    parser.add_argument("--only", default="", help="names of runs, separated by commas")
    flags = parser.parse_args(argv)
    only = set(filter(None, flags.only.split(",")))
    versions = {"before": flags.before.resolve(), "now": ROOT}
    differing = 0
    with tempfile.TemporaryDirectory(prefix="same-numbers-") as scratch:
        folders = {name: pathlib.Path(scratch) / name for name in versions}
        for folder in folders.values():
            folder.mkdir()
        data = pathlib.Path(scratch) / "labelled"
        for name in SETS:
            getattr(tiny_runs, f"write_{name}")(data)
        for pair in zip(*(runs(folders[name], data) for name in versions), strict=True):
            if only and pair[0].name not in only | {WHOLE}:
                continue
            for (name, version), run in zip(versions.items(), pair, strict=True):
                perform(run, version, folders[name])
            found = [digest(folders[name] / pair[0].name) for name in versions]
            names = differences(*found)
            numbers = [name for name in names if NUMBERS.search(name)]
            differing += bool(numbers)
            compared = sum(bool(NUMBERS.search(name)) for name in found[0])
            print(
                f"{pair[0].name}: {len(numbers)} of {compared} files of numbers differ"
                f"{''.join(f'{chr(10)}  {name}' for name in numbers)}; others: "
                f"{', '.join(sorted(set(names) - set(numbers))) or 'none'}",
                flush=True,
            )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
