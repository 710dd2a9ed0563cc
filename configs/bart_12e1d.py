"""12 encoder and 1 decoder layer: `bart-12e1d` in Table 1 of Soltan et al. 2023."""

from ml_collections import ConfigDict

from configs.base import base


def get_config(size: str = "full") -> ConfigDict:
    return base(size, encoder_layers={"full": 12, "mini": 4}, decoder_layers={"full": 1, "mini": 1})
