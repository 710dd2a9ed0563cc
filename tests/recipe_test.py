"""Recipes: training units, identities and what they leave out."""

from __future__ import annotations

import dataclasses
import json

import jax
import pytest

from seqrecipes import describe, models, resolve, tree
from seqrecipes import identity as identities
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase, Recipe, Stage, WarmStart
from seqrecipes.config.training import Partitioning
from seqrecipes.errors import UserError
from seqrecipes.models import config as model_config
from seqrecipes.recipe import training_units
from seqrecipes.training import checkpoints
from seqrecipes.training.phases import spans
from tests.models import tiny

PAPER_BATCH = 2048 * 512
FROZEN = ("encoder", "token_embedding")
BELOW = ("token_embedding", "encoder/embedding")


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
        # (8/2 + 4 + 12) / 12 and (4/2 + 8 + 12) / 12.
        ("bart_12e12d", [Phase(90_000, BELOW, frozen_encoder_layers=8)], 1.5),
        (
            "bart_12e12d",
            [Phase(100_000, FROZEN), Phase(60_000, BELOW, frozen_encoder_layers=4), Phase(10_000)],
            2.8,
        ),
    ],
)
def test_training_units_are_those_of_table_1(model, phases, expected):
    config = model_config.load(f"configs/{model}.py", size="full", vocab_size=100)
    leaves = tree.flatten(models.parameter_shapes(config))
    assert round(training_units(config, spans(phases, leaves), PAPER_BATCH), 1) == expected


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (["encoder/embedding", "encoder/stack", "token_embedding"], 7.5),
        (["encoder.*", "token_embedding"], 7.5),
        (["enc[a-z]+/stack/layers"], 7.5),
        # Some of every layer trains, or none of any is frozen.
        (["encoder/stack/layers/mlp"], 10.0),
        (["encoder/embedding", "encoder/stack/final_norm"], 10.0),
    ],
)
def test_training_units_go_by_what_is_frozen_however_it_is_spelled(freeze, expected):
    config = model_config.load("configs/bart_12e12d.py", size="full", vocab_size=100)
    placed = spans([Phase(500_000, freeze)], tree.flatten(models.parameter_shapes(config)))
    assert round(training_units(config, placed, PAPER_BATCH), 3) == expected


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


def resolved_stages(recipe: Recipe, tmp_path) -> list[resolve.ResolvedStage]:
    def features(stage: Stage) -> dict[str, int]:
        kind = "masked_targets" if stage.objective == "mlm" else "decoder_target_tokens"
        return {"encoder_input_tokens": 8, kind: 8}

    return resolve.resolve(
        recipe,
        tmp_path,
        recipe.partitioning.mesh(),
        vocab_size=64,
        vocabulary="a",
        features=features,
        original_tokens=lambda stage: 34,
    )


def test_tokens_are_those_of_the_text(tmp_path):
    """TU, tokens and the report count text before noise, whatever the objective makes of it."""
    stages = resolved_stages(small_recipe(), tmp_path)
    assert [stage.training.tokens_per_update for stage in stages] == [16 * 34, 16 * 34]
    config = stages[0].training.model.config
    assert stages[0].training_units == training_units(config, stages[0].training.spans, 544)


def test_counts_of_a_phase_that_freezes_some_of_the_layers(tmp_path):
    recipe = small_recipe()
    phases = [Phase(5, FROZEN), Phase(4, BELOW, frozen_encoder_layers=3), Phase(1)]
    seq2seq = dataclasses.replace(recipe.stages[1], phases=phases)
    one = resolved_stages(
        dataclasses.replace(recipe, stages=[recipe.stages[0], seq2seq]), tmp_path
    )[1]
    depth, width, inner = one.training.model.config.encoder_layers, 16, 16
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    positions = one.training.model.config.max_positions * width
    below = 64 * width + positions + 2 * width
    frozen = [below + depth * layer + 2 * width, below + 3 * layer, 0]
    total = sum(leaf.size for leaf in jax.tree.leaves(one.training.shapes))
    for span, count in zip(one.training.spans, frozen, strict=True):
        trainable_and_frozen = map(sum, zip(*one.counts(span).values(), strict=True))
        assert tuple(trainable_and_frozen) == (total - count, count)
    info = {line.split()[0]: line for line in describe.model_info(one).splitlines()}
    assert info["encoder/stack/layers/mlp/input/kernel"].endswith("  frozen in phase 0, 1 [0:3]")
    assert info["token_embedding/embedding"].endswith("  frozen in phase 0, 1")
    assert "frozen" not in info["decoder/stack/layers/mlp/input/kernel"]
    assert describe.stage_facts(one)["phases"][1]["freeze"] == [*BELOW, "encoder/stack/layers[0:3]"]


