"""The prepare command: the bytes that training would have made, by way of Beam."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time

import apache_beam as beam
import gin
import pytest

from seqrecipes import prepare, runner, train
from seqrecipes.config.recipe import train as configured
from seqrecipes.data.blocks import Blocks
from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.data.preparation import Preparation, prepare_blocks
from seqrecipes.data.tasks import get_task
from seqrecipes.data.vocabulary import sample_texts, train_vocabulary
from tests.commands.harness import ROOT, arguments


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    return str(train_vocabulary(sample_texts(SampleCorpus()), 1_000, folder))


@pytest.fixture
def text(tmp_path):
    """Two languages of the sample as files, one of them of two shards."""
    for language in ("en", "ja"):
        documents = list(SampleCorpus().documents(language, "train", 0))
        for part in range(2):
            path = tmp_path / "text" / language / f"{part}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(documents[part::2]), "utf-8")
    return tmp_path / "text"


@pytest.fixture
def run(tmp_path, vocabulary, text, capsys):
    def command(*extra: str, files: bool = True, beam: bool = True) -> tuple[int, str]:
        flags = [f"--files={x}={text}/{x}" for x in ("en", "ja")] if files else []
        flags += [f"--vocabulary={vocabulary}", f"--output={tmp_path}/out", "--sequence_length=32"]
        bindings = ["--gin.TextFiles.shard_bytes=2000", "--gin.TextFiles.validation_every=5"]
        gin.clear_config()
        flags += ["--runner=DirectRunner"] if beam else []
        status = prepare.main(["--corpus=text", *flags, *bindings, *extra])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return command


@pytest.mark.parametrize("with_beam", [True, False])
def test_it_writes_what_training_would(run, tmp_path, monkeypatch, with_beam):
    if not with_beam:
        monkeypatch.setitem(sys.modules, "apache_beam", None)
    run = functools.partial(run, beam=with_beam)
    status, output = run("--dry_run")
    assert status == 0 and "nothing was written" in output and not (tmp_path / "out").exists()
    assert ("with DirectRunner" if with_beam else "in this process") in output

    status, output = run()
    assert status == 0, output
    (folder,) = (p for p in (tmp_path / "out").iterdir() if p.is_dir())
    # gin is still bound as the command left it.
    raw = prepare_blocks(get_task("text", "mlm"), 30, tmp_path / "raw")
    assert raw.folder.name == folder.name
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == sorted(
        p.relative_to(raw.folder) for p in raw.folder.rglob("*")
    )
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (raw.folder / path.relative_to(folder)).read_bytes(), path
    assert len(raw.manifest["shards"]["train"]["ja"]) == 2
    for language in ("en", "ja"):
        counts = raw.manifest["splits"]["train"][language]
        assert f"{counts['documents']:,}" in output and f"{counts['tokens']:,}" in output

    # Again: nothing is left to do. A shard that is gone is made again, the others are left alone.
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*.tokens")}
    lost = folder / "train" / "ja-00001.tokens"
    content = lost.read_bytes()
    lost.unlink()
    status, output = run()
    assert status == 0 and "of them done" in output
    assert lost.read_bytes() == content
    changed = {p for p in times if p.stat().st_mtime_ns != times[p]}
    assert changed == {lost}

    status, output = run("--verify")
    assert status == 0 and "are as they were written" in output
    lost.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    status, output = run("--verify")
    assert status == 2 and "ja-00001.tokens" in output and "checksum" in output


def test_training_reads_what_was_prepared(run, tmp_path, vocabulary, text):
    status, output = run()
    assert status == 0, output
    for path in text.rglob("*.txt"):
        path.unlink()  # the text itself is no longer needed
    gin.clear_config()
    flags = arguments(
        tmp_path / "run",
        CORPUS="'text'",
        PREPARED=repr(f"{tmp_path}/out"),
        VOCABULARY=repr(vocabulary),
        SEQUENCE_LENGTH=32,
        BATCH_SIZE=16,
    )
    assert train.main([*flags, "--dry_run"]) == 0
    wanted = configured()
    recipe = runner.Run(wanted.recipe, wanted.model_dir)
    (folder,) = (p for p in (tmp_path / "out").iterdir() if p.is_dir())
    for stage in recipe.recipe.stages:
        assert recipe.text.blocks(stage).folder == folder
    assert Blocks(folder).languages == ("en", "ja")


def test_prepared_text_that_does_not_suit_is_refused(run, tmp_path, vocabulary, capsys):
    assert run()[0] == 0
    gin.clear_config()
    macros = {"CORPUS": "'text'", "PREPARED": repr(f"{tmp_path}/out"), "BATCH_SIZE": 16}
    flags = arguments(tmp_path / "run", VOCABULARY=repr(vocabulary), SEQUENCE_LENGTH=64, **macros)
    assert train.main([*flags, "--dry_run"]) == 2
    assert "payload 30" in capsys.readouterr().err
    gin.clear_config()
    flags = arguments(tmp_path / "run", VOCABULARY="''", SEQUENCE_LENGTH=32, **macros)
    assert train.main([*flags, "--dry_run"]) == 2
    assert "Recipe.vocabulary" in capsys.readouterr().err


def test_an_interrupted_pipeline_goes_on(run, tmp_path, monkeypatch):
    original, written = Preparation.write, []

    def write(self, shard):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard)
        return original(self, shard)

    monkeypatch.setattr(Preparation, "write", write)
    status, output = run()
    assert status == 130 and "interrupted; the same command does what is left" in output
    written.clear()
    monkeypatch.setattr(
        Preparation,
        "write",
        lambda self, shard: written.append(shard) or original(self, shard),
    )
    assert run()[0] == 0
    (folder,) = (p for p in (tmp_path / "out").iterdir() if p.is_dir())
    assert len(written) == len(list(folder.glob("*/*.json"))) - 2
    Blocks(folder)


def test_the_pipeline_has_one_end(run, monkeypatch):
    """Dask's runner runs up to one end and leaves what leads to others."""
    protos = []
    to_runner_api = beam.Pipeline.to_runner_api

    def kept(self, *args, **kwargs):
        protos.append(to_runner_api(self, *args, **kwargs))
        return protos[-1]

    monkeypatch.setattr(beam.Pipeline, "to_runner_api", kept)
    assert run("--dry_run")[0] == 0
    (proto,) = protos
    leaves = [t for t in proto.components.transforms.values() if not t.subtransforms]
    made = {name for leaf in leaves for name in leaf.outputs.values()}
    used = {name for leaf in leaves for name in leaf.inputs.values()}
    assert len(made - used) == 1


