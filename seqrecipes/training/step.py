"""One update: gradients of the trainable part, summed over micro-batches, and the optimizer.

A step is compiled once per phase. Frozen parameters enter it as constants, so that no gradient, no
moment and no update exists for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, NamedSharding

from seqrecipes import tree
from seqrecipes.config.optimizers import Optimizer
from seqrecipes.config.training import PLAIN, Loss, Partitioning
from seqrecipes.models import Model, keys
from seqrecipes.training import optimizer as optimizers
from seqrecipes.training import partitioning as parts
from seqrecipes.training import slices
from seqrecipes.training.loss import Sums, cross_entropy
from seqrecipes.training.optimizer import State
from seqrecipes.training.phases import Span

Array = jax.Array
Batch = Mapping[str, Array]


class TrainState(struct.PyTreeNode):
    """All that changes during training.

    Attributes:
      step: int32 scalar, the number of updates done.
      params: nested dictionary of float32 parameters.
      optimizer: {cohort: optax state}, for the trainable parameters only.
    """

    step: Any
    params: Any
    optimizer: State


def state_shardings(state: TrainState, partitioning: Partitioning, mesh: Mesh) -> TrainState:
    """A TrainState of shardings, for a state of arrays or of shapes."""
    by_path = partitioning.parameter_shardings(state.params, mesh)
    parameters = tree.flatten(state.params)
    whole = parts.replicated(mesh)

    def moment(keys: tuple[Any, ...], leaf: Any) -> NamedSharding:
        # The dictionaries are by cohort, then by parameter; counts have no parameter.
        name = next((key.key for key in keys[1:] if hasattr(key, "key")), None)
        if name is None:
            return whole
        path = slices.path_of(name)
        if leaf.shape != slices.shape(parameters[path], name):
            return whole
        return partitioning.moment_sharding(by_path[path], leaf.shape)

    return TrainState(
        step=whole,
        params=tree.unflatten(by_path),
        optimizer=jax.tree_util.tree_map_with_path(moment, state.optimizer),
    )


def split_params(params: tree.Tree, span: Span) -> tuple[dict[str, Any], dict[str, Any]]:
    """({name: trainable leaf or slice}, {name: frozen leaf or slice}) of a phase."""
    leaves = tree.flatten(params)
    trainable = {name: slices.take(leaves, name) for name in span.cohorts}
    # In an order of their own: the program must be the same in every process.
    frozen = {name: slices.take(leaves, name) for name in sorted(span.frozen)}
    return trainable, frozen


def enter_phase(state: TrainState, span: Span, optimizer: Optimizer) -> TrainState:
    """The state with which a phase begins or goes on: moments for its trainable part alone.

    Entering the phase that the state is in already changes nothing.
    """
    trainable, _ = split_params(state.params, span)
    entered = optimizers.init(optimizer, trainable, span.cohorts, state.optimizer)
    return state.replace(optimizer=entered)


def loss_sums(
    model: Model,
    params: tree.Tree,
    batch: Batch,
    example_ids: Array | None,
    key: Array | None,
    tile: int,
    *,
    encoder_dropout: bool = True,
    frozen_encoder_layers: int = 0,
    minimised: Loss = PLAIN,
) -> Sums:
    """Summed loss of a batch, over all that the model predicts.

    Without dropout if `example_ids` is None, and within the encoder if not `encoder_dropout`. The
    gradient stops above the lowest `frozen_encoder_layers`.
    """
    variables = {"params": params}
    predictions: Any = model.apply(
        variables,
        batch,
        example_ids,
        encoder_dropout=encoder_dropout,
        frozen_encoder_layers=frozen_encoder_layers,
        method="predictions",
        rngs=None if key is None else {"dropout": key},
    )
    of_parts = [
        cross_entropy(
            each.projection,
            each.targets_BxT,
            pad_id=each.pad_id,
            tile=tile,
            minimised=minimised,
        )
        for each in predictions
    ]
    return functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), of_parts)


def make_train_step(
    model: Model,
    optimizer: Optimizer,
    span: Span,
    *,
    total_steps: int,
    seed: int,
    micro_batches: int,
    tile: int,
    minimised: Loss = PLAIN,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """The update of a phase, to be compiled by the caller with the state donated.

    Args:
      model: the module.
      optimizer: with its schedule.
      span: which parameters train, and whether the encoder has dropout.
      total_steps: length of the stage, which the schedule spans.
      seed: dropout keys are a function of (seed, step, example).
      micro_batches: parts of the batch, processed one after the other.
      tile: positions per tile of vocabulary logits.
      minimised: what is added to the cross-entropy.

    Returns:
      (state, batch) -> (state, metrics); an update whose loss or gradient norm is not finite leaves
      parameters and moments as they are, and counts as a step. Metrics are float32 scalars: loss
      (cross-entropy, whatever is minimised) and accuracy per target token, gradient_norm of the
      trainable part, learning_rate, tokens (before noise, without padding), padding (share of all
      positions).

    Raises:
      UserError: the warm-up is too long, or a multiplier's expression matches no parameter.
    """
    schedule = optimizers.schedule(optimizer, total_steps)
    paths = {slices.path_of(name) for name in span.cohorts.keys() | span.frozen}
    optimizers.check_rules(optimizer, paths)

    def split(x: Array) -> Array:
        # Row r goes to part r % m: each device keeps its rows.
        return x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(keys.key(seed), state.step)
        trainable, frozen = split_params(state.params, span)

        def loss(leaves: dict[str, Array], part: Batch, ids: Array) -> tuple[Array, Sums]:
            sums = loss_sums(
                model,
                tree.unflatten(slices.join(leaves | frozen)),
                part,
                ids,
                key,
                tile,
                encoder_dropout=span.encoder_dropout,
                frozen_encoder_layers=span.frozen_encoder_layers,
                minimised=minimised,
            )
            return sums.objective, sums

        gradient = jax.jit(jax.grad(loss, has_aux=True))  # traced once, wherever it is called
        ids = jnp.arange(batch[model.TOKENS[0]].shape[0])
        if micro_batches == 1:
            gradients, sums = gradient(trainable, batch, ids)
        else:

            def add(total: Any, part: tuple[Batch, Array]) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, gradient(trainable, *part)), None

            split_batch = ({name: split(x) for name, x in batch.items()}, split(ids))
            shapes = jax.eval_shape(gradient, trainable, *jax.tree.map(lambda x: x[0], split_batch))
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            (gradients, sums), _ = jax.lax.scan(add, zeros, split_batch)

        tokens = jnp.maximum(sums.tokens, 1)
        mean_loss = sums.loss / tokens
        learning_rate = schedule(state.step + 1)
        params, moments, norm = optimizers.update(
            optimizer,
            {name: g / tokens for name, g in gradients.items()},
            state.optimizer,
            trainable,
            span.cohorts,
            learning_rate,
        )
        # A sick update is never made: no checkpoint, and no later update, can have it.
        sound = jnp.isfinite(mean_loss) & jnp.isfinite(norm)
        params, moments = jax.tree.map(
            functools.partial(jnp.where, sound), (params, moments), (trainable, state.optimizer)
        )
        metrics = {
            "loss": mean_loss,
            "accuracy": sums.correct / tokens,
            "gradient_norm": norm,
            "learning_rate": learning_rate,
        } | token_counts(model, batch)
        new_state = TrainState(
            step=state.step + 1,
            params=tree.unflatten(slices.join(params | frozen)),
            optimizer=moments,
        )
        return new_state, metrics

    return train_step


def token_counts(model: Model, batch: Batch) -> dict[str, Array]:
    """`tokens`: original tokens of the batch; `padding`: share of padding in all token features.

    The batch says how many original tokens its examples have (`original_tokens`, [rows, 1]), or
    has no noise, so that its last token feature is what is counted.
    """
    pad_id = model.config.pad_id
    real = {name: jnp.sum(x != pad_id) for name, x in batch.items() if name in model.TOKENS}
    size = sum(batch[name].size for name in real)
    tokens = (
        batch["original_tokens"].sum() if "original_tokens" in batch else real[model.TOKENS[-1]]
    )
    return {
        "tokens": tokens.astype(jnp.float32),
        "padding": 1 - jnp.asarray(sum(real.values())) / size,
    }


def make_eval_step(model: Model, tile: int) -> Callable[[tree.Tree, Batch], Sums]:
    """(params, batch) -> summed cross-entropy, without dropout."""
    return lambda params, batch: loss_sums(model, params, batch, None, None, tile)
