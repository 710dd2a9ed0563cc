"""A T5 1.1 of the same dimensions, trained by t5x's model, train state and trainer.

Its feed-forward is gated, with three matrices for our two, its attention has relative positions,
its head is untied, and its dropout draws one mask for all positions of an example. Random bits
come from the hardware's generator, as its flag for speed has it.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from t5x import models, optimizers, train_state, trainer, utils
from t5x.examples.t5 import network

from benchmarks.step import ours
from benchmarks.step.cases import Job, synthetic
from benchmarks.step.programs import Program


def program(job: Job) -> Program:
    """The model with optax's AdamW, through t5x's jitted step; the state is donated."""
    utils.set_hardware_rng_ops()
    m = job.model
    config = network.T5Config(
        vocab_size=m["vocab_size"],
        dtype=m["dtype"],
        emb_dim=m["hidden_size"],
        num_heads=m["num_heads"],
        num_encoder_layers=m["encoder_layers"],
        num_decoder_layers=m["decoder_layers"],
        head_dim=m["hidden_size"] // m["num_heads"],
        mlp_dim=m["mlp_size"],
        mlp_activations=("gelu", "linear"),
        dropout_rate=m["dropout"],
        logits_via_embedding=False,
    )
    vocabulary = seqio.PassThroughVocabulary(m["vocab_size"])
    adamw = optimizers.adamw(1.5e-4, b1=0.9, b2=0.99, weight_decay=0.1)
    model = models.EncoderDecoderModel(
        network.Transformer(config), vocabulary, vocabulary, adamw, z_loss=1e-4
    )
    batch = {name: jnp.asarray(x) for name, x in inputs(job).items()}
    shapes = {name: x.shape for name, x in batch.items()}
    types = {name: x.dtype for name, x in batch.items()}
    initial = functools.partial(model.get_initial_variables, input_shapes=shapes, input_types=types)
    state = train_state.FlaxOptimTrainState.create(adamw, jax.jit(initial)(jax.random.PRNGKey(0)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Any, batch: Any) -> Any:
        key = jax.random.fold_in(jax.random.PRNGKey(1), state.step)
        return trainer.train_with_lr(state, batch, jnp.float32(1.5e-4), key, model, None)

    def step() -> Any:
        nonlocal state
        state, metrics = update(state, batch)
        return metrics["loss"].total

    return Program(
        step=step,
        wait=jax.device_get,
        loss=lambda handle: float(jax.device_get(handle)) / job.tokens,
        parameters=parameters,
        trained=parameters,
        device=ours.device(),
        product=ours.product,
        device_memory=ours.device_memory,
        remark=f"T5 1.1, gated feed-forward, {m['dtype']}",
    )


def inputs(job: Job) -> dict[str, np.ndarray]:
    """The same batch, without the id that is padding to T5."""
    batch = {name: np.maximum(x, 1) for name, x in synthetic(job).items()}
    weights = np.ones(batch["decoder_target_tokens"].shape, np.float32)
    return batch | {"decoder_loss_weights": weights}
