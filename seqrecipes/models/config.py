"""What a model is: its shape, its normalisation, how it is computed.

`configs/*.py` hold the shapes as ml_collections files; `load` reads one of them, applies overrides
and checks it. The vocabulary's size is not a shape but a consequence of the vocabulary, so that the
files leave it open and the run fills it in.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from seqrecipes.config.check import Range, check_fields
from seqrecipes.errors import UserError
from seqrecipes.folders import CLONE, shipped

Count = Annotated[int, Range(1)]
Rate = Annotated[float, Range(0, below=1)]
NotNegative = Annotated[float, Range(0)]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A transformer encoder, with a decoder if `decoder_layers` is not 0.

    Attributes:
      vocab_size: rows of the token table.
      hidden_size: width D of the residual stream.
      mlp_size: inner width F of the feed-forward sub-layer.
      num_heads: attention heads; divides `hidden_size`.
      encoder_layers: depth of the encoder.
      decoder_layers: depth of the decoder; 0 makes an encoder with an MLM head.
      max_positions: rows of each learned position table.
      attention_fusion: what cross-attention reads: the encoder's output ('none'), or a weighted sum
        of all its layers by one learned query ('shared'), by one for each decoder layer
        ('per_layer'; Soltan et al. 2023, section 2.1.5) or by cross-attention's own queries
        ('decoder_states', see `fused_attention`).
      norm: 'pre' normalises inside the residual branch and once more after the last layer
        (Soltan et al. 2023, section 2.1); 'post' normalises the sum (DeltaLM, VECO, XLM-R).
      embedding_norm: LayerNorm on the sum of the embeddings.
      norm_epsilon: added to the variance in every LayerNorm.
      tie_head: the vocabulary projection is the token table itself.
      dropout: rate on embeddings and on every sub-layer's output.
      attention_dropout: rate on attention weights.
      initializer_range: standard deviation of every matrix and table at initialisation.
      pad_id: token id that attention and losses ignore.
      attention: how attention is computed: plainly ('xla'), by a fused kernel of a platform
        ('cudnn', 'tpu'; see `models.attention`), or by that of the devices in use wherever it is
        exact ('auto').
      dtype: type of activations and matrix products; parameters are float32 always.
      scan_layers: compile one layer and loop over it; otherwise the loop is unrolled. The
        parameters are the same stacked arrays in both cases.
      remat: what the backward pass recomputes: nothing ('none'), all but matrix products ('dots'),
        all but those and attention ('context'), or each whole layer ('full').
    """

    vocab_size: Count
    hidden_size: Count
    mlp_size: Count
    num_heads: Count
    encoder_layers: Count
    decoder_layers: Annotated[int, Range(0)]
    max_positions: Count
    attention_fusion: Literal["none", "shared", "per_layer", "decoder_states"]
    norm: Literal["pre", "post"]
    embedding_norm: bool
    norm_epsilon: NotNegative
    tie_head: bool
    dropout: Rate
    attention_dropout: Rate
    initializer_range: NotNegative
    pad_id: int
    attention: Literal["auto", "xla", "cudnn", "tpu"]
    dtype: Literal["float32", "bfloat16", "float64"]
    scan_layers: bool
    remat: Literal["none", "dots", "context", "full"]

    def __post_init__(self) -> None:
        check_fields(self, "")
        if not 0 <= self.pad_id < self.vocab_size:
            raise UserError("pad_id", self.pad_id, f"lies in [0, vocab_size = {self.vocab_size})")
        if self.attention_fusion != "none" and not self.decoder_layers:
            raise UserError(
                "attention_fusion", self.attention_fusion, "an encoder alone has no cross-attention"
            )
        if self.hidden_size % self.num_heads:
            raise UserError(
                "num_heads", self.num_heads, f"must divide hidden_size = {self.hidden_size}"
            )
        if self.attention in ("cudnn", "tpu"):
            obstacle = kernel_obstacle(
                self.attention, self.dtype, self.head_size, self.attention_dropout > 0
            )
            if self.attention_fusion == "decoder_states":
                obstacle = (
                    "weighs no layers of the encoder, as attention_fusion = 'decoder_states' does: "
                    "set attention to 'auto', which takes it for self-attention alone"
                )
            if obstacle:
                raise UserError("attention", self.attention, obstacle)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and logs."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, field: str) -> ModelConfig:
        """The configuration that `to_dict` gave; `field` says where it was found.

        A field that came later has a default, which computes what was computed before it came.

        Raises:
          UserError: another version of this package wrote it, with fields that are not known here,
            or without one that has no default.
        """
        fields = dataclasses.fields(cls)
        needed = {each.name for each in fields if each.default is dataclasses.MISSING}
        unknown = values.keys() - {each.name for each in fields}
        if differing := sorted(unknown | needed - values.keys()):
            raise UserError(
                field, differing, "another version wrote this model; these fields are not in both"
            )
        return cls(**values)


