"""A plan as one document of plain values; text and pictures are drawn from it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from seqrecipes import describe
from seqrecipes.planning import costs
from seqrecipes.planning.costs import Plan
from seqrecipes.resolve import ResolvedStage
from seqrecipes.training import memory, optimizer
from seqrecipes.training.accelerators import Accelerator
from seqrecipes.training.phases import Span

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a plan is priced and fitted for.

    Attributes:
      accelerator: the kind of device.
      devices: how many.
      compiler: of what kind of device the memory is that XLA states.
      utilisation: share of the peak that is assumed.
      reserve: share of a device's memory that is to stay free.
    """

    accelerator: Accelerator
    devices: int
    compiler: str
    utilisation: float
    reserve: float

    @property
    def limit(self) -> int:
        """Bytes of a device that a program may take."""
        return int((1 - self.reserve) * self.accelerator.memory)

    def hours(self, flops: float) -> float:
        """Wall hours that FLOPs take."""
        return flops / (self.devices * self.accelerator.peak * self.utilisation) / 3600


def document(plans: Sequence[Plan], machine: Machine | None) -> dict[str, Any]:
    """Everything that is known of the plans.

    Args:
      plans: recipes; each is compared with those of them that train one model from scratch.
      machine: None leaves out hours and memory, and compiles nothing.
    """
    fitted: dict[str, list[dict[str, Any]]] = {}
    recipes = [_recipe(plan, plans, machine, fitted) for plan in plans]
    distinct = costs.distinct(plans)
    return {
        "machine": machine and dataclasses.asdict(machine) | {"limit": machine.limit},
        "recipes": recipes,
        "stages_once": {
            "training_units": sum(facts["training_units"] for facts in distinct),
            "flops": sum(map(costs.stage_flops, distinct)),
        },
    }


def _recipe(
    plan: Plan,
    plans: Sequence[Plan],
    machine: Machine | None,
    fitted: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    encoder, decoder = costs.updates(plan)
    scratch = costs.from_scratch(plan, plans)
    return {
        "name": plan.name,
        "mesh": dict(plan.mesh.shape),
        "encoder_updates": encoder,
        "decoder_updates": decoder,
        **_amounts(plan.training_units, plan.flops, machine),
        "from_scratch": scratch
        and {"recipes": [name for name, _ in scratch]}
        | _amounts(
            sum(facts["training_units"] for _, facts in scratch),
            sum(costs.stage_flops(facts) for _, facts in scratch),
            machine,
        ),
        "stages": [
            _stage(stage, facts, plan.mesh, machine, fitted)
            for stage, facts in zip(plan.stages, plan.facts, strict=True)
        ],
    }


def _amounts(units: float, flops: float, machine: Machine | None) -> dict[str, float]:
    amounts = {
        "training_units": units,
        "flops": flops,
        "units_by_flops": costs.units_by_flops(flops),
    }
    if machine:
        amounts["hours"] = machine.hours(flops)
        amounts["chip_hours"] = machine.devices * machine.hours(flops)
    return amounts


def _stage(
    stage: ResolvedStage,
    facts: dict[str, Any],
    mesh: Mesh,
    machine: Machine | None,
    fitted: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    ours, steps = stage.stage.optimizer, stage.training.steps
    schedule = optimizer.schedule(ours, steps)
    # A straight line needs its ends alone.
    points = 2 if ours.schedule == "linear" else 65
    corners = [0, *np.linspace(ours.warmup_steps, steps, points).astype(int).tolist()]
    phases = [
        phase
        | _amounts(phase["training_units"], describe.phase_flops(phase), machine)
        | {"flops_per_update": phase["flops"]}
        for phase in facts["phases"]
    ]
    if machine:
        # All that decides the program: recipes may share a stage and differ in micro-batches.
        key = repr((stage.training, dict(mesh.shape)))
        if key not in fitted:
            spans = stage.training.spans
            fitted[key] = [fit(stage, span, mesh, machine) for span in spans]
        phases = [phase | fits for phase, fits in zip(phases, fitted[key], strict=True)]
    return (
        facts
        | _amounts(facts["training_units"], costs.stage_flops(facts), machine)
        | {
            "model": stage.training.model.config.to_dict(),
            "schedule": [[step, float(np.asarray(schedule(step)))] for step in corners],
            "phases": phases,
        }
    )


def fit(stage: ResolvedStage, span: Span, mesh: Mesh, machine: Machine) -> dict[str, Any]:
    """Memory of a phase, and the largest micro-batch that fits; compiles a few programs.

    Returns:
      `micro_batch`: examples of a device at one time, as the recipe has it; `memory`: bytes by kind
      or None; `refused`: what the compiler said if it is None; `fits`; `largest_micro_batch`.
    """
    training = stage.training
    examples = memory.micro_batch(training, span, mesh)
    log.info("compiling %s, phase %d", stage.stage.name, span.index)
    facts: dict[str, Any] = {"micro_batch": examples, "memory": None, "refused": None}
    total = None
    try:
        needed = memory.of_step(training, span, mesh)
        facts["memory"], total = dataclasses.asdict(needed), needed.total
    except memory.TooLarge as error:
        facts["refused"] = str(error)
    largest = memory.largest_micro_batch(training, span, mesh, machine.limit, {examples: total})
    fits = total is not None and total <= machine.limit
    return facts | {"fits": fits, "largest_micro_batch": largest}
