"""Logical axes of every parameter, by rules over paths; the first match wins.

A mesh gives meaning to these names (`seqrecipes.training.partitioning`). `layers` is the axis along
which the layers of a stack are stacked.
"""

PARAMETER_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(token_embedding|lm_head|mlm_head/projection)/embedding", ("vocab", "embed")),
    (r"mlm_head/bias", ("vocab",)),
    (r"mlm_head/dense/kernel", ("embed", None)),
    (r"heads/.*/kernel", ("embed", None)),
    (r"\w+/embedding/position/embedding", (None, "embed")),
    (r".*/(query|key|value)/kernel", ("layers", "embed", "heads", "head")),
    (r".*/(query|key|value)/bias", ("layers", "heads", "head")),
    (r".*attention/output/kernel", ("layers", "heads", "head", "embed")),
    (r".*/mlp/input/kernel", ("layers", "embed", "mlp")),
    (r".*/mlp/input/bias", ("layers", "mlp")),
    (r".*/mlp/output/kernel", ("layers", "mlp", "embed")),
    (r".*/layers/.*", ("layers", None)),
    (r".*", (None,)),
)