def test_a_pipeline_in_which_nothing_happens_is_ended(run, tmp_path, monkeypatch):
    from seqrecipes.data import beam as preparing

    monkeypatch.setattr(preparing._Progress, "_EVERY", 0.05)
    monkeypatch.setattr(preparing._Progress, "_STALLED", 0.5)
    monkeypatch.setattr(preparing._Progress, "_GRACE", 0.3)
    original, waiting = Preparation.write, threading.Event()
    kill, signals = signal.pthread_kill, []

    def hangs(self, shard):
        if shard == ("train", 1):
            waiting.wait(60)
        return original(self, shard)

    def lost_at_first(*args):  # as Python drops an interruption in a callback of its collector
        signals.append(args)
        if len(signals) > 1:
            kill(*args)

    monkeypatch.setattr(Preparation, "write", hangs)
    monkeypatch.setattr(signal, "pthread_kill", lost_at_first)
    began = time.monotonic()
    status, output = run()
    waiting.set()
    assert status == 2 and time.monotonic() - began < 45
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "nothing was written for" in line and "the same command does what is left" in line
    monkeypatch.undo()
    status, output = run()
    assert status == 0, output


def test_a_worker_process_that_ended_is_told_at_once(run, monkeypatch):
    """As Beam tells it: an error of one of its threads, while the pipeline waits."""
    from seqrecipes.data import beam as preparing

    monkeypatch.setattr(preparing._Progress, "_EVERY", 0.05)
    monkeypatch.setattr(preparing._Progress, "_GRACE", 0.3)

    def waits(self, *args, **kwargs):
        def worker():
            raise RuntimeError("Worker subprocess exited with return code 137")

        threading.Thread(target=worker).start()
        threading.Event().wait(60)

    monkeypatch.setattr(beam.Pipeline, "run", waits)
    hook = threading.excepthook
    status, output = run("--runner=DirectRunner")
    assert status == 2 and threading.excepthook is hook
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "exited with return code 137 (killed, or out of memory?); the same command does" in line
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "message, said",
    [
        (
            "\n".join(f"line {i} of a trace" for i in range(74)),
            "--runner = 'FlinkRunner': failed: RuntimeError: line 0 of a trace",
        ),
        (
            "Traceback:\n  ...\nseqrecipes.errors.UserError: TextFiles.files['en'] = 'x.txt:3': "
            "this line is not valid UTF-8. [while running 'train/Map(_write)-ptransform-9']\n more",
            "TextFiles.files['en'] = 'x.txt:3': this line is not valid UTF-8.",
        ),
        ("", "--runner = 'FlinkRunner': failed: RuntimeError"),
    ],
)
def test_what_a_cluster_says_becomes_one_line(run, monkeypatch, message, said):
    """A jar that is missing, or what a worker in another process found."""

    def fails(self, *args, **kwargs):
        raise RuntimeError(message)

    monkeypatch.setattr(beam.Pipeline, "run", fails)
    status, output = run("--runner=FlinkRunner", "--pipeline_option=flink_master=localhost:9")
    assert status == 2
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert said in line and len(line) < 400
    assert "trace" not in output.replace(line, "")


