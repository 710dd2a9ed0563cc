"""What a checkpoint's metadata says of its training, for the card of an exported model."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from seqrecipes import models, recipe, tree
from seqrecipes.config.recipe import Phase
from seqrecipes.conversion.hf import card
from seqrecipes.finetuning import Facts
from seqrecipes.folders import SCORES_FILE
from seqrecipes.models import ModelConfig
from seqrecipes.training import checkpoints
from seqrecipes.training.phases import spans


def tuned(facts: Facts, checkpoint: pathlib.Path) -> card.Tuned:
    """What a fine-tuned checkpoint was trained on, and its scores if they are beside it."""
    file = checkpoint.parent.parent / SCORES_FILE
    scores = json.loads(file.read_text("utf-8"))["scores"] if file.is_file() else {}
    return card.Tuned(
        facts.set, facts.language, facts.seed, facts.learning_rate, facts.labels, scores
    )


def training(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What made a checkpoint, as fields of `card.Facts`."""
    if "finetuning" in metadata:
        if metadata["converted_from"] == str(None):
            return {"origin": "random weights"}
        path = pathlib.Path(metadata["converted_from"])
        stage = path.parent.parent if path.parent.name == checkpoints.FOLDER else path
        return {"origin": f"`{stage.name}`"}
    if "recipe" not in metadata:
        name = pathlib.Path(metadata["converted_from"]).name
        return {"origin": f"`{metadata['conversion']}` from `{name}`"}
    written = metadata["recipe"]
    by_name = {stage["name"]: stage for stage in written["stages"]}
    lineage: list[Mapping[str, Any]] = []
    source = metadata["stage"]
    while source in by_name:
        lineage.insert(0, by_name[source])
        source = (by_name[source]["warm_start"] or {}).get("source")
    stages = [
        _stage(
            stage, written["sequence_length"], metadata["step"] if stage is lineage[-1] else None
        )
        for stage in lineage
    ]
    return {
        "languages": written["languages"],
        "corpus": f"`{written['corpus']}` (fingerprint {written['corpus_fingerprint'][:12]})",
        "stages": stages,
        "origin": f"`{pathlib.Path(source).name}`" if source else "",
    }


def _stage(stage: Mapping[str, Any], sequence_length: int, stop: int | None) -> card.Stage:
    """A stage's row of the card, up to a step."""
    phases, start = [], 0
    for phase in (Phase(**each) for each in stage["phases"]):
        steps = phase.steps if stop is None else min(phase.steps, stop - start)
        if steps > 0:
            phases.append(dataclasses.replace(phase, steps=steps))
        start += phase.steps
    model = ModelConfig.from_dict(
        {"attention": "auto", "scan_layers": True, "remat": "none"} | stage["model"],
        field=stage["name"],
    )
    placed = spans(phases, tree.flatten(models.parameter_shapes(model)))
    # Recipes of before did not say it; those of text on both sides of noise had just these.
    tokens = stage["batch_size"] * stage.get("original_tokens", sequence_length)
    steps = sum(phase.steps for phase in phases)
    return card.Stage(
        name=stage["name"],
        objective=stage["objective"],
        steps=steps,
        tokens=steps * tokens,
        training_units=recipe.training_units(model, placed, tokens),
        phases=[(phase.steps, tuple(phase.frozen)) for phase in phases],
    )
