"""AdamW on the trainable part of a model, in cohorts, with a warm-up and a linear decay.

Frozen parameters have no gradient, no moments and no update. Clipping sees the trainable part only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from seqrecipes import tree
from seqrecipes.errors import UserError
from seqrecipes.training import slices

Array = jax.Array
Leaves = Mapping[str, Array]
WARMUPS = ("linear", "exponential")
State = dict[str, optax.ScaleByAdamState]

# No decay on biases and LayerNorm.
DECAY_RULES: tuple[tuple[str, bool], ...] = ((r".*(bias|scale)$", False), (r".*", True))


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW, warm-up, linear decay to a floor (Soltan et al. 2023, appendix E and Table 10).

    The paper gives the schedules; betas and weight decay are those of its fine-tuning (Table 10),
    epsilon and clipping are common practice.

    Attributes:
      peak: learning rate at the end of the warm-up.
      warmup_steps: W.
      warmup: 'linear', or 'exponential', which multiplies by the same factor at every update.
      start: learning rate before the first update.
      floor: learning rate of the last update.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      epsilon: added to the root of the second moment.
      weight_decay: decoupled, times the learning rate.
      clip_norm: largest global norm of the trainable part's gradient; 0 does not clip.
      decay_rules: (regular expression over parameter paths, whether to decay), first match wins.
      multipliers: (regular expression over parameter paths, factor on their learning rate), first
        match wins and what matches none has the factor 1. The decay, being times the learning rate,
        is multiplied with it.
    """

    peak: float = 1.5e-4
    warmup_steps: int = 5_000
    warmup: str = "linear"
    start: float = 0.0
    floor: float = 5e-6
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    decay_rules: tuple[tuple[str, bool], ...] = DECAY_RULES
    multipliers: Sequence[tuple[str, float]] = ()

    def __post_init__(self) -> None:
        for field in ("beta1", "beta2"):
            if not 0 <= getattr(self, field) < 1:
                raise UserError(f"AdamW.{field}", getattr(self, field), "lies in [0, 1)")
        if self.warmup not in WARMUPS:
            raise UserError("AdamW.warmup", self.warmup, f"choose one of {', '.join(WARMUPS)}")
        for field in ("start", "floor", "epsilon", "weight_decay", "clip_norm", "warmup_steps"):
            if getattr(self, field) < 0:
                raise UserError(f"AdamW.{field}", getattr(self, field), "must not be negative")
        if self.peak < self.floor or self.peak <= 0:
            raise UserError("AdamW.peak", self.peak, f"must be positive, at least {self.floor=}")
        if self.start > self.peak or (self.warmup == "exponential" and not self.start):
            remedy = f"lies below AdamW.peak = {self.peak}"
            if self.warmup == "exponential":
                remedy += "; an exponential warm-up begins above 0, e.g. 1e-7"
            raise UserError("AdamW.start", self.start, remedy)
        for entry in self.multipliers:
            match entry:
                case [str(), float() | int() as factor] if 0 < factor < math.inf:
                    pass
                case _:
                    raise UserError(
                        "AdamW.multipliers",
                        self.multipliers,
                        "write a list of pairs: [('encoder', 0.1)]; factors are above 0, and what "
                        "is not to train belongs into Phase.freeze",
                    )

    def schedule(self, total_steps: int) -> optax.Schedule:
        """Learning rate of update number t = 1 ... total_steps, continued linearly down to t = 0.

        Up to t = W start + (peak - start) * t / W, or start * (peak / start) ** (t / W); then
        floor + (peak - floor) * (T - t) / (T - W).

        Raises:
          UserError: the warm-up does not end before the stage does.
        """
        if self.warmup_steps >= total_steps:
            raise UserError(
                "AdamW.warmup_steps",
                self.warmup_steps,
                f"must be less than the stage's {total_steps} steps",
            )
        return optax.join_schedules(
            [
                self._rise,
                optax.linear_schedule(self.peak, self.floor, total_steps - self.warmup_steps),
            ],
            [self.warmup_steps],
        )

    @property
    def _rise(self) -> optax.Schedule:
        if self.warmup == "linear":
            return optax.linear_schedule(self.start, self.peak, self.warmup_steps)
        ratio = math.log(self.peak / self.start) / max(self.warmup_steps, 1)
        return lambda step: self.start * jnp.exp(ratio * step)

    def check_multipliers(self, paths: Iterable[str]) -> None:
        """Checks the multipliers against all parameters of a model, frozen ones too.

        Raises:
          UserError: an expression is malformed or matches nothing.
        """
        patterns = [pattern for pattern, _ in self.multipliers]
        tree.select(patterns, paths, field="AdamW.multipliers")

    def _adam(self) -> optax.GradientTransformation:
        return optax.scale_by_adam(self.beta1, self.beta2, self.epsilon)

    def init(self, trainable: Leaves, cohorts: Mapping[str, int], old: State) -> State:
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
                state[str(cohort)] = self._adam().init(members)
            else:
                state[str(cohort)] = kept._replace(
                    mu={path: kept.mu[path] for path in members},
                    nu={path: kept.nu[path] for path in members},
                )
        return state

    def update(
        self, gradients: Leaves, state: State, trainable: Leaves, learning_rate: Array
    ) -> tuple[dict[str, Array], State, Array]:
        """One update: new parameters, new state, and the gradient's global norm before clipping.

        The learning rate is that of the parameters whose multiplier is 1.
        """
        norm = optax.tree.norm(gradients)
        if self.clip_norm:
            scale = jnp.minimum(1.0, self.clip_norm / jnp.maximum(norm, 1e-38))
            gradients = {path: g * scale for path, g in gradients.items()}
        directions: dict[str, Array] = {}
        new_state: State = {}
        for cohort, old in state.items():
            members = {path: gradients[path] for path in old.mu}
            updates, new_state[cohort] = self._adam().update(members, old)
            directions |= updates
        paths = {name: slices.path_of(name) for name in trainable}
        decays = tree.first_match(self.decay_rules, paths.values(), field="AdamW.decay_rules")
        factors = tree.first_match(
            (*self.multipliers, (".*", 1.0)), paths.values(), field="AdamW.multipliers"
        )

        def updated(name: str, p: Array) -> Array:
            decay = self.weight_decay * p if decays[paths[name]] else 0.0
            # Without multipliers the compiled step has no trace of them.
            factor = factors[paths[name]]
            rate = learning_rate if factor == 1 else learning_rate * factor
            return p - rate * (directions[name] + decay)

        return {name: updated(name, p) for name, p in trainable.items()}, new_state, norm
