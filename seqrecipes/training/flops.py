"""Model FLOPs of a step, by part, and the peaks of known devices.

A multiply-add is two operations. Counted are matrix products only: what the mathematics needs, not
what a rematerialisation policy adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from seqrecipes.models import ModelConfig

# Dense bfloat16 operations a second of one device, by `jax.Device.device_kind`.
PEAKS: dict[str, float] = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


def forward(config: ModelConfig, features: Mapping[str, int]) -> dict[str, float]:
    """FLOPs of one example's forward pass, by part: encoder, decoder, head.

    Args:
      config: the model.
      features: {feature: static length} of a batch.
    """
    d, f = config.hidden_size, config.mlp_size
    source = features["encoder_input_tokens"]
    feed_forward = 4 * d * f

    def attention(queries: int, keys: int, projected_keys: int) -> int:
        return 4 * d * d * (queries + projected_keys) + 4 * d * queries * keys

    parts = {
        "encoder": config.encoder_layers
        * (attention(source, source, source) + source * feed_forward),
    }
    if config.decoder_layers:
        target = features["decoder_target_tokens"]
        layer = attention(target, target, target) + attention(target, source, source)
        parts["decoder"] = config.decoder_layers * (layer + target * feed_forward)
        parts["head"] = 2 * target * d * config.vocab_size
    else:
        masked = features["masked_positions"]
        parts["head"] = 2 * masked * d * (d + config.vocab_size)
    return {name: float(value) for name, value in parts.items()}


def training(
    config: ModelConfig, features: Mapping[str, int], trainable: Callable[[str], bool]
) -> dict[str, float]:
    """FLOPs of one example's update, by part.

    The backward pass costs as much as the forward pass once for the weights, if they are trained,
    and once for the inputs, if anything below is trained.

    Args:
      config: the model.
      features: {feature: static length} of a batch.
      trainable: whether anything below a top-level name of the parameters is trained.
    """
    names = {"encoder": ("encoder",), "decoder": ("decoder",), "head": ("mlm_head", "lm_head")}
    below = trainable("token_embedding")
    total = {}
    for part, cost in forward(config, features).items():
        tied = part == "head" and config.tie_head and trainable("token_embedding")
        weights = tied or any(trainable(name) for name in names[part])
        # A layer's inputs hang on the trained layers below it.
        inputs = below or (weights and part != "head")
        total[part] = cost * (1 + weights + inputs)
        below = below or weights
    return total