def test_workers_are_quiet_unless_asked():
    from seqrecipes.data.beam import pipeline_options

    name = "default_sdk_harness_log_level"
    assert pipeline_options("DirectRunner", []).get_all_options()[name] == "CRITICAL"
    loud = pipeline_options("DirectRunner", [f"{name}=INFO"])
    assert loud.get_all_options()[name] == "INFO"


def test_another_text_in_the_same_process_is_read(run, tmp_path, text):
    assert run()[0] == 0
    for path in text.rglob("*.txt"):
        path.write_text(path.read_text("utf-8").upper(), "utf-8")
    assert run()[0] == 0
    raw = prepare_blocks(get_task("text", "mlm"), 30, tmp_path / "raw")
    prepared = Blocks(tmp_path / "out" / raw.folder.name)
    assert prepared.manifest == raw.manifest
    assert len(list((tmp_path / "out").glob("blocks-*/manifest.json"))) == 2


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--pipeline_option=nonsense=3"], "--pipeline_option = 'nonsense': Beam knows no such"),
        (["--runner=NoRunner"], "--runner = 'NoRunner'"),
        (["--objective=bert"], "objective = 'bert': corpus text has "),
        (["--objective=span_corruption"], "needs 4 sentinels, this vocabulary has 0"),
        (["--corpus=sample"], "--files"),
    ],
)
def test_mistakes_are_one_line_and_status_2(run, tmp_path, extra, message):
    status, output = run(*extra)
    assert status == 2
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_bad_file_is_named_through_the_pipeline(run, text):
    (text / "en" / "2.txt").write_bytes(b"good\n\xff\n")
    status, output = run()
    assert status == 2
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "2.txt:2" in line and "UTF-8" in line
    status, output = run("--gin.TextFiles.on_bad_record='skip'")
    assert status == 0
    assert any(
        line.split()[:2] == ["train", "en"] and line.endswith(" 1") for line in output.splitlines()
    )
