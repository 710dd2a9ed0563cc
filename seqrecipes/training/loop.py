"""The training loop of one stage: restore or initialise, run its phases, save, validate.

The state at a step is a function of the recipe and of that step alone: batches and dropout keys
come from the step's number, so that a run may be killed anywhere and goes on bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seqrecipes import tree
from seqrecipes.config.optimizers import Optimizer
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import PLAIN, Checkpointing, Loss, Partitioning
from seqrecipes.models import Labeller, Model, random_params, shapes
from seqrecipes.training import accelerators, flops, reporting
from seqrecipes.training import partitioning as parts
from seqrecipes.training.checkpoints import Checkpoints
from seqrecipes.training.interruption import Interrupted, Watch
from seqrecipes.training.ledger import LEDGER_FILE, Ledger, Price
from seqrecipes.training.loss import Sums
from seqrecipes.training.phases import Span, span_of, spans
from seqrecipes.training.progress import NotFinite, Progress
from seqrecipes.training.step import (
    TrainState,
    enter_phase,
    make_eval_step,
    make_train_step,
    state_shardings,
)

log = logging.getLogger(__name__)

LocalBatch = Mapping[str, np.ndarray]
# From parameters to {metric: value}, the same in every process.
Evaluation = Callable[[tree.Tree], dict[str, float]]


class Batches(Protocol):
    """Where batches come from; this process's rows of each."""

    def train(self, start: int, stop: int) -> Iterator[LocalBatch]:
        """The batches of steps start ... stop - 1."""
        ...

    def validation(self) -> Iterable[LocalBatch]:
        """The same batches at every call, and as many in every process."""
        ...


@dataclasses.dataclass(frozen=True)
class Probe:
    """What is found out about the parameters beside their loss.

    Attributes:
      every: steps between two looks; there is one before the first step and one after the last.
      look: gives {name: value}.
    """

    every: int
    look: Evaluation


