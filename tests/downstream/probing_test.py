"""Probes: they tell what fine-tuning tells, at the steps they promise, and disturb nothing."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from seqrecipes import configuration
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase, Recipe, Stage, WarmStart
from seqrecipes.config.recipe import train as configured
from seqrecipes.config.training import Checkpointing, Partitioning
from seqrecipes.downstream import runs
from seqrecipes.errors import UserError
from seqrecipes.runner import Run
from seqrecipes.training import checkpoints, reporting
from tests.commands.harness import final_params
from tests.downstream import tiny_runs

DEVICES = 8

pytestmark = [pytest.mark.usefixtures("data"), pytest.mark.slow]

SIZES = {"hidden_size": 16, "mlp_size": 16, "num_heads": 2, "encoder_layers": 1}


@pytest.fixture
def vocabulary_file(tmp_path: pathlib.Path, vocabulary: bytes) -> str:
    file = tmp_path / "spm.model"
    file.write_bytes(vocabulary)
    return str(file)


def tagging(**changes: Any) -> Any:
    """A probe; unlike German, English alone has a validation split."""
    values = {"languages": ("en",), "seeds": (0, 1), "max_updates": 6}
    return tiny_runs.finetuning(**(values | changes))


def summaries(**changes: Any) -> Any:
    lengths = {"encoder_input_tokens": 24, "decoder_target_tokens": 12}
    return tagging(set="scitldr", metric="perplexity", lengths=lengths, freeze=(), **changes)


def recipe(vocabulary_file: str, **changes: Any) -> Recipe:
    encoder = Stage(
        name="encoder",
        model="configs/roberta_12e.py",
        size="mini",
        objective="mlm",
        phases=[Phase(6)],
        batch_size=8,
        optimizer=AdamW(peak=1e-2, warmup_steps=2),
        model_overrides=SIZES,
    )
    seq2seq = dataclasses.replace(
        encoder,
        name="seq2seq",
        model="configs/bart_12e2d.py",
        objective="span_drop",
        phases=[Phase(2, ("encoder", "token_embedding")), Phase(4)],
        warm_start=WarmStart("encoder", "encoder_to_seq2seq"),
        model_overrides=SIZES | {"decoder_layers": 1},
    )
    values: dict[str, Any] = {
        "stages": [encoder, seq2seq],
        "corpus": "sample",
        "sequence_length": 32,
        "vocabulary": vocabulary_file,
        "validation_examples": 8,
        "partitioning": Partitioning(data=2, fsdp=2, tensor=2, micro_batches=2),
        "checkpointing": Checkpointing(every=3, keep=9),
        "log_every": 2,
        "probes": [tagging(), summaries(seeds=(0,))],
        "probe_every": 4,
    }
    return Recipe(**(values | changes))


def probes_of(folder: pathlib.Path) -> dict[int, dict[str, float]]:
    found = {}
    for row in reporting.read_metrics(folder / reporting.METRICS_FILE):
        values = {
            name.removeprefix("probes/"): value
            for name, value in row.items()
            if name.startswith("probes/")
        }
        if values:
            found[int(row["step"])] = values
    return found


def test_probes_tell_what_fine_tuning_of_the_checkpoint_tells_and_disturb_nothing(
    vocabulary_file: str, tmp_path: pathlib.Path
) -> None:
    probed, plain = tmp_path / "probed", tmp_path / "plain"
    one = jax.devices()[:1]
    job = recipe(vocabulary_file, partitioning=Partitioning())
    (_, stage) = job.stages
    stage = dataclasses.replace(stage, warm_start=None, phases=[Phase(6)])
    job = dataclasses.replace(job, stages=[stage])
    Run(job, str(probed), one).execute()
    Run(dataclasses.replace(job, probes=(), probe_every=0), str(plain), one).execute()
    folder = probed / stage.name
    ours, theirs = (final_params(run / stage.name, 6) for run in (probed, plain))
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)
    found = probes_of(folder)
    assert list(found) == [0, 4, 6]
    tags, texts = "udpos.f1/en", "scitldr.perplexity/en"
    assert all(values.keys() == {tags, texts} for values in found.values())
    assert len({values[tags] for values in found.values()}) > 1, "training matters"
    # A checkpoint lies at every probe, whatever else asks for one.
    assert (folder / "checkpoints" / "4").is_dir()
    spent = json.loads((folder / "ledger.json").read_text())["total"]["seconds"]
    assert spent["probes"] > 0
    for name, probe in ((tags, tagging()), (texts, summaries(seeds=(0,)))):
        probe = dataclasses.replace(probe, checkpoint=str(folder / "checkpoints" / "4"))
        expected = last_validation(probe, tmp_path / probe.set)
        assert found[4][name] == pytest.approx(expected, abs=1e-9)


def last_validation(job: Any, run_dir: pathlib.Path) -> float:
    """Mean over seeds of what a fine-tuning's last validation gave."""
    runs.Run(job, str(run_dir), jax.devices()[:1]).execute()
    values = []
    for seed in job.seeds:
        rows = reporting.read_metrics(run_dir / str(seed) / reporting.METRICS_FILE)
        name = f"validation/{job.metric}"
        values.append([row[name] for row in rows if name in row][-1])
    return float(np.mean(values))