def identity(recipe: Recipe, tmp_path) -> dict:
    resolved = resolved_stages(recipe, tmp_path)
    return identities.identity(
        recipe, resolved, {"vocabulary": "a"}, {stage.name: {} for stage in recipe.stages}
    )


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
    assert identities.differences(json.loads(json.dumps(ours)), ours) == []
    elsewhere = dataclasses.replace(
        recipe, partitioning=Partitioning(fsdp=2, micro_batches=2), log_every=3
    )
    assert identities.differences(ours, identity(elsewhere, tmp_path)) == []
    whole = [dataclasses.replace(phase, micro_batches=2) for phase in recipe.stages[0].phases]
    parted = dataclasses.replace(recipe.stages[0], phases=whole)
    stages = [parted, *recipe.stages[1:]]
    assert (
        identities.differences(ours, identity(dataclasses.replace(recipe, stages=stages), tmp_path))
        == []
    )


def test_a_phases_own_micro_batches_must_divide_the_batch(tmp_path):
    """16 examples on 2 devices: in 2 parts, but not in 3."""
    recipe = small_recipe()
    encoder, seq2seq = recipe.stages
    for count, good in ((2, True), (3, False)):
        phases = [seq2seq.phases[0], dataclasses.replace(seq2seq.phases[1], micro_batches=count)]
        stages = [encoder, dataclasses.replace(seq2seq, phases=phases)]
        changed = dataclasses.replace(recipe, stages=stages)
        if good:
            _, one = resolved_stages(changed, tmp_path)
            assert [one.training.micro_batches(span) for span in one.training.spans] == [1, 2]
            text = describe.resolved_recipe(
                changed, [one], model_dir=tmp_path, mesh=recipe.partitioning.mesh(), vocabulary=""
            )
            assert [line.endswith("in 2 micro-batches") for line in text.splitlines()].count(
                True
            ) == 1
            continue
        with pytest.raises(
            UserError, match="micro_batches x data x fsdp = 3 x 2 x 1 = 6"
        ) as caught:
            resolved_stages(changed, tmp_path)
        assert (caught.value.field, caught.value.value) == ("Stage.batch_size", 16)


def test_differences_are_named_with_both_values(tmp_path):
    recipe = small_recipe()
    ours = identity(recipe, tmp_path)
    warmer = dataclasses.replace(recipe.stages[1], optimizer=AdamW(warmup_steps=2, peak=1.0))
    theirs = identity(
        dataclasses.replace(recipe, seed=3, stages=[recipe.stages[0], warmer]), tmp_path
    )
    assert identities.differences(ours, theirs) == [
        "Recipe.seed: 0 there, 3 now",
        "Recipe.stages[0].seed: 0 there, 3 now",
        "Recipe.stages[1].optimizer.peak: 0.00015 there, 1.0 now",
        "Recipe.stages[1].seed: 1 there, 4 now",
    ]


def claimed(recipe: Recipe, folder, **changes) -> None:
    """A run's folder with a folder for each stage, and perhaps another identity."""
    for stage in recipe.stages:
        (folder / stage.name).mkdir(parents=True)
    written = identity(recipe, folder) | changes
    (folder / "recipe.json").write_text(json.dumps(written))


