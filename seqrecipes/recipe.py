"""What a recipe costs by the rule of its paper, and the file in which a run keeps its recipe."""

from __future__ import annotations

from collections.abc import Iterable

from seqrecipes.models import ModelConfig
from seqrecipes.training.phases import Span

# What a run's folder says of itself.
RECIPE_FILE = "recipe.json"


def training_units(config: ModelConfig, spans: Iterable[Span], tokens_per_update: int) -> float:
    """TU of a stage by the rule of Soltan et al. 2023 (section 2.1, appendix D).

    1 TU is 100k updates of 12 layers with D = 1024 on 1M (2048 x 512) tokens. A frozen layer of the
    encoder counts half, every other layer counts one; embeddings and heads count nothing. Other
    widths and batches count in proportion to D^2 and tokens.
    """
    scale = (config.hidden_size / 1024) ** 2 * tokens_per_update / (2048 * 512)
    total = 0.0
    for span in spans:
        depth = config.encoder_layers
        frozen = span.untrained_layers(depth)
        layers = 0.5 * frozen + (depth - frozen) + config.decoder_layers
        total += (span.stop - span.start) / 100_000 * layers / 12
    return total * scale
