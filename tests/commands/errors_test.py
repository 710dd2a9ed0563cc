"""What a user can get wrong: one line that names the field, the value and the remedy; status 2."""

from __future__ import annotations

import collections
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys

import gin
import jax
import pytest

from seqrecipes import convert, report, train
from tests.commands.harness import ROOT, arguments

DEVICES = 8


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    gin.clear_config()
    yield
    gin.clear_config()


def dry_run(capsys, tmp_path, *extra: str, **macros) -> tuple[int, str]:
    macros = {"BATCH_SIZE": 16} | macros
    status = train.main([*arguments(tmp_path / "run", **macros), "--dry_run", *extra])
    captured = capsys.readouterr()
    assert not (tmp_path / "run").exists(), "a dry run writes nothing"
    return status, captured.out + captured.err


def test_a_dry_run_prints_the_resolved_recipe(capsys, tmp_path):
    status, text = dry_run(capsys, tmp_path)
    assert status == 0
    for words in (
        "stage roberta_12e",
        "stage 2stage_bart_12e12d_unfrz",
        "encoder_to_seq2seq",
        "mesh: data 8 x fsdp 1 x tensor 1",
        "['encoder', 'token_embedding']",
        "TU",
        "16 x 32 = 512 tokens",
    ):
        assert words in text
    # Encoder and table by hand: V D + N D + 2 D, two layers of 4 D^2 + 2 D F + 9 D + F, 2 D.
    d, f = 32, 64
    encoder = 512 * d + 2 * d + 2 * (4 * d * d + 2 * d * f + 9 * d + f) + 2 * d
    frozen = encoder + 1_000 * d
    assert f"{frozen:,} frozen" in text
    assert f"{frozen + d * d + d + 2 * d + 1_000:,} trainable" in text  # with the MLM head


@pytest.mark.parametrize(
    ("recipe", "updates", "units"),
    [
        ("roberta_12e", ["500,000"], 5.0),
        ("bart_12e12d", ["500,000"], 10.0),
        ("bart_12e12d_mask", ["500,000"], 10.0),
        ("bart_12e2d", ["500,000"], 5.8),
        ("bart_12e2d_mask", ["500,000"], 5.8),
        ("bart_12e1d_mask", ["500,000"], 5.4),
        ("bart_12e12d_mlm", ["500,000", "100,000"], 11.0),
        ("2stage", ["500,000", "500,000"], 12.5),
        ("2stage_attn_f", ["500,000", "500,000"], 12.5),
        ("2stage_unfrz", ["500,000", "350,000"], 11.0),
    ],
)
def test_the_recipes_are_the_rows_of_table_1(capsys, monkeypatch, tmp_path, recipe, updates, units):
    """Soltan et al. 2023, Table 1."""
    # Their checkpoints take more than 20 GB, which the machine of a test may not have.
    Usage = collections.namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 10**12))
    status = train.main(
        [
            f"--gin_file=gin/{recipe}.gin",
            "--gin.CORPUS='sample'",
            "--gin.VOCABULARY_SIZE=2_000",
            f"--gin.MODEL_DIR='{tmp_path}'",
            "--dry_run",
        ]
    )
    text, complaint = capsys.readouterr()
    assert status == 0, complaint
    assert re.findall(r"([\d,]+) updates", text) == updates
    total = re.search(r"total ([\d.]+) TU$", text.rstrip())
    assert total and round(float(total[1]), 1) == units


@pytest.mark.parametrize(
    ("macros", "words"),
    [
        ({"MLMSTEPS": 5}, "nothing reads it"),
        ({"Stage.optimiser": 5}, "optimiser"),
        ({"Phase.step": 5}, "step"),
        ({"Staje.name": "'x'"}, "Staje"),
        ({"SIZE": "mini"}, "strings need quotes"),
        ({"mlmm/Stage.name": "'x'"}, "nothing reads it"),
        ({"SIZE": "'medium'"}, "medium"),
        ({"CORPUS": "'wikis'"}, "choose one of mc4, parallel, sample, "),
        ({"CORPUS": "'text'"}, "TextFiles.files"),
        ({"mlm/Stage.objective": "'mlmm'"}, "corpus sample has adjacent_mlm, mlm, span_corruption"),
        ({"mlm/Stage.objective": "'span_drop'"}, "is an encoder and needs masked_targets"),
        ({"mlm/Stage.model": "'configs/bart.py'"}, "no such file"),
        ({"Stage.model_overrides": "{'hiden_size': 3}"}, "hiden_size"),
        ({"WarmStart.conversion": "'encoder2seq2seq'"}, "choose one of encoder_to_seq2seq"),
        ({"WarmStart.source": "'roberta'"}, "neither an earlier stage (roberta_12e) nor a path"),
        ({"WarmStart.source": "'runs/none/roberta'"}, "does not exist"),
        ({"frozen/Phase.freeze": "['encodr']"}, "matches no parameter"),
        ({"AdamW.multipliers": "[('encodr', 0.1)]"}, "matches no parameter"),
        ({"mlm/Phase.frozen_dropout": "False"}, "needs the whole encoder frozen"),
        ({"mlm/Phase.frozen_encoder_layers": 2}, "the encoder has 2 layers"),
        ({"Stage.loss": "@Loss()", "Loss.label_smoothing": 1.5}, "must lie in [0, 1)"),
        ({"frozen/Phase.freeze": "'encoder'"}, "write a list"),
        ({"frozen/Phase.freeze": "['.*']"}, "leaves nothing to train"),
        ({"frozen/Phase.freeze": "['enc(']"}, "not a regular expression"),
        ({"BATCH_SIZE": 12}, "must be a multiple of"),
        ({"MICRO_BATCHES": 3}, "must be a multiple of"),
        ({"TENSOR": 3}, "must multiply to the 8 devices"),
        ({"TENSOR": 8}, "cannot be split 8 ways"),
        ({"WARMUP_STEPS": 40}, "must be less than the stage's 30 steps"),
        ({"SEQUENCE_LENGTH": 1024}, "has 512 positions"),
        ({"FROZEN_STEPS": 0}, "must be at least 1"),
        ({"ALPHA": 1.5}, "[0, 1]"),
        ({"VOCABULARY": "'nowhere/spm.model'"}, "nowhere/spm.model"),
        ({"Checkpointing.keep": 10**9}, "are free"),
        ({"Recipe.tasks": "'tasks.nothing'"}, "tasks.nothing"),
    ],
    ids=str,
)
def test_mistakes_are_named(capsys, tmp_path, macros, words):
    status, text = dry_run(capsys, tmp_path, **macros)
    assert status == 2
    error = text.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error
    assert "Traceback" not in text