@dataclasses.dataclass(frozen=True)
class Training:
    """How one stage is trained.

    Attributes:
      name: the stage's name.
      model: the module.
      features: {feature: static length} of a batch.
      phases: spans of steps with their frozen sets.
      optimizer: with its schedule.
      partitioning: mesh, layout, micro-batches.
      checkpointing: when to save and what to keep.
      batch_size: examples per update, over all devices and micro-batches.
      tokens_per_update: positions of the original sequences in one batch.
      seed: initialisation and dropout are functions of it.
      logits_tile: positions per example that have vocabulary logits at one time.
      log_every: steps between reports.
      validate_every: steps between validations; there is one at the end in any case.
      minimised: the loss.
      skip_nonfinite: updates in a row that may be left out because they are not finite.
    """

    name: str
    model: Model
    features: Mapping[str, int]
    phases: Sequence[Phase]
    optimizer: Optimizer
    partitioning: Partitioning
    checkpointing: Checkpointing
    batch_size: int
    tokens_per_update: int
    seed: int
    logits_tile: int
    log_every: int
    validate_every: int
    minimised: Loss = PLAIN
    skip_nonfinite: int = 0

    @functools.cached_property
    def shapes(self) -> dict[str, Any]:
        """Nested dictionary of the parameters' shapes."""
        return shapes(self.model)

    @functools.cached_property
    def spans(self) -> list[Span]:
        """The phases, placed."""
        return spans(self.phases, tree.flatten(self.shapes))

    @property
    def steps(self) -> int:
        """Updates of the whole stage."""
        return self.spans[-1].stop

    def micro_batches(self, span: Span) -> int:
        """Parts of the batch in a phase: its own number, or the partitioning's."""
        return self.phases[span.index].micro_batches or self.partitioning.micro_batches

    def initial_values(self) -> dict[str, Any]:
        """Random parameters, for use under jit."""
        return random_params(self.model, self.seed)

    def random_params(self, mesh: Mesh) -> dict[str, Any]:
        """Parameters from scratch; the same values on every mesh."""
        return parts.laid_out(self.initial_values, self.partitioning.placement(mesh))

    def abstract_state(self, span: Span, mesh: Mesh) -> TrainState:
        """Shapes and shardings of the state within a phase."""
        step = jax.ShapeDtypeStruct((), jnp.int32)
        state = jax.eval_shape(
            functools.partial(enter_phase, span=span, optimizer=self.optimizer),
            TrainState(step, self.shapes, {}),
        )
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            state,
            state_shardings(state, self.partitioning, mesh),
        )

    def layout(self, span: Span, mesh: Mesh) -> TrainState:
        """Shardings of the state within a phase."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state(span, mesh))

    def compile_step(self, span: Span, mesh: Mesh) -> Any:
        """The jitted update of a phase; the state is donated."""
        step = make_train_step(
            self.model,
            self.optimizer,
            span,
            total_steps=self.steps,
            seed=self.seed,
            micro_batches=self.micro_batches(span),
            tile=self.logits_tile,
            minimised=self.minimised,
        )
        shardings = self.layout(span, mesh), parts.replicated(mesh)
        return jax.jit(step, donate_argnums=0, out_shardings=shardings)

    def first_state(self, params: dict[str, Any], mesh: Mesh) -> TrainState:
        """The state before any phase was entered; its parameters are the given ones."""
        zero = jax.device_put(np.zeros((), np.int32), parts.replicated(mesh))
        return TrainState(step=zero, params=params, optimizer={})

    def enter(self, state: TrainState, span: Span, mesh: Mesh) -> TrainState:
        """The state at the beginning of a phase; the one before is donated."""
        enter = functools.partial(enter_phase, span=span, optimizer=self.optimizer)
        return jax.jit(enter, out_shardings=self.layout(span, mesh), donate_argnums=0)(state)

    def flops_by_part(self, span: Span) -> dict[str, float]:
        """Model FLOPs of one update in a phase: encoder, decoder, head."""
        by_part = flops.training(
            self.model.config,
            self.features,
            span.cohorts,
            span.frozen_encoder_layers,
            self.model.shapes if isinstance(self.model, Labeller) else (),
        )
        return {part: self.batch_size * cost for part, cost in by_part.items()}

    def flops_per_step(self, span: Span) -> float:
        """Model FLOPs of one update in a phase."""
        return sum(self.flops_by_part(span).values())


def train(
    training: Training,
    stage_dir: pathlib.Path,
    *,
    mesh: Mesh,
    initial_params: Callable[[], dict[str, Any]],
    batches: Batches,
    metadata: Mapping[str, Any],
    writers: Callable[[int], list[reporting.Writer]],
    evaluation: Evaluation | None = None,
    probe: Probe | None = None,
) -> dict[str, float]:
    """Trains a stage to its end and returns its final validation metrics.

    Args:
      training: what to train, and how.
      stage_dir: folder of the stage; checkpoints and the ledger of what was spent go there.
      mesh: devices.
      initial_params: makes the first parameters, laid out on the mesh; called for a fresh start.
      batches: where batches come from.
      metadata: saved with every checkpoint, beside the step and the data position.
      writers: makes the metric writers of a run that begins at the given step.
      evaluation: what is validated by, in place of the loss on the validation batches.
      probe: looks at the parameters now and then. A checkpoint of its step is saved before; a run
        that goes on from there begins with the same look, unless it was reported.

    A run that begins at the last step does what is missing of its validation and last look.

    Raises:
      Interrupted: a signal came; a checkpoint of the last step was saved before.
      FloatingPointError: updates were not finite; says what can be done.
    """
    checkpoints = Checkpoints(stage_dir, training.checkpointing)
    start = checkpoints.latest() or 0
    reported = reporting.reported(stage_dir / reporting.METRICS_FILE, start)
    ledger = _ledger(training, stage_dir, start)
    reporter = reporting.Reporter(
        training.name,
        writers(start),
        start=start,
        stop=training.steps,
        flops_limit=_flops_limit(),
        quiet=jax.process_index() > 0,
    )

    progress = Progress(reporter, ledger, start, training.skip_nonfinite)

    # A checkpoint that is to be compared with others is saved with what its validation gave.
    ranked = training.checkpointing.best is not None
    validated: dict[str, float] = {}

    def save(state: TrainState, step: int) -> None:
        position = {"step": step, "examples": step * training.batch_size}
        checkpoints.save(step, state, dict(metadata) | position, validated if ranked else None)
        progress.spent("checkpoints")

    try:
        with training.partitioning.on(mesh), Watch() as watch:
            state = _first_state(training, checkpoints, start, mesh, initial_params)
            progress.spent("checkpoints" if start else "compilation")
            evaluate = evaluation or evaluator(training, mesh, batches)
            step = start

            def look() -> None:
                if probe and (step % probe.every == 0 or step == training.steps):
                    reporter.probes(step, probe.look(state.params))
                    progress.spent("probes")

            if step < training.steps and "probes" not in reported:
                look()
            for span in training.spans:
                if step >= span.stop:
                    continue
                progress.enter(span, training.flops_per_step(span))
                state = training.enter(state, span, mesh)
                update = training.compile_step(span, mesh)
                for local in batches.train(step, span.stop):
                    # Neither line waits: a batch is copied while the devices are at earlier steps.
                    batch = parts.global_batch(local, training.batch_size, mesh)
                    state, metrics = update(state, batch)
                    step += 1
                    if step == max(start, span.start) + 1:
                        progress.spent("compilation")
                    progress.dispatched(metrics)
                    last = step == training.steps
                    # The last validation may wait until the last step is saved, unless it belongs
                    # to what is saved.
                    validates = ranked if last else step % training.validate_every == 0
                    probed = probe is not None and step % probe.every == 0
                    saves = (
                        step % training.checkpointing.every == 0 or probed or (ranked and validates)
                    )
                    signum = watch.check()
                    # Validation waits for the devices: what they still do is training until then.
                    if validates or saves or signum is not None or last:
                        progress.report()
                    elif step % training.log_every == 0:
                        progress.report_later()
                    validated = evaluate(state.params) if validates else {}
                    if validates:
                        reporter.validation(step, validated)
                        progress.spent("validation")
                    if saves or signum is not None:
                        save(state, step)
                    if signum is not None:
                        raise Interrupted(signum, step)
                    if not last:
                        look()
            earlier = reported if step == start else {}
            if not validated:
                validated = earlier.get("validation", {})
            if not validated:
                validated = evaluate(state.params)
                reporter.validation(step, validated)
                progress.spent("validation")
            if checkpoints.latest() != step:
                save(state, step)
            if "probes" not in earlier:
                look()
            if (signum := watch.check()) is not None:
                raise Interrupted(signum, step)
            return validated
    except NotFinite as error:
        raise FloatingPointError(_advice(str(error), checkpoints.latest())) from error
    finally:
        reporter.restart_clock(training.steps)  # after an error nobody knows what seconds were for
        checkpoints.close()
        ledger.add("checkpoints", reporter.seconds())
        ledger.write()
        reporter.close()


def _advice(found: str, saved: int | None) -> str:
    """What a user can do about updates that are not finite."""
    last = (
        "there is no checkpoint yet"
        if saved is None
        else f"the checkpoint of step {saved:,} is good"
    )
    return (
        f"{found}; that update was not made, and {last}. The same command comes to the same point: "
        "--gin.SKIP_NONFINITE=5 leaves such updates out, up to 5 in a row; a lower PEAK is another "
        "recipe, for another MODEL_DIR"
    )


def _ledger(training: Training, stage_dir: pathlib.Path, start: int) -> Ledger:
    kind = jax.devices()[0].device_kind
    return Ledger(
        stage_dir / LEDGER_FILE if jax.process_index() == 0 else None,
        [
            Price(s.start, s.stop, training.tokens_per_update, training.flops_per_step(s))
            for s in training.spans
        ],
        start=start,
        devices=jax.device_count(),
        device_kind=kind,
        peak=accelerators.peak(kind),
    )


def _first_state(
    training: Training,
    checkpoints: Checkpoints,
    start: int,
    mesh: Mesh,
    initial_params: Callable[[], dict[str, Any]],
) -> TrainState:
    if start:
        log.info("%s: resuming at step %d", training.name, start)
        # The checkpoint holds the state of the phase that made its last step.
        span = span_of(training.spans, start - 1)
        return checkpoints.restore(start, training.abstract_state(span, mesh))
    return training.first_state(initial_params(), mesh)


def evaluator(training: Training, mesh: Mesh, batches: Batches) -> Evaluation:
    """Cross-entropy and accuracy per target on the validation batches."""
    step = jax.jit(
        make_eval_step(training.model, training.logits_tile), out_shardings=parts.replicated(mesh)
    )

    def evaluate(params: tree.Tree) -> dict[str, float]:
        total, previous = np.zeros(len(Sums._fields)), None
        for local in batches.validation():
            sums = step(params, parts.global_batch(local, training.batch_size, mesh))
            # The devices have this batch while the one before is waited for, and no more: each
            # that is dispatched may take scratch memory of its own.
            if previous is not None:
                total += np.array(jax.device_get(previous), np.float64)
            previous = sums
        total += np.array(jax.device_get(previous), np.float64)
        _, loss, tokens, correct = total.tolist()
        return {"loss": loss / tokens, "accuracy": correct / tokens}

    return evaluate


def _flops_limit() -> float | None:
    peak = accelerators.peak(jax.devices()[0].device_kind)
    return peak and peak * jax.device_count()
