"""What one does with an exported model: fill a mask, generate, fine-tune, save it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers

from seqrecipes import models, tree
from seqrecipes.conversion.hf import load
from seqrecipes.data import pieces
from seqrecipes.models import ModelConfig
from tests.conversion.harness import on_one_device
from tests.hf import harness

CASES: dict[str, Any] = {
    "encoder": {"decoder_layers": 0},
    "encoder untied": {"decoder_layers": 0, "norm": "post", "tie_head": False},
    "mbart": {},
    "mbart untied": {"tie_head": False},
    "bart": {"norm": "post"},
    "bart untied": {"norm": "post", "tie_head": False},
    "fused": {"attention_fusion": "per_layer"},
}
SENTENCES = ["Die Katze sitzt auf dem Dach.", "It rains.", "यह किताब बहुत अच्छी है।"]


class Case(NamedTuple):
    config: ModelConfig
    params: dict[str, Any]
    folder: Path

    @property
    def trust(self) -> bool:
        return self.config.attention_fusion != "none"


def make(folder: Path, vocabulary: bytes, *, headless: bool = False, **overrides: Any) -> Case:
    config = harness.config(vocabulary, **overrides)
    return Case(config, harness.exported(folder, config, vocabulary, headless=headless), folder)


def open_model(case: Case, **options: Any) -> Any:
    auto = (
        transformers.AutoModelForSeq2SeqLM
        if case.config.decoder_layers
        else transformers.AutoModelForMaskedLM
    )
    return auto.from_pretrained(case.folder, trust_remote_code=case.trust, **options)


def open_tokenizer(case: Case) -> Any:
    return transformers.AutoTokenizer.from_pretrained(case.folder, trust_remote_code=case.trust)


@pytest.mark.parametrize("name", ["encoder", "encoder untied"])
def test_the_pipeline_fills_a_mask_as_our_model_does(name, vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary, **CASES[name])
    fill = transformers.pipeline("fill-mask", model=str(case.folder))
    found = fill("Die Katze sitzt auf dem <mask>", top_k=4)
    model = pieces.parse(vocabulary, "test")
    ids = [0, *model.tokenizer.EncodeAsIds("Die Katze sitzt auf dem"), pieces.specials(model).mask]
    at = len(ids) - 1
    ids.append(2)
    batch = {"encoder_input_tokens": np.array([ids]), "masked_positions": np.array([[at]])}
    ours: Any = models.build(case.config).apply({"params": case.params}, batch)
    logits = np.asarray(ours[0, 0, : len(pieces.pieces(vocabulary))], np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum()
    best = np.argsort(-probabilities)[:4]
    assert [each["token"] for each in found] == best.tolist()
    np.testing.assert_allclose([each["score"] for each in found], probabilities[best], rtol=1e-3)


@pytest.mark.parametrize("name", [name for name in CASES if "encoder" not in name])
def test_generate_with_beams_ends_within_what_the_folder_says(name, vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary, **CASES[name])
    tokenizer, model = open_tokenizer(case), open_model(case)
    found = model.generate(
        **tokenizer(SENTENCES, padding=True, return_tensors="pt"),
        num_beams=3,
        num_return_sequences=2,
    )
    assert found.shape[0] == 2 * len(SENTENCES)
    assert found.shape[1] <= case.config.max_positions + 1
    assert (found[:, 0] == 2).all()  # </s> starts what is generated
    assert all(isinstance(text, str) for text in tokenizer.batch_decode(found))


def step(model: Any, arguments: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The loss before and after an update; without dropout, so that they compare."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    before = model(**arguments).loss
    before.backward()
    optimizer.step()
    with torch.no_grad():
        return before.item(), model(**arguments).loss.item()


@pytest.mark.parametrize("headless", [True, False])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("task", ["TokenClassification", "SequenceClassification"])
def test_an_encoder_is_fine_tuned(task, norm, headless, vocabulary, tmp_path):
    overrides = {"decoder_layers": 2 * headless, "norm": norm}
    case = make(tmp_path / "model", vocabulary, headless=headless, **overrides)
    tokenizer = open_tokenizer(case)
    auto = getattr(transformers, f"AutoModelFor{task}")
    model, info = auto.from_pretrained(case.folder, num_labels=3, output_loading_info=True)
    assert all(name.startswith("classifier.") for name in info["missing_keys"])
    inputs = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    labels = torch.tensor([0, 1, 2])
    if task == "TokenClassification":
        labels = inputs["input_ids"] % 3
        labels[inputs["attention_mask"] == 0] = -100
    before, after = step(model, {**inputs, "labels": labels})
    assert after < before


@pytest.mark.parametrize("name", [name for name in CASES if "encoder" not in name])
def test_a_seq2seq_model_is_fine_tuned(name, vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary, **CASES[name])
    tokenizer, model = open_tokenizer(case), open_model(case)
    collate = transformers.DataCollatorForSeq2Seq(tokenizer, model=model)
    inputs = collate(
        [
            {"input_ids": tokenizer(text).input_ids, "labels": tokenizer(text).input_ids[1:]}
            for text in SENTENCES
        ]
    )
    assert {"decoder_input_ids", "labels", "attention_mask", "input_ids"} <= set(inputs)
    before, after = step(model, dict(inputs))
    assert after < before


@pytest.mark.parametrize(("name", "overrides"), CASES.items(), ids=CASES.keys())
def test_saved_again_it_comes_back_bit_for_bit(name, overrides, vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary, **overrides)
    open_model(case).save_pretrained(tmp_path / "again")
    found = load.load(tmp_path / "again", placement=on_one_device)
    rows = len(pieces.pieces(vocabulary))
    assert found.config.to_dict() == case.config.to_dict() | {"vocab_size": rows}
    assert found.notes == ()
    expected, params = tree.flatten(case.params), tree.flatten(found.params)
    assert expected.keys() == params.keys()
    for path, leaf in expected.items():
        if len(leaf) == case.config.vocab_size:
            leaf = leaf[:rows]
        np.testing.assert_array_equal(np.asarray(params[path]), leaf, err_msg=path)


def test_heads_stay_tied_or_untied_while_they_are_trained(vocabulary, tmp_path):
    for tie_head in (True, False):
        case = make(tmp_path / f"{tie_head}", vocabulary, tie_head=tie_head)
        model = open_model(case)
        ids = torch.tensor([[0, 5, 6, 2]])
        step(model, {"input_ids": ids, "labels": ids})
        head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        assert torch.equal(head, table) is tie_head


def test_generation_settings_are_in_the_folder(vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary)
    values = json.loads((case.folder / "generation_config.json").read_text())
    assert values["decoder_start_token_id"] == values["eos_token_id"] == 2
    assert open_model(case).generation_config.max_length == case.config.max_positions + 1
