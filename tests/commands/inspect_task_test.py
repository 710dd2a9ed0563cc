"""The command that shows what a task makes of text."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys

import gin
import pytest

from seqrecipes import inspect_task
from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.preparation import prepare_blocks
from seqrecipes.data.tasks import get_task
from seqrecipes.data.vocabulary import Vocabulary, sample_texts, train_vocabulary
from tests.commands.harness import ROOT

SENTINELS = 40
TASKS = [
    f"{'sample_parallel' if o.reads == 'translations' else 'sample'}.{name}"
    for name, o in OBJECTIVES.items()
]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    texts = sample_texts(SampleCorpus(), max_sentences=500)
    return str(train_vocabulary(texts, 1_000 + SENTINELS, folder, sentinels=SENTINELS))


@pytest.fixture
def run(monkeypatch, capsys, vocabulary):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "120")

    def command(*arguments, known=True):
        gin.clear_config()
        flags = [f"--vocabulary={vocabulary}"] if known else []
        try:
            status = inspect_task.main([*arguments, *flags])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield command
    gin.clear_config()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_shown(run, task):
    status, out, err = run(task, "--sequence_length=64", "--records=24", "--examples=2")
    assert (status, err) == (0, "")
    assert out.startswith(f"{task}\n")
    assert out.count("\n── ") == 2
    assert "Text (the documents read" in out and "Examples (noise" in out
    assert "\x1b" not in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["all"][1] == "24"  # of the last table by language
    rate = float(rows["all"][4].rstrip("%")) / 100
    assert rate == pytest.approx(get_task(*task.split(".")).objective.rate, abs=0.02)


def test_what_is_shown_is_the_text(run, vocabulary):
    out = run("sample.span_mask", "--sequence_length=96", "--language=en", "--examples=1")[1]
    target = out.partition("decoder_target_tokens\n")[2].partition("\n\nText")[0]
    columns = [line.partition("│ ") for line in target.splitlines()]
    right = " ".join(c[2] or c[0] for c in columns)
    words = re.sub(r"\[(?!DOC)|(?<!DOC)\]|</?s>", "", right).split()
    document = next(SampleCorpus().documents("en", "train", 0))
    tokenizer = Vocabulary(vocabulary).tokenizer
    assert words[:12] == tokenizer.decode(tokenizer.encode(document)).split()[:12]


def test_noise_is_that_of_seed_and_epoch(run):
    flags = ["sample.mlm", "--sequence_length=64", "--records=1", "--examples=1"]
    outs = [run(*flags, *extra)[1] for extra in ([], [], ["--seed=1"], ["--epoch=1"])]
    panes = [out.partition("── ")[2].partition("Text (")[0] for out in outs]
    assert panes[0] == panes[1] and len(set(panes)) == 3


def test_ids_on_demand(run, vocabulary):
    out = run("sample.mlm", "--sequence_length=64", "--records=1", "--examples=1", "--ids")[1]
    mask = str(Vocabulary(vocabulary).mask_id).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
    assert f"<mask>{mask}" in out and "<s>₀" in out


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_are_for_terminals_that_want_them(monkeypatch, run, environment, coloured):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    assert run("sample.mlm", "--sequence_length=64", "--records=1", "--examples=1")[0] == 0
    assert ("\x1b[" in screen.getvalue()) == coloured


@pytest.mark.parametrize("name", ["page.html", "picture.png"])
def test_output_is_written_into_a_new_folder(run, tmp_path, name):
    path = tmp_path / "new" / "folder" / name
    flags = ["--sequence_length=64", "--records=24", "--examples=3", f"--output={path}"]
    status, out, _ = run("sample_parallel.translation_span_corruption", *flags)
    assert status == 0 and out.endswith(f"wrote {path}\n")
    data = path.read_bytes()
    if name.endswith(".png"):
        assert data.startswith(b"\x89PNG")
    else:
        assert data.startswith(b"<!DOCTYPE html>") and data.endswith(b"</html>\n")


def test_fewer_records_than_asked_for_are_said(run):
    out = run("sample.mlm", "--language=en", "--examples=0", "--records=5000")[1]
    (note,) = re.findall(r"note: 5,000 records were asked for and (\d+) are there", out)
    (row,) = [line.split() for line in out.splitlines() if line.startswith("en ")][-1:]
    assert row[1] == note


def test_prepared_text_is_read_in_place_of_the_corpus(run, tmp_path):
    flags = ["sample.span_drop", "--sequence_length=64", "--records=24", "--examples=2"]
    raw = run(*flags)[1]
    blocks = prepare_blocks(get_task("sample", "span_drop"), 62, tmp_path)
    status, out, _ = run(*flags, f"--prepared={tmp_path}")
    assert status == 0
    assert f"train split of {tmp_path}" in out and "as counted when it was prepared" in out
    shown = [text.partition("── ")[2].partition("\n\n── ")[0] for text in (raw, out)]
    assert shown[0] == shown[1]  # the first example; others come from all over the text
    documents = blocks.manifest["splits"]["train"]["ja"]["documents"]
    row = next(line.split() for line in out.splitlines() if line.startswith("ja "))
    assert row[1] == str(documents)
    status, _, err = run("sample.mlm", f"--prepared={tmp_path}")
    assert status == 2 and "payload" in err


def test_own_files_with_bad_records(run, tmp_path):
    for language in ("en", "de"):
        lines = [json.dumps({"text": t}) for t in SampleCorpus().documents("en", "train", 0)]
        (tmp_path / f"{language}.jsonl").write_text("\n".join(lines), "utf-8")
    with (tmp_path / "en.jsonl").open("ab") as file:
        file.write(b"\n{broken\n")
    flags = [f"--files={x}={tmp_path}/{x}.jsonl" for x in ("en", "de")]
    flags += ["--sequence_length=64", "--records=2000", "--examples=1"]
    status, out, err = run("text.mlm", *flags)
    assert status == 2 and not out and "en.jsonl" in err and err.startswith("error: ")
    status, out, _ = run("text.mlm", *flags, "--gin.TextFiles.on_bad_record='skip'")
    assert status == 0
    assert re.search(r"note: en: 1 bad records were skipped, such as .*en\.jsonl", out)
    (row, *_) = [line.split() for line in out.splitlines() if line.startswith("en ")]
    assert row[6] == "1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wikis.mlm"], "corpus = 'wikis': choose one of mc4, parallel, sample"),
        (["sample"], "objective = '': corpus sample has adjacent_mlm, mlm"),
        (["sample.tlm"], "objective = 'tlm': corpus sample has adjacent_mlm, mlm"),
        (["sample.mlm", "--records=0"], "--records = '0': must be at least 1"),
        (["sample.mlm", "--examples=-1"], "--examples = '-1'"),
        (["sample.mlm", "--seed=-1"], "--seed = '-1'"),
        (["sample.mlm", "--epoch=-1"], "--epoch = '-1'"),
        (["sample.mlm", "--alpha=3"], "--alpha = '3': must lie in [0, 1]"),
        (["sample.mlm", "--language=xx"], "--language = 'xx': choose one of ar, de"),
        (["sample.mlm", "--output=x.pdf"], "--output = 'x.pdf': ends in .html or .png"),
        (["sample.mlm", "--output=README.md/x.html"], "--output = 'README.md/x.html': cannot be"),
        (["sample.mlm", "--sequence_length=2"], "--sequence_length = '2': must lie in [8, "),
        (["sample.span_corruption", "--sequence_length=2000"], "this vocabulary has 40"),
        (["sample.mlm", "--prepared=nowhere"], "nothing complete is there"),
        (["sample.mlm", "--files=en=x"], "goes with corpus text or parallel"),
    ],
)
def test_mistakes_are_one_line_and_status_2(run, arguments, message):
    status, out, err = run(*arguments)
    assert status == 2 and not out
    assert message in err and err.startswith("error: ") and len(err.splitlines()) == 1


def test_without_a_vocabulary_it_says_how_to_train_one(run, tmp_path):
    for task, flags in [("sample.mlm", "--output=DIR`"), ("sample.span_corruption", "=DIR --sent")]:
        status, _, err = run(task, known=False)
        assert status == 2
        assert "--vocabulary = None" in err and "python -m seqrecipes.train_vocabulary" in err
        assert flags in err
    status, _, err = run("sample.mlm", f"--vocabulary={tmp_path}/spm.model", known=False)
    assert status == 2 and "the file cannot be read" in err and "train_vocabulary" in err


def test_an_interruption_is_no_traceback(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("seqrecipes.inspection.excerpt.RawExcerpt.records", interrupted)
    assert run("sample.mlm") == (130, "", "interrupted\n")


def test_a_reader_that_has_seen_enough_is_no_error(run, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run("sample.mlm", "--sequence_length=64", "--records=1")[0] == 0
        pipe.write("nobody reads this")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from seqrecipes.inspect_task import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'tensorflow', 'seqio', 'jax', 'matplotlib', 'numpy'} "
        "& set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "--records" in result.stdout and result.stdout.endswith("[]\n")
