"""An optimizer on the trainable part of a model: parameter groups, schedule, clipping, decay.

Frozen parameters have no gradient, no moments and no update. Clipping sees the trainable part only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqrecipes import tree
from seqrecipes.config import optimizers
from seqrecipes.config.optimizers import Optimizer
from seqrecipes.models.axes import PARAMETER_AXES
from seqrecipes.training import slices

Array = jax.Array
Leaves = Mapping[str, Array]
# {cohort: optax state}, whose dictionaries are by the names of parameters.
State = dict[str, Any]


def schedule(optimizer: Optimizer, total_steps: int) -> optax.Schedule:
    """Learning rate of update number t = 1 ... total_steps, and the warm-up's start at t = 0.

    The formulas stand in `config.optimizers.Optimizer`. The warm-up up to t = W is
    start + (peak - start) * t / W, or start * (peak / start) ** (t / W).

    Raises:
      UserError: warm-up and decay do not end, or meet, before the stage does.
    """
    rest = total_steps - optimizer.warmup_steps
    if rest < 1:
        optimizer.refuse("warmup_steps", f"must be less than the stage's {total_steps} steps")
    if optimizer.decay_steps > rest:
        optimizer.refuse(
            "decay_steps", f"must be at most {rest}, the stage's steps after its warm-up"
        )
    both = [_rise(optimizer), _fall(optimizer, rest)]
    return optax.join_schedules(both, [optimizer.warmup_steps])


def _rise(optimizer: Optimizer) -> optax.Schedule:
    if optimizer.warmup == "linear":
        return optax.linear_schedule(optimizer.start, optimizer.peak, optimizer.warmup_steps)
    ratio = math.log(optimizer.peak / optimizer.start) / max(optimizer.warmup_steps, 1)
    return lambda step: optimizer.start * jnp.exp(ratio * step)


def _fall(optimizer: Optimizer, rest: int) -> optax.Schedule:
    """The learning rate by the number of updates since the warm-up."""
    peak, floor = optimizer.peak, optimizer.floor
    warmup, decay = optimizer.warmup_steps, optimizer.decay_steps

    def inverse_sqrt(step: Any) -> Array:
        # During the warm-up, too, where nobody asks, it is to be a number.
        return jnp.maximum(floor, peak * jnp.sqrt(warmup / jnp.maximum(warmup + step, 1)))

    def wsd(step: Any) -> Array:
        decayed = jnp.clip((step - (rest - decay)) / max(decay, 1), 0, 1)
        return peak - (peak - floor) * jnp.sqrt(decayed)

    return {
        "linear": optax.linear_schedule(peak, floor, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest, floor / peak),
        "inverse_sqrt": inverse_sqrt,
        "wsd": wsd,
        "constant": optax.constant_schedule(peak),
    }[optimizer.schedule]


def check_rules(optimizer: Optimizer, paths: Iterable[str]) -> None:
    """Checks multipliers and decay rules against all parameters of a model, frozen ones too.

    Raises:
      UserError: an expression is malformed, one of the multipliers matches nothing, or a parameter
        has no rule for its decay.
    """
    patterns = [pattern for pattern, _ in optimizer.multipliers]
    paths = list(paths)
    tree.select(patterns, paths, field=f"{optimizer.name}.multipliers")
    tree.first_match(optimizer.decay_rules, paths, field=f"{optimizer.name}.decay_rules")


def _adamw(ours: Any) -> optax.GradientTransformation:
    return optax.scale_by_adam(ours.beta1, ours.beta2, ours.epsilon)


def _lion(ours: optimizers.Lion) -> optax.GradientTransformation:
    return optax.scale_by_lion(ours.beta1, ours.beta2)


def _adafactor(ours: optimizers.Adafactor) -> optax.GradientTransformation:
    matrix = optax.chain(
        optax.scale_by_factored_rms(
            decay_rate=ours.decay_rate,
            min_dim_size_to_factor=ours.smallest_factored,
            epsilon=ours.epsilon,
        ),
        optax.clip_by_block_rms(ours.clip_rms),
        optax.scale_by_param_block_rms() if ours.relative else optax.identity(),
    )
    return _by_layer(lambda path: matrix)


def _muon(ours: optimizers.Muon) -> optax.GradientTransformation:
    def of(path: str) -> optax.GradientTransformation:
        axes = _axes(path)[1:] if _is_stacked(path) else ()
        if not path.endswith("/kernel") or len(axes) < 2:
            return _adamw(ours)
        # A kernel multiplies the states, or the heads' outputs, from their last axes on.
        inputs = 1 if axes[0] == "embed" else len(axes) - 1
        sides = tuple(range(inputs)), tuple(range(inputs, len(axes)))
        return optax.chain(
            optax.contrib.scale_by_muon(
                ns_steps=ours.iterations,
                beta=ours.momentum,
                weight_dimension_numbers=optax.contrib.MuonDimensionNumbers(*sides),
            ),
            optax.stateless(lambda updates, _: updates * _rms_scale(updates.shape, inputs)),
        )

    def _rms_scale(shape: tuple[int, ...], inputs: int) -> float:
        # An orthogonal matrix of n x m has the root mean square 1 / sqrt(max(n, m)).
        return ours.rms * math.sqrt(max(math.prod(shape[:inputs]), math.prod(shape[inputs:])))

    return _by_layer(of)


def _axes(path: str) -> tuple[str | None, ...]:
    return tree.first_match(PARAMETER_AXES, [path], field="PARAMETER_AXES")[path]


def _is_stacked(path: str) -> bool:
    return _axes(path)[0] == "layers"


def _by_layer(of: Callable[[str], optax.GradientTransformation]) -> optax.GradientTransformation:
    """Every parameter, and every layer of a stacked one, on its own.

    What looks at a whole matrix would take a stack for one matrix, and so depend on how layers are
    stacked and cut.

    Args:
      of: gives the transformation of the parameter of a path.
    """

    def mapped(name: str, function: str) -> Any:
        path = slices.path_of(name)
        one = getattr(of(path), function)
        return jax.vmap(one) if _is_stacked(path) else one

    def init(params: Leaves) -> dict[str, Any]:
        return {name: mapped(name, "init")(leaf) for name, leaf in params.items()}

    def update(
        gradients: Leaves, state: dict[str, Any], params: Leaves
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        done = {
            name: mapped(name, "update")(gradient, state[name], params[name])
            for name, gradient in gradients.items()
        }
        return {name: d for name, (d, _) in done.items()}, {n: s for n, (_, s) in done.items()}

    return optax.GradientTransformation(init, update)


# From the direction of the gradient to that of the update, before learning rate and decay.
_TRANSFORMATIONS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "AdamW": _adamw,
    "Lion": _lion,
    "Adafactor": _adafactor,
    "Muon": _muon,
}


def _transformation(optimizer: Optimizer) -> optax.GradientTransformation:
    return _TRANSFORMATIONS[optimizer.name](optimizer)


def init(optimizer: Optimizer, trainable: Leaves, cohorts: Mapping[str, int], old: State) -> State:
    """Optimizer state for a phase.

    Args:
      trainable: {name: parameter} of the phase.
      cohorts: {name: cohort} of the phase.
      old: state of the phase before; its cohorts go on with the parameters they still hold.

    Returns:
      {cohort: state of the optimizer on its parameters}.
    """
    state: State = {}
    for cohort, names in _members(cohorts).items():
        if (kept := old.get(cohort)) is None:
            state[cohort] = _transformation(optimizer).init({n: trainable[n] for n in names})
        else:
            state[cohort] = _restricted(kept, names)
    return state


def _members(cohorts: Mapping[str, int]) -> dict[str, list[str]]:
    """{cohort: its parameters}."""
    return {
        str(cohort): [name for name in cohorts if cohorts[name] == cohort]
        for cohort in sorted(set(cohorts.values()))
    }


def _restricted(state: Any, names: Iterable[str]) -> Any:
    """A cohort's state, with some of its parameters alone."""
    return jax.tree.map(
        lambda node: {name: node[name] for name in names} if isinstance(node, dict) else node,
        state,
        is_leaf=lambda node: isinstance(node, dict),
    )


