"""The convert command in its three ways: what it writes, what it refuses, what it leaves behind."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from seqrecipes import convert, models, tree
from seqrecipes.conversion.hf import files
from seqrecipes.data import pieces
from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.data.vocabulary import sample_texts, train_vocabulary
from seqrecipes.models import config as model_config
from seqrecipes.training import checkpoints


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory) -> list[bytes]:
    """Two that share many pieces."""
    folder = tmp_path_factory.mktemp("vocabularies")
    return [
        train_vocabulary(sample_texts(SampleCorpus()), size, folder / str(size)).read_bytes()
        for size in (1600, 1800)
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, vocabularies) -> dict[str, pathlib.Path]:
    """A checkpoint of an encoder and one of a seq2seq model with four decoder layers."""
    parent = tmp_path_factory.mktemp("checkpoints")
    result = {}
    for name in ("roberta_12e", "bart_12e12d"):
        config = model_config.load(
            f"configs/{name}.py",
            size="mini",
            vocab_size=len(pieces.pieces(vocabularies[0])),
            overrides={"hidden_size": 32, "mlp_size": 64, "scan_layers": True},
        )
        checkpoints.save_params(
            parent / name,
            jax.jit(lambda config=config: models.init_params(config, 5))(),
            {"model": config.to_dict(), "converted_from": "chance", "conversion": "none"},
            vocabulary=vocabularies[0],
            account="random",
        )
        result[name] = parent / name
    return result


def run(*arguments: object) -> int:
    return convert.main([str(argument) for argument in arguments])


def params(folder: pathlib.Path) -> dict[str, np.ndarray]:
    checkpoint = checkpoints.find(folder, field="folder")
    model = checkpoints.read_metadata(checkpoint)["model"]
    config = models.ModelConfig.from_dict(model, field="model")
    paths = tree.flatten(models.parameter_shapes(config))
    return {path: checkpoints.read_leaf(checkpoint, path) for path in paths}


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)


@pytest.mark.parametrize("name", ["roberta_12e", "bart_12e12d"])
def test_out_and_back(folders, vocabularies, tmp_path, capsys, name):
    assert run("--to=hf", folders[name], tmp_path / "out") == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "spm.model",
        "tokenizer.json",
        "tokenizer_config.json",
        *(["generation_config.json"] if name.startswith("bart") else []),
    }
    assert "`none` from `chance`" in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert run("--from=hf", tmp_path / "out", tmp_path / "back") == 0
    assert "written to" in capsys.readouterr().out
    assert_equal(params(tmp_path / "back"), params(folders[name]))
    assert (tmp_path / "back" / "vocabulary" / "spm.model").read_bytes() == vocabularies[0]
    # And on: what came back is a checkpoint like any other.
    assert run("--to=hf", tmp_path / "back", tmp_path / "again") == 0
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        ours, theirs = (tmp_path / each / file for each in ("again", "out"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_another_vocabulary_on_the_way_in(folders, vocabularies, tmp_path, capsys):
    assert run("--to=hf", folders["roberta_12e"], tmp_path / "out") == 0
    (tmp_path / "new.model").write_bytes(vocabularies[1])
    new = f"--vocabulary={tmp_path / 'new.model'}"
    assert run("--from=hf", tmp_path / "out", tmp_path / "in", new) == 0
    assert "rows by piece" in capsys.readouterr().out
    conversion = ("--conversion=new_vocabulary", new)
    assert run(*conversion, folders["roberta_12e"], tmp_path / "converted") == 0
    assert_equal(params(tmp_path / "in"), params(tmp_path / "converted"))
    # By hand: equal pieces keep their rows, the others get the mean.
    old, wanted = (pieces.pieces(each) for each in vocabularies)
    before = params(folders["roberta_12e"])["token_embedding/embedding"]
    after = params(tmp_path / "in")["token_embedding/embedding"]
    shared = [piece for piece in wanted if piece in old]
    assert 100 < len(shared) < len(wanted) == len(after)
    for piece in shared:
        np.testing.assert_array_equal(after[wanted.index(piece)], before[old.index(piece)])
    new_row = next(i for i, piece in enumerate(wanted) if piece not in old)
    np.testing.assert_allclose(after[new_row], before.mean(0), atol=1e-6)


def test_sentinels_are_added_on_the_way_in(folders, vocabularies, tmp_path):
    assert run("--to=hf", folders["roberta_12e"], tmp_path / "out") == 0
    (tmp_path / "out" / "spm.model").unlink()  # as after transformers' own save_pretrained
    assert run("--from=hf", tmp_path / "out", tmp_path / "in", "--sentinels=3") == 0
    model = (tmp_path / "in" / "vocabulary" / "spm.model").read_bytes()
    assert pieces.pieces(model) == [
        *pieces.pieces(vocabularies[0]),
        *(f"<sentinel_{k}>" for k in range(3)),
    ]


def test_a_folder_without_a_tokenizer_takes_the_one_that_is_named(folders, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--to=hf", folders["roberta_12e"], out) == 0
    for name in ("spm.model", "tokenizer.json", "tokenizer_config.json"):
        (out / name).unlink()
    assert run("--from=hf", out, tmp_path / "in") == 2
    assert "--vocabulary" in capsys.readouterr().err
    named = f"--vocabulary={folders['roberta_12e'] / 'vocabulary' / 'spm.model'}"
    assert run("--from=hf", out, tmp_path / "in", named, "--sentinels=2") == 2
    assert "--sentinels = 2" in capsys.readouterr().err
    assert run("--from=hf", out, tmp_path / "in", named) == 0
    assert_equal(params(tmp_path / "in"), params(folders["roberta_12e"]))


def test_a_conversion_needs_no_file_of_the_target(folders, tmp_path, capsys):
    out = tmp_path / "shallow"
    command = ("--conversion=every_kth_decoder_layer", "--set", "decoder_layers=2")
    assert run(*command, "--dry_run", folders["bart_12e12d"], out) == 0
    planned = capsys.readouterr().out
    assert "layers 0 2 of 4" in planned and not out.exists()
    assert run(*command, folders["bart_12e12d"], out) == 0
    assert planned.strip() in capsys.readouterr().out
    layers = "decoder/stack/layers/mlp/input/kernel"
    np.testing.assert_array_equal(params(out)[layers], params(folders["bart_12e12d"])[layers][::2])
    assert (out / "warm-start.txt").read_text("utf-8").strip() == planned.strip()


def test_a_seq2seq_models_encoder_alone(folders, tmp_path):
    assert run("--to=hf", "--headless", folders["bart_12e12d"], tmp_path / "out") == 0
    tensors = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    values = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    assert values["architectures"] == ["RobertaPreLayerNormModel"]
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "AutoModel.from_pretrained" in card and "decoder" not in card
    size = sum(
        np.size(leaf)
        for path, leaf in params(folders["bart_12e12d"]).items()
        if "decoder" not in path
    )
    assert f"{size:,} parameters" in card
    table = params(folders["bart_12e12d"])["token_embedding/embedding"]
    np.testing.assert_array_equal(tensors["embeddings.word_embeddings.weight"], table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--conversion=identity", "--to=hf"], "not allowed with argument"),
        ([], "--conversion or --to or --from: one of them is needed"),
        (["--to=hf", "--dry_run", "--seed=3"], "--dry_run: only with --conversion"),
        (["--from=hf", "--headless"], "--headless: only with --to=hf"),
        (["--conversion=identity", "--verify"], "--verify: only with --to=hf or --from=hf"),
    ],
)
def test_flags_of_another_way_are_refused(folders, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        run(*arguments, folders["roberta_12e"], tmp_path / "out")
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_what_cannot_be_converted_is_said_in_one_line(folders, vocabularies, tmp_path, capsys):
    checkpoint, out = folders["roberta_12e"], tmp_path / "out"
    (tmp_path / "other.model").write_bytes(vocabularies[1])
    (tmp_path / "empty").mkdir()
    exported = tmp_path / "exported"
    assert run("--to=hf", checkpoint, exported) == 0
    weights = exported / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    other = f"--vocabulary={tmp_path / 'other.model'}"
    before = sorted(tmp_path.iterdir())
    for arguments, message in [
        (["--to=hf", checkpoint, tmp_path / "empty"], "OUT_DIR = .*exists already"),
        (["--to=hf", tmp_path / "nothing", out], "does not exist"),
        (["--to=hf", tmp_path / "empty", out], "holds no complete checkpoint"),
        (["--to=hf", other, checkpoint, out], "--vocabulary = .*has the checksum"),
        (["--to=hf", "--vocabulary=none.model", checkpoint, out], "no such file"),
        (["--from=hf", tmp_path / "empty", out], "holds no config.json"),
        (["--from=hf", exported, out], "damaged or cut off"),
        (["--conversion=encoder_to_seq2seq", checkpoint, out], "the target an encoder"),
        (["--conversion=identity", "--set", "norm=post", checkpoint, out], "norm = 'post'"),
        (["--conversion=identity", "--set", "nom=post", checkpoint, out], "'nom': fields are"),
        (["--conversion=identity", other, checkpoint, out], "vocabulary"),
        (["--conversion=identity", "--size=mini", checkpoint, out], "--size = 'mini'"),
        (["--conversion=first", checkpoint, out], "choose one of encoder_to_seq2seq"),
    ]:
        capsys.readouterr()
        assert run(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1, error
        assert re.search(message, error), error
    assert sorted(tmp_path.iterdir()) == before


def test_a_checkpoint_without_its_vocabulary_says_so(folders, tmp_path, capsys):
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "checkpoints").symlink_to(folders["roberta_12e"] / "checkpoints")
    assert run("--to=hf", moved, tmp_path / "out") == 2
    assert "name it with --vocabulary" in capsys.readouterr().err
    assert run("--conversion=identity", moved, tmp_path / "out") == 2
    assert "name it with --source_vocabulary" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_is_cut_off_leaves_nothing(folders, tmp_path, monkeypatch, capsys, error):
    original = files.write

    def cut_off(folder, shapes, arrays, **options):
        def some():
            yield from list(arrays)[:5]
            raise error

        original(folder, shapes, some(), **options)

    monkeypatch.setattr(files, "write", cut_off)
    status = run("--to=hf", folders["roberta_12e"], tmp_path / "out")
    message = capsys.readouterr().err.strip()
    if error is KeyboardInterrupt:
        assert (status, message) == (130, "interrupted; nothing was written")
    else:
        assert status == 2 and "the disk is full" in message
    assert list(tmp_path.iterdir()) == []
