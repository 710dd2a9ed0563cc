"""Shapes shared by the models of Soltan et al. 2023 (section 2.1.3, Table 1).

`full` is the paper's size. `mini` has the same structure and fits two CPU cores; it computes in
float32 and without a loop over layers, which is what CPUs are fast at.
"""

from ml_collections import ConfigDict

SIZES = {
    "full": {
        "hidden_size": 1024,
        "mlp_size": 4096,
        "num_heads": 16,
        "max_positions": 512,
        "dtype": "bfloat16",
        "scan_layers": True,
    },
    "mini": {
        "hidden_size": 128,
        "mlp_size": 512,
        "num_heads": 4,
        "max_positions": 512,
        "dtype": "float32",
        "scan_layers": False,
    },
}


def base(size: str, encoder_layers: dict[str, int], decoder_layers: dict[str, int]) -> ConfigDict:
    """The paper's pre-LN transformer at one of the sizes; layers are given per size."""
    if size not in SIZES:
        raise ValueError(f"sizes are {', '.join(SIZES)}")
    return ConfigDict(
        SIZES[size]
        | {
            "encoder_layers": encoder_layers[size],
            "decoder_layers": decoder_layers[size],
            "attention_fusion": "none",
            "norm": "pre",
            # As RoBERTa, XLM-R, BART and mBART have it; both export formats need it.
            "embedding_norm": True,
            "norm_epsilon": 1e-5,
            "tie_head": True,
            "dropout": 0.1,
            "attention_dropout": 0.1,
            "initializer_range": 0.02,
            "pad_id": 1,
            "attention": "auto",
            "remat": "none",
        }
    )