def kernel_obstacle(kernel: str, dtype: str, head_size: int, dropping: bool) -> str | None:
    """Why 'cudnn' or 'tpu' cannot compute such an attention exactly, and what to do; None: it can.

    Args:
      kernel: 'cudnn' or 'tpu'.
      dtype: of queries, keys and values.
      head_size: width of a head.
      dropping: weights are dropped. cuDNN's dropout has its seed in the compiled program, so that
        every step would drop the same ones; the TPU kernel has none.
    """
    if dropping:
        return (
            "does not drop attention weights, only 'xla' does so exactly: set attention_dropout "
            "to 0 or attention to 'xla'"
        )
    types = ("bfloat16",) if kernel == "cudnn" else ("bfloat16", "float32")
    if dtype not in types:
        return f"takes {' or '.join(types)}, not {dtype}: set dtype, or attention to 'xla'"
    if kernel == "cudnn" and (head_size % 8 or head_size > 128):
        return (
            f"takes heads of a multiple of 8 up to 128, not of {head_size}: set num_heads, or "
            "attention to 'xla'"
        )
    return None


def load(
    path: str, *, size: str, vocab_size: int, overrides: Mapping[str, Any] | None = None
) -> ModelConfig:
    """Reads `get_config(size)` from a configuration file and completes it.

    Args:
      path: a Python file that defines `get_config(size) -> ml_collections.ConfigDict`.
      size: passed to `get_config`, e.g. 'full' or 'mini'.
      vocab_size: number of rows of the token table.
      overrides: fields to replace, by name.

    Raises:
      UserError: the file does not exist, defines no such size, lacks a field or has an unknown one.
    """
    file = shipped(path)
    if not file.is_file():
        known = ", ".join(sorted(f"configs/{p.name}" for p in (CLONE / "configs").glob("*.py")))
        raise UserError("Stage.model", path, f"no such file; here are: {known or 'none'}")
    spec = importlib.util.spec_from_file_location(f"model_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError("Stage.model", path, "is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Configuration files may share a base: `from configs import base` works from any folder.
    sys.path.insert(0, str(file.resolve().parent.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError("Stage.model", path, f"cannot be run: {error}") from error
    finally:
        sys.path.pop(0)
    if not hasattr(module, "get_config"):
        raise UserError("Stage.model", path, "defines no get_config(size)")
    try:
        values = module.get_config(size).to_dict()
    except ValueError as error:
        raise UserError("Stage.size", size, f"{path}: {error}") from error
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    values |= {"vocab_size": vocab_size} | _known(overrides or {})
    if unknown := sorted(values.keys() - fields):
        raise UserError(path, unknown, f"not fields of a model; fields are {sorted(fields)}")
    if missing := sorted(fields - values.keys()):
        raise UserError(path, missing, "these fields are missing")
    return ModelConfig(**values)


def override(config: ModelConfig, values: Mapping[str, Any]) -> ModelConfig:
    """The configuration with some fields replaced.

    Raises:
      UserError: there is no such field.
    """
    return dataclasses.replace(config, **_known(values))


def _known(overrides: Mapping[str, Any]) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    for name in overrides:
        if name not in fields:
            raise UserError("Stage.model_overrides", name, f"fields are {sorted(fields)}")
    return dict(overrides)
