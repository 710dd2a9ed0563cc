"""What the documentation prints is true: commands run as printed, names are there.

Small by one rule: a pre-training, fine-tuning or protocol gets one more gin file, the last, of this
folder. All blocks run in one folder, in the order of the pages; its name has a space and letters of
another script, as a user's may.
"""

from __future__ import annotations

import importlib
import pathlib
import re
import shutil
from typing import Any

import gin
import pytest

from seqrecipes import configuration
from seqrecipes.downstream import jobs
from tests.docs import shell
from tests.docs.pages import PAGES, REASONS, ROOT, Block, blocks
from tests.downstream import tiny_runs

# Programs for one device compile faster, and do what a laptop does.
DEVICES = 1
BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.fixture
def clone(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder that looks like a clone, with labelled data beside; commands run in it."""
    folder = tmp_path / "мои recipes"
    folder.mkdir()
    shell.link_farm(folder)
    tiny_runs.write_udpos(folder / "data")
    german = folder / "data" / "udpos" / "de"
    shutil.copy(german / "test.tsv", german / "dev.tsv")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(jobs, "run", run_jobs)
    return folder


def run_jobs(found: Any, where: Any, *, title: str) -> list[jobs.Failure]:
    """Runs the jobs of a protocol in this process."""
    failures = []
    for job in found:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        module = job.command.index("-m") + 1
        name = job.command[module].removeprefix("seqrecipes.")
        status, text = shell.call(name, list(job.command[module + 1 :]))
        job.log.write_text(text, "utf-8")
        if status or not job.done:
            failures.append(jobs.Failure(job, status))
    return failures


@pytest.mark.slow
def test_every_command_runs_as_printed(clone: pathlib.Path) -> None:
    printed, failures = "", []
    for block in BLOCKS:
        if block.mode != "not" and block.file:
            (clone / block.file).write_text(block.text, "utf-8")
        elif block.mode != "not" and not block.is_gin:
            try:
                printed += shell.run(block)
            except AssertionError as failure:  # of the others it may say more
                failures.append(str(failure))
    assert not failures, "\n".join(failures)
    # The paper's table, in the page on planning.
    page = (ROOT / "docs" / "planning.md").read_text("utf-8")
    rows = [line for line in page.split("## Hours")[0].split("\n") if line.startswith("| ")]
    assert len(rows) == 12 and not set(rows) - set(printed.split("\n"))
    # The table of a run's folder, in the README.
    stage = clone / "runs" / "mine" / "2stage_bart_12e12d_unfrz"
    files = "metrics.jsonl", "model-info.txt", "warm-start.txt", "ledger.json", "predictions.json"
    for name in files:
        assert (stage / name).is_file()
        assert f"`{name}`" in README or f"`<stage>/{name}`" in README
    for item in ("params", "optimizer", "metadata"):
        assert (stage / "checkpoints" / "2" / item).is_dir() and f"`{item}`" in README
    for name in ("vocabulary", "data", "report.md", "curves.png"):
        assert (stage.parent / name).exists() and f"`{name}" in README
    assert "read     " in (stage.parent / "report.md").read_text("utf-8")


README = (ROOT / "README.md").read_text("utf-8")


def test_a_block_is_run_or_says_why_not() -> None:
    assert len(BLOCKS) > 40
    for block in BLOCKS:
        if block.mode != "run":
            assert block.reason.split(":")[0].split(",")[0] in REASONS, block
        elif not block.file and not block.is_gin:
            for line in shell.commands(block.text):
                ours = re.match(r"python -m seqrecipes\.|make |cp |head |source ", line)
                assert ours and "..." not in line, f"{block}: {line}"
    # Most of our own commands are run, not marked.
    run = [b for b in BLOCKS if b.mode == "run" and "python -m seqrecipes." in b.text]
    names = {name for block in run for name in re.findall(r"-m seqrecipes\.(\w+)", block.text)}
    files = (ROOT / "seqrecipes").glob("*.py")
    assert names == {file.stem for file in files if '"__main__"' in file.read_text("utf-8")}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.is_gin and b.mode == "run"], ids=str)
def test_gin_that_is_printed_can_be_read(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("corpora.text_files", "corpora.parallel_files", "seqio.tfds_text"):
        importlib.import_module(f"seqrecipes.data.{room}")
    importlib.import_module("seqrecipes.data.labelled.local_files")
    importlib.import_module("seqrecipes.runner")
    monkeypatch.chdir(ROOT)
    gin.clear_config()
    try:
        configuration.load(["gin/2stage.gin"], [])
        gin.parse_config(block.text)
    finally:
        gin.clear_config()


def test_files_that_pages_name_are_there() -> None:
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"
        for name in re.findall(r"\b(?:gin|configs|launch|tasks|tests|benchmarks)/[\w./*]+\w", text):
            if "NAME" not in name:
                assert list(ROOT.glob(name)) or not pathlib.Path(name).suffix, f"{page}: {name}"


def test_figures_of_the_readme_are_those_of_the_page_on_planning() -> None:
    page = (ROOT / "docs" / "planning.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in page.split("\n")]
    saves = {row[1]: row[7:9] for row in rows if len(row) == 10}
    (half, half_flops), (best, best_flops) = saves["2stage"], saves["2stage_unfrz"]
    text = " ".join(README.split())
    assert f"{half} and {best}; by FLOPs {half_flops} and {best_flops}" in text
    assert f"{best} less compute" in text


def test_every_page_is_read() -> None:
    there = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert there | {"README.md"} == set(PAGES)


def test_flags_that_pages_name_exist() -> None:
    """Inline, too: `python -m seqrecipes.NAME --flag`."""
    helps: dict[str, str] = {}
    for page in PAGES:
        text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
        for name, rest in re.findall(r"python -m seqrecipes\.(\w+)([^`\n]*)", text):
            if name not in helps:
                helps[name] = shell.call(name, ["--help"])[1]
            for flag in re.findall(r"(?<!\S)(--\w+)(?![\w.])", rest):
                assert re.search(rf"{flag}\b", helps[name]), f"{page}: {name} {flag}"
