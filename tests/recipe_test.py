"""Recipes: training units, identities and what they leave out."""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest

from seqrecipes import models, resolve
from seqrecipes.errors import UserError
from seqrecipes.models import config as model_config
from seqrecipes.recipe import Recipe, Stage, WarmStart, training_units
from seqrecipes.training import checkpoints
from seqrecipes.training.optimizer import AdamW
from seqrecipes.training.partitioning import Partitioning
from seqrecipes.training.phases import Phase
from tests.models import tiny

PAPER_BATCH = 2048 * 512
FROZEN = ("encoder", "token_embedding")


@pytest.mark.parametrize(
    ("model", "phases", "expected"),
    [
        ("roberta_12e", [Phase(500_000)], 5.0),
        ("bart_12e12d", [Phase(500_000)], 10.0),
        ("bart_12e2d", [Phase(500_000)], 5.8),
        ("bart_12e1d", [Phase(500_000)], 5.4),
        ("bart_12e12d", [Phase(500_000, FROZEN)], 7.5),
        ("bart_12e12d", [Phase(200_000, FROZEN), Phase(150_000)], 6.0),
        ("roberta_12e", [Phase(100_000)], 1.0),
    ],
)
def test_training_units_are_those_of_table_1(model, phases, expected):
    config = model_config.load(f"configs/{model}.py", size="full", vocab_size=100)
    assert round(training_units(config, phases, PAPER_BATCH), 1) == expected


def small_recipe(**changes) -> Recipe:
    overrides = {"hidden_size": 16, "mlp_size": 16, "num_heads": 2}
    encoder = Stage(
        name="encoder",
        model="configs/roberta_12e.py",
        size="mini",
        objective="mlm",
        phases=[Phase(10)],
        batch_size=16,
        optimizer=AdamW(warmup_steps=2),
        model_overrides=overrides,
    )
    seq2seq = dataclasses.replace(
        encoder,
        name="seq2seq",
        model="configs/bart_12e2d.py",
        objective="span_drop",
        phases=[Phase(5, FROZEN), Phase(5)],
        warm_start=WarmStart("encoder", "encoder_to_seq2seq"),
    )
    return dataclasses.replace(
        Recipe(stages=[encoder, seq2seq], corpus="sample", sequence_length=32), **changes
    )


def identity(recipe: Recipe, tmp_path) -> dict:
    def features(stage: Stage) -> dict[str, int]:
        kind = "masked_targets" if stage.objective == "mlm" else "decoder_target_tokens"
        return {kind: 8}

    resolved = resolve.resolve(
        recipe,
        tmp_path,
        recipe.partitioning.mesh(),
        vocab_size=64,
        vocabulary="a",
        features=features,
    )
    return resolve.identity(recipe, resolved, {"vocabulary": "a"})


def test_a_model_may_be_that_of_a_checkpoint(tmp_path):
    config = tiny.config(vocab_size=70, norm="post", decoder_layers=0, max_positions=40)
    params = jax.jit(lambda: models.init_params(config, 0))()
    checkpoints.save_params(
        tmp_path / "old", params, {"model": config.to_dict()}, vocabulary=b"", account=""
    )
    old = str(tmp_path / "old")
    encoder, seq2seq = (
        dataclasses.replace(stage, model=old, model_overrides=overrides)
        for stage, overrides in zip(
            small_recipe().stages, ({}, {"decoder_layers": 3, "tie_head": False}), strict=True
        )
    )
    recipe = small_recipe(stages=[encoder, seq2seq])
    stages = identity(recipe, tmp_path / "run")["stages"]
    assert [(s["model"]["vocab_size"], s["model"]["decoder_layers"]) for s in stages] == [
        (70, 0),
        (70, 3),
    ]
    assert all(s["model"]["norm"] == "post" for s in stages)
    few = dataclasses.replace(encoder, model_overrides={"vocab_size": 63})
    with pytest.raises(UserError, match="vocab_size = 63: the vocabulary has 64 pieces"):
        identity(small_recipe(stages=[few]), tmp_path / "run")


def test_an_identity_survives_json_and_leaves_out_what_changes_no_number(tmp_path):
    recipe = small_recipe()
    ours = identity(recipe, tmp_path)
    assert resolve.differences(json.loads(json.dumps(ours)), ours) == []
    elsewhere = dataclasses.replace(
        recipe, partitioning=Partitioning(fsdp=jax.device_count(), micro_batches=2), log_every=3
    )
    assert resolve.differences(ours, identity(elsewhere, tmp_path)) == []


def test_differences_are_named_with_both_values(tmp_path):
    recipe = small_recipe()
    ours = identity(recipe, tmp_path)
    warmer = dataclasses.replace(recipe.stages[1], optimizer=AdamW(warmup_steps=2, peak=1.0))
    theirs = identity(
        dataclasses.replace(recipe, seed=3, stages=[recipe.stages[0], warmer]), tmp_path
    )
    assert resolve.differences(ours, theirs) == [
        "Recipe.seed: 0 there, 3 now",
        "Recipe.stages[1].optimizer.peak: 0.00015 there, 1.0 now",
    ]
