"""Model FLOPs of an update, by part: encoder, decoder, head.

A multiply-add is two operations. Counted are matrix products only: what the mathematics needs, not
what a rematerialisation policy adds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence

from seqrecipes.models import Head, ModelConfig


def layer(hidden: int, mlp: int, queries: int, keys: int) -> int:
    """FLOPs of an encoder layer's forward pass: projections, attention and feed-forward."""
    return queries * (4 * hidden * hidden + 4 * hidden * mlp) + _memory(hidden, queries, keys)


def _memory(hidden: int, queries: int, keys: int) -> int:
    """FLOPs of projecting keys and values, of scores and of mixing."""
    return 4 * hidden * hidden * keys + 4 * hidden * queries * keys


# One TU by FLOPs: 100k updates of 12 trained layers with D = 1024 on 2048 x 512 tokens
# (Soltan et al. 2023, section 2.1), where the paper counts layers.
TRAINING_UNIT = 3.0 * 100_000 * 2048 * 12 * layer(1024, 4096, 512, 512)


def forward(config: ModelConfig, features: Mapping[str, int]) -> dict[str, float]:
    """FLOPs of one example's forward pass, by part.

    Args:
      config: the model.
      features: {feature: static length} of a batch.
    """
    return training(config, features, ())


def training(
    config: ModelConfig,
    features: Mapping[str, int],
    trainable: Collection[str],
    frozen_encoder_layers: int = 0,
    heads: Sequence[Head] = (),
) -> dict[str, float]:
    """FLOPs of one example's update, by part.

    The backward pass of a matrix product costs as much as the product once for the weights, if they
    are trained, and once for the input, if anything that it hangs on is trained.

    Args:
      config: the model.
      features: {feature: static length} of a batch.
      trainable: paths of the trained parameters; none is a forward pass.
      frozen_encoder_layers: lowest layers of the encoder that are frozen beside.
      heads: of a `Labeller`, in place of what predicts a vocabulary.
    """
    d, f = config.hidden_size, config.mlp_size

    def trains(*prefixes: str) -> bool:
        return any(path.startswith(prefixes) for path in trainable)

    def passes(weights: bool, inputs: bool) -> int:
        return 1 + weights + inputs

    table = trains("token_embedding")
    source = features["encoder_input_tokens"]
    layers = trains("encoder/stack/layers")
    trained = config.encoder_layers - frozen_encoder_layers
    # Within a trained layer inputs hang on weights.
    inputs = table or trains("encoder/embedding") or layers
    total = {
        "encoder": layer(d, f, source, source)
        * (frozen_encoder_layers + trained * passes(layers, inputs))
    }
    if heads:
        total["head"] = sum(
            _classifier(head, d, features[head.targets], table or trains("encoder"), trains)
            for head in heads
        )
    elif config.decoder_layers:
        target = features["decoder_target_tokens"]
        below = table or trains("encoder")
        layers = trains("decoder/stack/layers")
        inputs = below or trains("decoder")
        states = config.encoder_layers if config.attention_fusion == "decoder_states" else 1
        own = layer(d, f, target, target) + 4 * d * d * target + 4 * d * target * source * states
        # Keys and values of the memory: the only products whose input is the encoder's alone.
        memory = 4 * d * d * source * states * passes(layers, below or _fusion_trains(trainable))
        total["decoder"] = config.decoder_layers * (own * passes(layers, inputs) + memory)
        projection = trains("token_embedding" if config.tie_head else "lm_head")
        total["head"] = 2 * target * d * config.vocab_size * passes(projection, inputs)
    else:
        masked = features["masked_positions"]
        inputs = table or trains("encoder")
        dense = 2 * masked * d * d * passes(trains("mlm_head/dense"), inputs)
        projection = trains("token_embedding" if config.tie_head else "mlm_head/projection")
        inputs = inputs or trains("mlm_head/dense", "mlm_head/norm")
        total["head"] = dense + 2 * masked * d * config.vocab_size * passes(projection, inputs)
    return {name: float(value) for name, value in total.items()}


def _classifier(
    head: Head, width: int, positions: int, below: bool, trains: Callable[..., bool]
) -> int:
    """FLOPs of a head of a `Labeller`; `below`: whether what it reads hangs on a trained weight."""
    prefix, total = f"heads/{head.name}", 0
    layers = [*(f"hidden_{layer}" for layer in range(len(head.hidden))), "output"]
    widths = itertools.pairwise([width, *head.hidden, head.labels])
    for name, (before, after) in zip(layers, widths, strict=True):
        own = trains(f"{prefix}/{name}/")
        total += 2 * positions * before * after * (1 + own + below)
        below = below or own
    return total


def _fusion_trains(trainable: Collection[str]) -> bool:
    """Whether the memory hangs on a trained query that weighs the encoder's layers."""
    queries = ("decoder/fusion", "decoder/stack/layers/fusion")
    return any(path.startswith(queries) for path in trainable)