def test_missing_files_and_flags_are_named(capsys, tmp_path):
    assert train.main(["--gin_file=gin/none.gin"]) == 2
    assert "gin/none.gin" in capsys.readouterr().err
    assert train.main([]) == 2
    assert "--gin_file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        train.main(["--gin_fle=x"])
    assert caught.value.code == 2
    status = train.main([*arguments(tmp_path / "run", BATCH_SIZE=16), "--stage=bart"])
    assert status == 2
    assert "roberta_12e, 2stage_bart_12e12d_unfrz" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_of_another_model_is_refused(capsys, tmp_path):
    from seqrecipes.data import vocabulary
    from seqrecipes.data.corpora.sample import SampleCorpus
    from seqrecipes.training import checkpoints

    path, other = (
        vocabulary.train_vocabulary(
            vocabulary.sample_texts(SampleCorpus()), size, tmp_path / f"vocabulary-{size}"
        )
        for size in (1_000, 1_010)
    )
    from tests.conversion.warm_start_test import config, params_of

    source = config("roberta_12e", hidden_size=32)
    with jax.default_device(jax.devices()[0]):
        checkpoints.save_params(
            tmp_path / "old",
            params_of(source, 0),
            {"model": source.to_dict()},
            vocabulary=other.read_bytes(),
            account="",
        )
    status, text = dry_run(
        capsys,
        tmp_path,
        VOCABULARY=repr(str(path)),
        **{"WarmStart.source": repr(f"{tmp_path}/old")},
    )
    assert status == 2
    checksum = hashlib.sha256(other.read_bytes()).hexdigest()
    assert checksum[:12] in text
    assert "use that one" in text

    # The same through the converter, whose source's folder also explains itself.
    arguments_ = [
        "--conversion=encoder_to_seq2seq",
        "--model=configs/bart_12e12d.py",
        "--size=mini",
    ]
    assert convert.main([*arguments_, str(tmp_path / "old"), str(tmp_path / "new")]) == 2
    assert "hidden_size" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert convert.main([*arguments_, str(tmp_path / "nothing"), str(tmp_path / "new")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert convert.main([*arguments_, str(tmp_path / "old"), str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    fitting = [
        f"--set={name}={value}"
        for name, value in source.to_dict().items()
        if name in ("hidden_size", "mlp_size", "num_heads", "max_positions")
    ]
    words = [*arguments_, *fitting, "--set=tie_head=False", str(tmp_path / "old")]
    assert convert.main([*words, str(tmp_path / "new")]) == 0
    assert "copy of token_embedding/embedding" in capsys.readouterr().out
    metadata = checkpoints.read_metadata(checkpoints.find(tmp_path / "new", field="x"))
    assert metadata["model"]["decoder_layers"] == 4
    assert metadata["vocabulary"] == checksum


def test_text_that_cannot_be_read_is_named(capsys, tmp_path):
    folder = tmp_path / "en"
    folder.mkdir()
    files = {"TEXT_FILES": json.dumps({"en": str(folder)}), "CORPUS": "'text'"}
    assert "en" in dry_run(capsys, tmp_path, **files)[1]
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n" * 1000)[:-20])
    gin.clear_config()
    (folder / "a.txt.gz").write_bytes(b"not gzip")
    status, text = dry_run(capsys, tmp_path, **files)
    assert status == 2
    assert "a.txt.gz" in text


def test_report_of_nothing(capsys, tmp_path):
    assert report.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "convert", "generate", "report", "train_vocabulary"])
def test_help_answers_without_the_heavy_libraries(command):
    code = (
        "import sys; from importlib import import_module\n"
        f"main = import_module('seqrecipes.{command}').main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'jax', 'tensorflow', 'seqio'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m seqrecipes." in done.stdout


def test_only_seqios_faces_import_tensorflow_or_seqio():
    code = (
        "import importlib, pkgutil, sys\n"
        "for name in ('tensorflow', 'seqio', 'tensorflow_text', 'tensorflow_datasets', 't5x',\n"
        "             'torch', 'transformers'):\n"
        "    sys.modules[name] = None\n"
        "import seqrecipes\n"
        "faces = {f'seqrecipes.data.seqio.{name}' for name in\n"
        "         ('labelled', 'preprocessors', 'registration', 'tasks', 'vocabulary')}\n"
        "for module in pkgutil.walk_packages(seqrecipes.__path__, 'seqrecipes.'):\n"
        # Code that goes out with an export is for others.
        "    if module.name not in faces and not module.name.endswith('_seqrecipes'):\n"
        "        importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