def test_a_stage_is_taken_from_another_run_that_trained_it_alike(tmp_path):
    recipe = small_recipe()
    alone = dataclasses.replace(recipe, stages=recipe.stages[:1])
    claimed(alone, tmp_path / "alone")
    sharing = dataclasses.replace(recipe, shared=[str(tmp_path / "alone")])
    assert shared_folders(sharing, tmp_path) == {"encoder": tmp_path / "alone" / "encoder"}
    (tmp_path / "alone" / "encoder" / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(UserError, match="has not finished encoder"):
        check(sharing, tmp_path / "run")
    for name in ("_CHECKPOINT_METADATA", "params/_METADATA", "metadata/metadata"):
        file = tmp_path / "alone" / "encoder" / "checkpoints" / "10" / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    # Without its validation it is not finished either.
    with pytest.raises(UserError, match="has not finished encoder"):
        check(sharing, tmp_path / "run")
    row = '{"step": 10, "validation/loss": 1.0}\n'
    (tmp_path / "alone" / "encoder" / "metrics.jsonl").write_text(row, "utf-8")
    check(sharing, tmp_path / "run")
    (tmp_path / "alone" / "encoder" / "checkpoints" / "10").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="has not finished encoder; train it there first"):
        check(sharing, tmp_path / "run")


def shared_folders(recipe: Recipe, tmp_path) -> dict:
    stages = resolved_stages(recipe, tmp_path / "run")
    return {one.stage.name: one.folder for one in stages if one.shared}


def check(recipe: Recipe, folder) -> None:
    resolved = resolved_stages(recipe, folder)
    identities.check_shared(resolved, identity(recipe, folder))


def test_a_stage_of_another_run_that_was_trained_otherwise_is_refused(tmp_path):
    recipe = small_recipe()
    claimed(dataclasses.replace(recipe, seed=3), tmp_path / "other")
    sharing = dataclasses.replace(recipe, shared=[str(tmp_path / "other")])
    with pytest.raises(UserError) as caught:
        check(sharing, tmp_path / "run")
    assert "stage encoder.seed: 3 there, 0 now" in str(caught.value)
    for folder, message in [("nothing", "holds no run"), ("other", "has none of the stages new")]:
        new = dataclasses.replace(recipe.stages[0], name="new")
        with pytest.raises(UserError, match=message):
            shared_folders(
                dataclasses.replace(recipe, stages=[new], shared=[str(tmp_path / folder)]), tmp_path
            )


def test_a_folder_that_lost_its_recipe_is_known_by_its_checkpoints(tmp_path, monkeypatch):
    recipe, run = small_recipe(), tmp_path / "run"
    stages, theirs = resolved_stages(recipe, run), identity(recipe, run)
    identities.check_folder(run, theirs, stages)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "latest_step", lambda folder: 5)
        patch.setattr(checkpoints, "find", lambda folder, field: folder)
        patch.setattr(checkpoints, "read_metadata", lambda folder: {"recipe": theirs})
        identities.check_folder(run, theirs, stages)
        with pytest.raises(UserError, match="seed: 0 there, 3 now"):
            identities.check_folder(run, identity(small_recipe(seed=3), run), stages)
    run.mkdir()
    (run / "recipe.json").write_text('{"corpus": "sam')
    with pytest.raises(UserError, match=r"recipe\.json.*cannot be read"):
        identities.check_folder(run, theirs, stages)


def test_a_recipe_written_before_a_field_came_is_the_same_recipe(tmp_path):
    ours = identity(small_recipe(), tmp_path)
    old = json.loads(json.dumps(ours))
    for stage in old["stages"]:
        for part, field in (("optimizer", "multipliers"), ("loss", "z_loss")):
            del stage[part][field]
        del stage["warm_start"]
        del stage["phases"][0]["frozen_encoder_layers"]
    old["stages"][1]["warm_start"] = ours["stages"][1]["warm_start"]
    (tmp_path / "recipe.json").write_text(json.dumps(old))
    identities.check_folder(tmp_path, ours)
    old["stages"][0]["optimizer"]["multipliers"] = [["encoder", 0.5]]
    (tmp_path / "recipe.json").write_text(json.dumps(old))
    with pytest.raises(UserError, match="multipliers"):
        identities.check_folder(tmp_path, ours)