def test_a_run_that_goes_on_from_a_probe_begins_with_it(
    vocabulary_file: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqrecipes.downstream import probing

    # The encoder has no use for the second.
    job = recipe(vocabulary_file, probes=[tagging(seeds=(0,)), summaries(seeds=(0,))])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    Run(job, str(whole)).execute("encoder")

    looks = []
    original = probing.Probes.look

    def dies(self: Any, params: Any) -> dict[str, float]:
        looks.append(1)
        if len(looks) == 2:
            raise MemoryError("as if killed")
        return original(self, params)

    monkeypatch.setattr(probing.Probes, "look", dies)
    with pytest.raises(MemoryError):
        Run(job, str(killed)).execute("encoder")
    assert checkpoints.latest_step(killed / "encoder") == 4
    assert list(probes_of(killed / "encoder")) == [0]
    Run(job, str(killed)).execute("encoder")
    assert len(looks) == 4
    found = probes_of(killed / "encoder")
    assert found == probes_of(whole / "encoder")
    assert all(values.keys() == {"udpos.f1/en"} for values in found.values())


def test_a_dry_run_names_the_probes_of_each_stage(
    vocabulary_file: str, tmp_path: pathlib.Path
) -> None:
    text = Run(recipe(vocabulary_file), str(tmp_path / "run")).describe()
    encoder, seq2seq = text.split("stage seq2seq")
    assert "probes every 4 steps: udpos\n" in encoder
    assert "probes every 4 steps: udpos, scitldr\n" in seq2seq


def test_the_file_adds_a_probe_to_any_recipe(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    configuration.load(
        ["gin/2stage_unfrz.gin", "gin/demo.gin", "gin/probes.gin"],
        [
            f"MODEL_DIR = '{tmp_path / 'run'}'",
            f"LABELLED_FILES = '{folder / 'data'}'",
            "PROBE_LANGUAGES = ['en']",
            "PROBE_EVERY = 50",
        ],
    )
    wanted = configured()
    run = Run(wanted.recipe, wanted.model_dir)
    assert run.describe().count("probes every 50 steps: udpos\n") == 2
    (probe,) = run.recipe.probes
    assert (probe.optimizer.peak, probe.optimizer.warmup_steps) == (1e-4, 30)
    assert all(stage.optimizer.peak == 1e-3 for stage in run.recipe.stages), "of demo.gin"


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"checkpoint": "runs/x"}, "Finetuning.checkpoint", "as it stands"),
        ({"weights": "random"}, "Finetuning.weights", "'trained'"),
        ({"languages": ("en", "de")}, "Finetuning.languages", "no validation split"),
        ({"languages": ("xx",)}, "language", "udpos has en"),
        ({"set": "nothing"}, "set", "udpos"),
        ({"lengths": {"encoder_input_tokens": 600}}, "Finetuning.lengths", "512 positions"),
        ({"metric": "bleu"}, "Finetuning.metric", "f1"),
    ],
)
def test_a_probe_that_cannot_work_is_refused_before_training(
    vocabulary_file: str, tmp_path: pathlib.Path, changes: Any, field: str, says: str
) -> None:
    job = recipe(vocabulary_file, probes=[tagging(**changes)])
    with pytest.raises(UserError) as error:
        Run(job, str(tmp_path / "run")).execute()
    assert field in error.value.field
    assert says in str(error.value)
    assert checkpoints.latest_step(tmp_path / "run" / "encoder") is None


def test_probes_and_their_interval_belong_together(
    vocabulary_file: str, tmp_path: pathlib.Path
) -> None:
    for changes in ({"probe_every": 0}, {"probes": ()}, {"probe_every": -1}):
        with pytest.raises(UserError, match=r"Recipe.probe_every"):
            recipe(vocabulary_file, **changes)
    with pytest.raises(UserError, match="every set once"):
        recipe(vocabulary_file, probes=[tagging(), tagging(languages=())])
    only = recipe(vocabulary_file)
    only = dataclasses.replace(only, stages=only.stages[:1], probes=[summaries()])
    with pytest.raises(UserError, match="no stage of the recipe has a decoder"):
        Run(only, str(tmp_path / "run")).describe()
