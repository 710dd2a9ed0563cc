"""AdamW on the trainable part of a model, in cohorts, with a warm-up and a linear decay.

Frozen parameters have no gradient, no moments and no update. Clipping sees the trainable part only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import optax

from seqrecipes import tree
from seqrecipes.config.training import AdamW
from seqrecipes.errors import UserError
from seqrecipes.training import slices

Array = jax.Array
Leaves = Mapping[str, Array]
State = dict[str, optax.ScaleByAdamState]


def schedule(adamw: AdamW, total_steps: int) -> optax.Schedule:
    """Learning rate of update number t = 1 ... total_steps, continued linearly down to t = 0.

    Up to t = W start + (peak - start) * t / W, or start * (peak / start) ** (t / W); then
    floor + (peak - floor) * (T - t) / (T - W).

    Raises:
      UserError: the warm-up does not end before the stage does.
    """
    if adamw.warmup_steps >= total_steps:
        raise UserError(
            "AdamW.warmup_steps",
            adamw.warmup_steps,
            f"must be less than the stage's {total_steps} steps",
        )
    return optax.join_schedules(
        [
            _rise(adamw),
            optax.linear_schedule(adamw.peak, adamw.floor, total_steps - adamw.warmup_steps),
        ],
        [adamw.warmup_steps],
    )


def _rise(adamw: AdamW) -> optax.Schedule:
    if adamw.warmup == "linear":
        return optax.linear_schedule(adamw.start, adamw.peak, adamw.warmup_steps)
    ratio = math.log(adamw.peak / adamw.start) / max(adamw.warmup_steps, 1)
    return lambda step: adamw.start * jnp.exp(ratio * step)


def check_rules(adamw: AdamW, paths: Iterable[str]) -> None:
    """Checks multipliers and decay rules against all parameters of a model, frozen ones too.

    Raises:
      UserError: an expression is malformed, one of the multipliers matches nothing, or a parameter
        has no rule for its decay.
    """
    patterns = [pattern for pattern, _ in adamw.multipliers]
    paths = list(paths)
    tree.select(patterns, paths, field="AdamW.multipliers")
    tree.first_match(adamw.decay_rules, paths, field="AdamW.decay_rules")


def _adam(adamw: AdamW) -> optax.GradientTransformation:
    return optax.scale_by_adam(adamw.beta1, adamw.beta2, adamw.epsilon)


def init(adamw: AdamW, trainable: Leaves, cohorts: Mapping[str, int], old: State) -> State:
    """Optimizer state for a phase.

    Args:
      trainable: {name: parameter} of the phase.
      cohorts: {name: cohort} of the phase.
      old: state of the phase before; its cohorts go on with the parameters they still hold.

    Returns:
      {cohort: Adam's count and moments of its parameters}.
    """
    state: State = {}
    for cohort in sorted(set(cohorts.values())):
        members = {path: trainable[path] for path in trainable if cohorts[path] == cohort}
        if (kept := old.get(str(cohort))) is None:
            state[str(cohort)] = _adam(adamw).init(members)
        else:
            state[str(cohort)] = kept._replace(
                mu={path: kept.mu[path] for path in members},
                nu={path: kept.nu[path] for path in members},
            )
    return state


def update(
    adamw: AdamW, gradients: Leaves, state: State, trainable: Leaves, learning_rate: Array
) -> tuple[dict[str, Array], State, Array]:
    """One update: new parameters, new state, and the gradient's global norm before clipping.

    The learning rate is that of the parameters whose multiplier is 1.
    """
    norm = optax.tree.norm(gradients)
    if adamw.clip_norm:
        scale = jnp.minimum(1.0, adamw.clip_norm / jnp.maximum(norm, 1e-38))
        gradients = {path: g * scale for path, g in gradients.items()}
    directions: dict[str, Array] = {}
    new_state: State = {}
    for cohort, old in state.items():
        members = {path: gradients[path] for path in old.mu}
        updates, new_state[cohort] = _adam(adamw).update(members, old)
        directions |= updates
    paths = {name: slices.path_of(name) for name in trainable}
    decays = tree.first_match(adamw.decay_rules, paths.values(), field="AdamW.decay_rules")
    factors = tree.first_match(
        (*adamw.multipliers, (".*", 1.0)), paths.values(), field="AdamW.multipliers"
    )

    def updated(name: str, p: Array) -> Array:
        decay = adamw.weight_decay * p if decays[paths[name]] else 0.0
        # Without multipliers the compiled step has no trace of them.
        factor = factors[paths[name]]
        rate = learning_rate if factor == 1 else learning_rate * factor
        return p - rate * (directions[name] + decay)

    return {name: updated(name, p) for name, p in trainable.items()}, new_state, norm
