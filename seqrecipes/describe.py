"""A resolved recipe in words: for a dry run, for reports, for a stage's folder."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from seqrecipes import tree
from seqrecipes.config.recipe import Phase, Recipe
from seqrecipes.downstream import probing
from seqrecipes.recipe import training_units
from seqrecipes.resolve import ResolvedStage
from seqrecipes.training import checkpoints
from seqrecipes.training.phases import Span

# What a stage's folder says of itself.
STAGE_FILE = "stage.json"


def stage_facts(stage: ResolvedStage) -> dict[str, Any]:
    """Facts of a stage for reports."""
    training = stage.training
    return {
        "name": stage.stage.name,
        "objective": stage.stage.objective,
        "warm_start": stage.source and str(stage.source.folder),
        "parameters": sum(map(sum, stage.counts(training.spans[0]).values())),
        "tokens": training.steps * training.tokens_per_update,
        "training_units": stage.training_units,
        "phases": [
            phase_facts(stage, span, phase)
            for span, phase in zip(training.spans, stage.stage.phases, strict=True)
        ],
    }


def phase_facts(stage: ResolvedStage, span: Span, phase: Phase) -> dict[str, Any]:
    """Facts of a phase; FLOPs are those of one update, by part."""
    training = stage.training
    return {
        "start": span.start,
        "stop": span.stop,
        "freeze": phase.frozen,
        "parameters": {
            name: {"trainable": trainable, "frozen": frozen}
            for name, (trainable, frozen) in stage.counts(span).items()
        },
        "tokens": (span.stop - span.start) * training.tokens_per_update,
        "training_units": training_units(training.model.config, [span], training.tokens_per_update),
        "flops": training.flops_by_part(span),
    }


def phase_flops(facts: dict[str, Any]) -> float:
    """FLOPs of all updates of a phase, from its facts."""
    return (facts["stop"] - facts["start"]) * sum(facts["flops"].values())


def model_info(stage: ResolvedStage) -> str:
    """Every parameter: path, shape, and the phases in which it is frozen."""
    lines = []
    for path, leaf in sorted(tree.flatten(stage.training.shapes).items()):
        frozen = [where for span in stage.training.spans if (where := span.frozen_part(path))]
        note = f"  frozen in phase {', '.join(frozen)}" if frozen else ""
        lines.append(f"{path:<60} {leaf.shape!s:<22} {leaf.size:>12,}{note}")
    total = sum(leaf.size for leaf in tree.flatten(stage.training.shapes).values())
    return "\n".join([*lines, f"total {total:,}", ""])


def resolved_recipe(
    recipe: Recipe,
    resolved: Sequence[ResolvedStage],
    *,
    model_dir: pathlib.Path,
    mesh: Mesh,
    vocabulary: str,
) -> str:
    """The resolved recipe for a person: stages, phases, counts, batch, mesh, tokens, TU."""
    shape = mesh.shape
    device = jax.devices()[0].device_kind
    lines = [
        f"recipe in {model_dir}: corpus {recipe.corpus}, sequences of "
        f"{recipe.sequence_length} tokens, alpha {recipe.smoothing:g}, seed {recipe.seed}",
        f"mesh: data {shape['data']} x fsdp {shape['fsdp']} x tensor {shape['tensor']} ({device}), "
        f"{recipe.partitioning.micro_batches} micro-batches, "
        f"ZeRO-1 {'on' if recipe.partitioning.zero1 else 'off'}",
        f"vocabulary: {resolved[0].training.model.config.vocab_size:,} ids, {vocabulary}",
    ]
    total = 0.0
    for one in resolved:
        stage, training = one.stage, one.training
        state = (
            "finished" if one.finished else f"at step {checkpoints.latest_step(one.folder) or 0:,}"
        )
        lines += [
            "",
            f"stage {stage.name}: {stage.model}:{stage.size} on {recipe.corpus}.{stage.objective} "
            f"({state})",
            *([f"  taken from {one.folder}"] if one.shared else []),
            f"  batch {stage.batch_size:,} x {training.tokens_per_update // stage.batch_size} = "
            f"{training.tokens_per_update:,} tokens",
            f"  {stage.optimizer}",
        ]
        if one.source:
            lines.append(f"  warm start: {one.source.conversion} from {one.source.folder}")
        for span, phase in zip(training.spans, stage.phases, strict=True):
            trainable, frozen = map(sum, zip(*one.counts(span).values(), strict=True))
            lines.append(
                f"  steps {span.start:>9,} to {span.stop:>9,}: {trainable:>13,} trainable, "
                f"{frozen:>13,} frozen {phase.frozen or ''}"
                + (f" in {phase.micro_batches} micro-batches" if phase.micro_batches else "")
            )
        if names := [probe.set for probe in probing.of_model(recipe.probes, training.model.config)]:
            lines.append(f"  probes every {recipe.probe_every:,} steps: {', '.join(names)}")
        total += one.training_units
        lines.append(
            f"  {training.steps:,} updates, "
            f"{training.steps * training.tokens_per_update:,} tokens, "
            f"{one.training_units:.4g} TU"
        )
    return "\n".join([*lines, "", f"total {total:.4g} TU"])
