"""The outputs kept for tests without torch are what transformers computes.

`python -m tests.hf.golden_test` writes them again.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conversion import golden

ENCODER = {
    "vocab_size": 30,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
SEQ2SEQ = {
    "vocab_size": 30,
    "d_model": 8,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 10,
}
CLASSES: dict[str, dict[str, Any]] = {
    "RobertaPreLayerNormForMaskedLM": ENCODER,
    "XLMRobertaForMaskedLM": ENCODER,
    "MBartForConditionalGeneration": SEQ2SEQ,
    "BartForConditionalGeneration": SEQ2SEQ,
}
CASES = [(name, tied) for name in CLASSES for tied in (True, False)]


def outputs(name: str, tied: bool) -> dict[str, Any]:
    """Configuration, shapes of the tensors of a file, and logits."""
    cls = getattr(transformers, name)
    values = CLASSES[name] | {"tie_word_embeddings": tied}
    model = cls(cls.config_class(**values)).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if tied:
        shapes = {k: v for k, v in shapes.items() if k not in model._tied_weights_keys}
    weights = {key: torch.from_numpy(golden.tensor(key, each)) for key, each in shapes.items()}
    result = model.load_state_dict(weights, strict=not tied)
    assert not result.unexpected_keys
    model.tie_weights()
    ids = torch.from_numpy(golden.SOURCE).long()
    arguments = {"input_ids": ids, "attention_mask": (ids != golden.PAD).long()}
    if CLASSES[name] is SEQ2SEQ:
        arguments["decoder_input_ids"] = torch.from_numpy(golden.TARGET).long()
    with torch.inference_mode():
        logits = model(**arguments).logits.numpy()
    return {
        "config": values | {"model_type": model.config.model_type, "architectures": [name]},
        "tensors": {key: list(each) for key, each in shapes.items()},
        "logits": [[round(float(value), 5) for value in row] for row in golden.kept(logits)],
    }


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_transformers_computes_what_was_kept(name, tied):
    kept = json.loads(golden.FILE.read_text("utf-8"))[f"{name} {'tied' if tied else 'untied'}"]
    now = outputs(name, tied)
    np.testing.assert_allclose(now.pop("logits"), kept.pop("logits"), atol=2e-5)
    assert now == kept


if __name__ == "__main__":
    found = {f"{name} {'tied' if tied else 'untied'}": outputs(name, tied) for name, tied in CASES}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in found.items())
    golden.FILE.write_text(f"{{\n{lines}\n}}\n", "utf-8")
