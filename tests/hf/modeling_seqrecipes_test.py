"""Our own class for transformers computes what our model does, and is a model like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors
import torch
import transformers

from seqrecipes import models
from seqrecipes.conversion.hf.config import MODELING_FILE
from seqrecipes.models import ModelConfig
from tests.hf import harness

CASES: dict[str, Any] = {
    "plain": {"embedding_norm": False},
    "epsilon": {"norm_epsilon": 1e-6, "norm": "post", "tie_head": False},
    "shared": {"attention_fusion": "shared", "norm": "post", "tie_head": False},
    "per_layer": {"attention_fusion": "per_layer"},
    "decoder_states": {"attention_fusion": "decoder_states"},
}


class Case(NamedTuple):
    config: ModelConfig
    params: dict[str, Any]
    folder: Path


def load(folder: Path) -> Any:
    return transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder, trust_remote_code=True, local_files_only=True
    )


@pytest.fixture(scope="module", params=CASES.values(), ids=list(CASES))
def case(request, vocabulary, tmp_path_factory) -> Case:
    config = harness.config(vocabulary, **request.param)
    folder = tmp_path_factory.mktemp("own") / "model"
    return Case(config, harness.exported(folder, config, vocabulary), folder)


@pytest.fixture
def model(case: Case) -> Any:
    return load(case.folder)


@torch.no_grad()
def test_logits_are_ours(case, model):
    source, target = harness.batch(case.config)
    found = model(
        input_ids=torch.tensor(source).long(), decoder_input_ids=torch.tensor(target).long()
    ).logits.numpy()
    ours: Any = models.build(case.config).apply(
        {"params": case.params},
        {"encoder_input_tokens": source, "decoder_input_tokens": target},
    )
    np.testing.assert_allclose(found, ours[..., : found.shape[-1]], rtol=0, atol=2e-5)


@torch.no_grad()
def test_memories_are_layers_or_softmax_mixtures_of_them(case, model):
    ids = torch.tensor(harness.batch(case.config)[0]).long()
    output = model.get_encoder()(ids, output_hidden_states=True)
    fusion = case.config.attention_fusion
    if fusion == "none":
        assert model.model.encoder.fusion_query is None
        assert torch.equal(output.memory[:, 0], output.last_hidden_state)
        return
    # Of the states, the last one is normalised already.
    norm = model.model.encoder.layer_norm
    layers = [*map(norm, output.hidden_states[1:-1]), output.last_hidden_state]
    if fusion == "decoder_states":
        assert model.model.encoder.fusion_query is None
        torch.testing.assert_close(output.memory, torch.stack(layers, dim=1), rtol=0, atol=0)
        return
    states_LxBxSxD = np.stack([layer.numpy() for layer in layers]).astype(np.float64)
    queries = model.model.encoder.fusion_query.numpy().astype(np.float64)
    assert len(queries) == (1 if fusion == "shared" else case.config.decoder_layers)
    for i, query_D in enumerate(queries):
        exponentials = np.exp(states_LxBxSxD @ query_D / np.sqrt(case.config.hidden_size))
        weights_LxBxS = exponentials / exponentials.sum(axis=0)
        expected = (weights_LxBxS[..., None] * states_LxBxSxD).sum(axis=0)
        np.testing.assert_allclose(output.memory[:, i].numpy(), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing_and_is_found_without_a_mask(case, model):
    source, target = (torch.tensor(x).long() for x in harness.batch(case.config))
    whole = model(input_ids=source, decoder_input_ids=target).logits
    masked = model(
        input_ids=source, attention_mask=(source != harness.PAD).long(), decoder_input_ids=target
    ).logits
    assert torch.equal(whole, masked)
    for row, ids in enumerate(source):
        alone = model(
            input_ids=ids[ids != harness.PAD][None], decoder_input_ids=target[row][None]
        ).logits
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=2e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_the_same_with_every_cache(case, model, beams):
    ids = torch.tensor(harness.batch(case.config)[0]).long()
    options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 12}
    plain = model.generate(ids, use_cache=False, **options)
    assert plain.shape[1] > 2
    assert torch.equal(model.generate(ids, **options), plain)
    assert torch.equal(model.generate(ids, cache_implementation="static", **options), plain)


@torch.no_grad()
def test_a_beam_search_of_one_row_is_that_of_the_row_in_a_batch(case, model):
    ids = torch.tensor(harness.batch(case.config)[0]).long()
    options = {"num_beams": 3, "do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8}
    together = model.generate(ids, **options)
    for row in range(len(ids)):
        alone = model.generate(ids[row : row + 1], **options)
        assert torch.equal(alone[0], together[row])


def test_the_loss_is_the_mean_of_what_the_labels_miss(case, model):
    source, labels = (torch.tensor(x).long() for x in harness.batch(case.config))
    labels[0, 3:] = -100
    with torch.no_grad():
        output = model(input_ids=source, labels=labels)
        # </s> first, then the labels but the last; what stands behind them does not matter.
        shifted = torch.cat([torch.full((len(labels), 1), 2), labels[:, :-1]], dim=1)
        logits = model(input_ids=source, decoder_input_ids=shifted.clamp(min=0)).logits
    logits, labels = logits.numpy().astype(np.float64), labels.numpy()
    surprise = [
        np.log(np.exp(logits[b, t]).sum()) - logits[b, t, labels[b, t]]
        for b, t in zip(*np.nonzero(labels != -100), strict=True)
    ]
    assert len(surprise) == labels.size - labels.shape[1] + 3
    np.testing.assert_allclose(output.loss.item(), np.mean(surprise), rtol=1e-5)


def test_every_parameter_has_a_gradient(model, case):
    source, labels = (torch.tensor(x).long() for x in harness.batch(case.config))
    model.train()
    model(input_ids=source, labels=labels).loss.backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    # A bias of keys shifts all scores of a query alike.
    assert all(name.endswith("k_proj.bias") for name in without)


@torch.no_grad()
@pytest.mark.parametrize("memories", [1, 3])
def test_cross_attention_drops_source_tokens_in_training_alone(vocabulary, tmp_path, memories):
    fusion = {1: "none", 3: "decoder_states"}[memories]
    config = harness.config(
        vocabulary, attention_fusion=fusion, norm_epsilon=1e-6, attention_dropout=0.5
    )
    harness.exported(tmp_path / "model", config, vocabulary)
    attend = load(tmp_path / "model").model.decoder.layers[0].encoder_attn
    x, memory = torch.randn(2, 5, 32), torch.randn(2, memories, 7, 32)

    def read() -> torch.Tensor:
        return attend(x, *attend.keys_and_values(memory), None)[0]

    assert torch.equal(read(), read())
    attend.train()
    assert not torch.equal(read(), read())


@torch.no_grad()
def test_dropout_is_for_training_alone(vocabulary, tmp_path):
    config = harness.config(vocabulary, attention_fusion="shared", dropout=0.5)
    harness.exported(tmp_path / "model", config, vocabulary)
    model = load(tmp_path / "model")
    source, target = (torch.tensor(x).long() for x in harness.batch(config))

    def logits() -> torch.Tensor:
        return model(input_ids=source, decoder_input_ids=target).logits

    assert torch.equal(logits(), logits())
    model.train()
    assert not torch.equal(logits(), logits())


def test_saved_again_it_is_the_same_model(case, model, tmp_path):
    model.save_pretrained(tmp_path)
    assert (tmp_path / MODELING_FILE).is_file()
    before, after = (
        set(safetensors.safe_open(folder / "model.safetensors", "numpy").keys())
        for folder in (case.folder, tmp_path)
    )
    assert before == after
    assert ("lm_head.weight" in after) is not case.config.tie_head
    again = load(tmp_path)
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    assert (again.lm_head.weight is again.model.shared.weight) is case.config.tie_head
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@torch.no_grad()
def test_attention_is_computed_as_asked(case, model, monkeypatch):
    source, target = (torch.tensor(x).long() for x in harness.batch(case.config))
    usual = model(source, decoder_input_ids=target).logits
    monkeypatch.delattr(torch.nn.functional, "scaled_dot_product_attention")
    with pytest.raises(AttributeError, match="scaled_dot_product_attention"):
        model(source, decoder_input_ids=target)
    model.set_attn_implementation("eager")
    eager = model(source, decoder_input_ids=target).logits
    torch.testing.assert_close(eager, usual, rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_body_alone_is_saved_and_opened(case, model, tmp_path):
    model.model.save_pretrained(tmp_path)
    alone = transformers.AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    source, target = (torch.tensor(x).long() for x in harness.batch(case.config))
    states = alone(source, decoder_input_ids=target)[0]
    torch.testing.assert_close(model.lm_head(states), model(source, None, target).logits)


@torch.no_grad()
def test_token_by_token_with_a_cache_is_all_at_once(case, model):
    """With padding at the left of the target, which its mask has to hide."""
    source, target = (torch.tensor(x).long() for x in harness.batch(case.config))
    mask = torch.ones_like(target)
    mask[1, :2] = 0
    target[1, :2] = harness.PAD
    whole = model(source, decoder_input_ids=target, decoder_attention_mask=mask).logits
    other = target.clone()
    other[1, :2] = 7
    masked = model(source, decoder_input_ids=other, decoder_attention_mask=mask).logits
    torch.testing.assert_close(masked[1, 2:], whole[1, 2:], rtol=0, atol=2e-5)
    cache = None
    for step in range(target.shape[1]):
        output = model(
            source,
            decoder_input_ids=target[:, step : step + 1],
            decoder_attention_mask=mask[:, : step + 1],
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        torch.testing.assert_close(output.logits[0, 0], whole[0, step], rtol=0, atol=2e-5)
        if step > 1:
            torch.testing.assert_close(output.logits[1, 0], whole[1, step], rtol=0, atol=2e-5)


def test_what_the_source_became_is_needed_whole(case, model):
    source, target = (torch.tensor(x).long() for x in harness.batch(case.config))
    encoded = model.get_encoder()(source, return_dict=False)
    whole = model(source, decoder_input_ids=target).logits
    again = model(
        attention_mask=(source != harness.PAD), decoder_input_ids=target, encoder_outputs=encoded
    )
    assert torch.equal(again.logits, whole)
    states = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=encoded[0])
    with pytest.raises(ValueError, match="encoder_outputs have no memory"):
        model(decoder_input_ids=target, encoder_outputs=states)


def test_its_vocabulary_grows_on_both_sides(case, model):
    rows = model.config.vocab_size
    model.resize_token_embeddings(rows + 3)
    assert model.lm_head.weight.shape == model.model.shared.weight.shape
    assert len(model.lm_head.weight) == model.config.vocab_size == rows + 3
    assert (model.lm_head.weight is model.model.shared.weight) is case.config.tie_head


def test_a_new_model_mixes_its_layers_evenly():
    from seqrecipes.conversion.hf.config import OWN, code_files

    module = transformers.dynamic_module_utils.get_class_from_dynamic_module(
        "modeling_seqrecipes.SeqRecipesForConditionalGeneration", str(code_files(OWN)[0].parent)
    )
    shape = {"vocab_size": 30, "d_model": 8, "ffn_dim": 8, "attention_heads": 2}
    depth = {"encoder_layers": 2, "decoder_layers": 3, "attention_fusion": "per_layer"}
    model = module(module.config_class(**shape, **depth, init_std=0.5))
    assert torch.equal(model.model.encoder.fusion_query, torch.zeros(3, 8))
    assert model.model.encoder.layers[0].fc1.weight.std() > 0.3
    assert not model.model.encoder.layers[0].fc1.bias.any()


@pytest.mark.parametrize("field", ["norm", "attention_fusion"])
def test_a_setting_that_does_not_exist_is_refused(case, field):
    config = transformers.AutoConfig.from_pretrained(case.folder, trust_remote_code=True)
    setattr(config, field, "both")
    with pytest.raises(KeyError, match="both"):
        transformers.AutoModelForSeq2SeqLM.from_config(config, trust_remote_code=True)
