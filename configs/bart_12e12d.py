"""12 encoder and 12 decoder layers: `bart-12e12d` in Table 1 of Soltan et al. 2023."""

from ml_collections import ConfigDict

from configs.base import base


def get_config(size: str = "full") -> ConfigDict:
    return base(
        size, encoder_layers={"full": 12, "mini": 4}, decoder_layers={"full": 12, "mini": 4}
    )