def update(
    optimizer: Optimizer,
    gradients: Leaves,
    state: State,
    trainable: Leaves,
    cohorts: Mapping[str, int],
    learning_rate: Array,
) -> tuple[dict[str, Array], State, Array]:
    """One update: new parameters, new state, and the gradient's global norm before clipping.

    The learning rate is that of the parameters whose multiplier is 1.
    """
    norm = optax.tree.norm(gradients)
    if optimizer.clip_norm:
        scale = jnp.minimum(1.0, optimizer.clip_norm / jnp.maximum(norm, 1e-38))
        gradients = {path: g * scale for path, g in gradients.items()}
    directions: dict[str, Array] = {}
    new_state: State = {}
    for cohort, names in _members(cohorts).items():
        updates, new_state[cohort] = _transformation(optimizer).update(
            {name: gradients[name] for name in names},
            state[cohort],
            {name: trainable[name] for name in names},
        )
        directions |= updates
    paths = {name: slices.path_of(name) for name in trainable}
    decays = tree.first_match(
        optimizer.decay_rules, paths.values(), field=f"{optimizer.name}.decay_rules"
    )
    factors = tree.first_match(
        (*optimizer.multipliers, (".*", 1.0)), paths.values(), field=f"{optimizer.name}.multipliers"
    )

    def updated(name: str, p: Array) -> Array:
        decay = optimizer.weight_decay * p if decays[paths[name]] else 0.0
        # Without multipliers the compiled step has no trace of them.
        factor = factors[paths[name]]
        rate = learning_rate if factor == 1 else learning_rate * factor
        return p - rate * (directions[name] + decay)

    return {name: updated(name, p) for name, p in trainable.items()}, new_state, norm
