"""Models of the real classes, random but for no zeros and ones, come in with all their states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from seqrecipes import models
from seqrecipes.conversion.hf import load, parity
from tests.conversion.harness import on_one_device
from tests.hf import harness

ENCODER = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 26,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
SEQ2SEQ = {
    "vocab_size": 60,
    "d_model": 32,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 24,
    "decoder_start_token_id": 2,
}
XLMR_BASE = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,  # of 12, which are alike
    "num_attention_heads": 12,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}
CASES: dict[str, Any] = {
    "roberta-prelayernorm": ("RobertaPreLayerNormForMaskedLM", {}),
    "roberta-prelayernorm untied": (
        "RobertaPreLayerNormForMaskedLM",
        {"tie_word_embeddings": False},
    ),
    "roberta-prelayernorm bare": ("RobertaPreLayerNormModel", {}),
    "roberta": ("RobertaForMaskedLM", {"layer_norm_eps": 1e-12}),
    "roberta untied": ("RobertaForMaskedLM", {"tie_word_embeddings": False}),
    "xlm-roberta": ("XLMRobertaForMaskedLM", {}),
    "xlm-roberta bare": ("XLMRobertaModel", {}),
    "xlm-roberta base": ("XLMRobertaForMaskedLM", XLMR_BASE),
    "mbart": ("MBartForConditionalGeneration", {}),
    "mbart untied": ("MBartForConditionalGeneration", {"tie_word_embeddings": False}),
    "mbart scaled": ("MBartForConditionalGeneration", {"scale_embedding": True}),
    "mbart bare": ("MBartModel", {}),
    "bart": ("BartForConditionalGeneration", {}),
    "bart untied": ("BartForConditionalGeneration", {"tie_word_embeddings": False}),
}


def random_model(name: str, overrides: dict[str, Any]) -> Any:
    """Freshly made, with noise on everything: biases are zeros and scales ones otherwise."""
    torch.manual_seed(0)
    cls = getattr(transformers, name)
    shape = SEQ2SEQ if "art" in name else ENCODER
    model = cls(cls.config_class(**shape | overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        if overrides.get("tie_word_embeddings") is False and shape is SEQ2SEQ:
            # What our models can be: one table for both inputs.
            for side in (model.model.encoder, model.model.decoder):
                side.embed_tokens.weight.copy_(model.model.shared.weight)
    return model


def their_states(model: Any, arguments: dict[str, torch.Tensor]) -> dict[str, list[np.ndarray]]:
    """{stack: embeddings, then every layer's output, after the last LayerNorm if pre-LN}."""
    base, same = model.base_model, torch.nn.Identity()
    output = base(**arguments, output_hidden_states=True)

    def collect(states: Any, last: torch.Tensor, norm: Any) -> list[np.ndarray]:
        return [x.numpy() for x in (states[0], *map(norm, states[1:-1]), last)]

    last = output.last_hidden_state
    if not model.config.is_encoder_decoder:
        return {"encoder": collect(output.hidden_states, last, getattr(base, "LayerNorm", same))}
    norms = (getattr(each, "layer_norm", same) for each in (base.encoder, base.decoder))
    return {
        "encoder": collect(
            output.encoder_hidden_states, output.encoder_last_hidden_state, next(norms)
        ),
        "decoder": collect(output.decoder_hidden_states, last, next(norms)),
    }


def batch(rows: int, vocab_size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Sources, the first as long as the position table, others padded at the right; targets."""
    rng = np.random.default_rng(0)
    source, target = rng.integers(4, vocab_size, (2, rows, width), dtype=np.int32)
    lengths = np.linspace(width, 1, rows).astype(int)
    return np.where(np.arange(width) < lengths[:, None], source, harness.PAD), target


@pytest.mark.parametrize(("name", "overrides"), CASES.values(), ids=CASES.keys())
def test_all_hidden_states_and_logits_are_theirs(name, overrides, tmp_path):
    theirs = random_model(name, overrides)
    theirs.save_pretrained(tmp_path)
    found = load.load(tmp_path, placement=on_one_device)
    config = found.config
    source, target = batch(3, config.vocab_size, min(config.max_positions, 64))
    arguments = {
        "input_ids": torch.tensor(source).long(),
        "attention_mask": torch.tensor(source != harness.PAD).long(),
    }
    if config.decoder_layers:
        arguments["decoder_input_ids"] = torch.tensor(target).long()
    with torch.no_grad():
        expected = their_states(theirs, arguments)
        output = theirs(**arguments)
    with jax.default_matmul_precision("highest"):
        ours = harness.states(
            config, found.params, source, target if config.decoder_layers else None
        )
        if "logits" in output:
            logits = models.build(config).apply(
                {"params": found.params},
                jnp.asarray(ours["decoder" if config.decoder_layers else "encoder"][-1]),
                method="logits",
            )
            expected["logits"], ours["logits"] = [output.logits.numpy()], [np.asarray(logits)]
    real = {"encoder": source != harness.PAD, "logits": source != harness.PAD}
    if config.decoder_layers:
        real |= {"decoder": np.ones_like(target, bool), "logits": np.ones_like(target, bool)}
    assert expected.keys() == ours.keys()
    for part, states in expected.items():
        assert len(states) == len(ours[part])
        for depth, (mine, other) in enumerate(zip(ours[part], states, strict=True)):
            chosen = real[part]
            np.testing.assert_allclose(
                mine[chosen], other[chosen], rtol=0, atol=3e-5, err_msg=f"{part} {depth}"
            )


@pytest.mark.parametrize("name", ["xlm-roberta", "mbart scaled", "bart untied", "mbart bare"])
def test_what_was_imported_passes_the_comparison(name, tmp_path):
    theirs = random_model(*CASES[name])
    theirs.save_pretrained(tmp_path)
    found = load.load(tmp_path, placement=on_one_device)
    result = parity.verify(
        tmp_path,
        models.build(found.config),
        found.params,
        vocabulary=None,
        texts={},
        trust=False,
    )
    assert result.failures == []


def test_a_pickled_file_of_tensors_comes_in(tmp_path: Path):
    theirs = random_model("XLMRobertaForMaskedLM", {})
    safe, pickled = tmp_path / "safe", tmp_path / "pickled"
    theirs.save_pretrained(safe)
    pickled.mkdir()
    (pickled / "config.json").write_bytes((safe / "config.json").read_bytes())
    torch.save(theirs.state_dict(), pickled / "pytorch_model.bin")
    one, other = (load.load(each, placement=on_one_device) for each in (safe, pickled))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_files_in_half_precision_come_in_as_they_are_read_there(tmp_path):
    random_model("BartForConditionalGeneration", {}).bfloat16().save_pretrained(tmp_path)
    found = load.load(tmp_path, placement=on_one_device)
    result = parity.verify(
        tmp_path, models.build(found.config), found.params, vocabulary=None, texts={}, trust=False
    )
    assert result.failures == []


def test_a_whole_vocabulary_as_published(tmp_path):
    """XLM-R's 250,002 pieces, more than one look at the tables compares."""
    shape = XLMR_BASE | {"hidden_size": 48, "intermediate_size": 64, "vocab_size": 250_002}
    theirs = random_model("XLMRobertaForMaskedLM", shape)
    theirs.save_pretrained(tmp_path)
    del theirs
    found = load.load(tmp_path, placement=on_one_device)
    result = parity.verify(
        tmp_path, models.build(found.config), found.params, vocabulary=None, texts={}, trust=False
    )
    assert result.failures == []
    assert result.comparisons[0].positions == 512 + 42 + 2
