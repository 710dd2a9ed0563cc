"""Small stages whose updates tests compile: nothing is trained."""

from __future__ import annotations

import functools
from typing import Any

import jax

from seqrecipes import models, tree
from seqrecipes.config.optimizers import AdamW
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Checkpointing, Partitioning
from seqrecipes.training import programs
from seqrecipes.training.loop import Training
from tests.models import tiny
from tests.training.harness import FREEZE

MLM, SEQ2SEQ = "mlm", "seq2seq"
FROZEN, UNFROZEN = 0, 1
ROWS, SOURCE, TARGET, MASKED, TILE, VOCABULARY, LAYERS = 8, 24, 32, 16, 8, 512, 2
ONE = Partitioning()
FEATURES = {
    MLM: {"encoder_input_tokens": SOURCE, "masked_positions": MASKED, "masked_targets": MASKED},
    SEQ2SEQ: {
        "encoder_input_tokens": SOURCE,
        "decoder_input_tokens": TARGET,
        "decoder_target_tokens": TARGET,
    },
}


def stage(
    kind: str,
    *,
    tile: int = TILE,
    partitioning: Partitioning = ONE,
    **overrides: Any,
) -> Training:
    """A stage of a frozen and of an unfrozen phase, with a head of its own.

    The vocabulary is larger than any other dimension, and two tiles of logits than any other array.
    """
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "mlp_size": 64, "num_heads": 2}
    depth = {"encoder_layers": LAYERS, "decoder_layers": LAYERS if kind == SEQ2SEQ else 0}
    config = tiny.config(
        **(sizes | depth | {"tie_head": False, "max_positions": TARGET} | overrides)
    )
    return Training(
        name=kind,
        model=models.build(config),
        features=FEATURES[kind],
        phases=[Phase(3, FREEZE), Phase(3)],
        optimizer=AdamW(warmup_steps=2),
        partitioning=partitioning,
        checkpointing=Checkpointing(),
        batch_size=ROWS,
        tokens_per_update=ROWS * TARGET,
        seed=0,
        logits_tile=tile,
        log_every=1,
        validate_every=1,
    )


def trained(kind: str, phase: int) -> dict[str, Any]:
    """{path: shape} of what trains in a phase."""
    frozen = FREEZE if phase == FROZEN else ()
    leaves = tree.flatten(stage(kind).shapes)
    return {path: leaf for path, leaf in leaves.items() if path.split("/")[0] not in frozen}


@functools.cache
def compiled(kind: str, phase: int, *, devices: int = 1, **settings: Any) -> Any:
    """The compiled update of one of its phases, on so many devices."""
    training = stage(kind, **settings)
    mesh = training.partitioning.mesh(jax.devices()[:devices])
    return programs.lower(training, training.spans[phase], mesh).compile()
