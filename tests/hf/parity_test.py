"""The comparison passes what is equal, and names what is not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy

from seqrecipes import models
from seqrecipes.conversion.hf import parity
from seqrecipes.conversion.hf.parity_report import Comparison, Generated, Parity, Tokenized
from seqrecipes.errors import UserError
from seqrecipes.models import ModelConfig
from tests.hf import harness

CASES: dict[str, Any] = {
    "roberta-prelayernorm": {"decoder_layers": 0},
    "xlm-roberta": {"decoder_layers": 0, "norm": "post", "tie_head": False},
    "mbart": {"tie_head": False},
    "bart": {"norm": "post"},
    "seqrecipes": {"attention_fusion": "per_layer", "tie_head": False, "dtype": "bfloat16"},
}


class Case(NamedTuple):
    config: ModelConfig
    params: dict[str, Any]
    folder: Path
    vocabulary: bytes

    def verify(self, *, trust: bool = False, text: bool = True) -> Parity:
        return parity.verify(
            self.folder,
            models.build(self.config),
            self.params,
            vocabulary=self.vocabulary if text else None,
            texts=harness.TEXTS,
            trust=trust,
        )


def make(folder: Path, vocabulary: bytes, *, headless: bool = False, **overrides: Any) -> Case:
    config = harness.config(vocabulary, **overrides)
    params = harness.exported(folder, config, vocabulary, headless=headless)
    return Case(config, params, folder, vocabulary)


@pytest.fixture(scope="module")
def encoder(vocabulary, tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("encoder") / "model"
    return make(folder, vocabulary, decoder_layers=0, tie_head=False)


@pytest.fixture
def damaged(encoder, tmp_path) -> Case:
    """A copy of an encoder's export, to damage."""
    shutil.copytree(encoder.folder, tmp_path / "copy")
    return encoder._replace(folder=tmp_path / "copy")


def edit_config(case: Case, **values: Any) -> None:
    file = case.folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def edit_weights(case: Case, change: Any) -> None:
    file = case.folder / "model.safetensors"
    arrays = safetensors.numpy.load_file(file)
    change(arrays)
    safetensors.numpy.save_file(arrays, file, metadata={"format": "pt"})


@pytest.mark.parametrize(("kind", "overrides"), CASES.items(), ids=CASES.keys())
def test_an_export_passes(kind, overrides, vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary, **overrides)
    assert json.loads((case.folder / "config.json").read_text())["model_type"] == kind
    found = case.verify(trust=kind == "seqrecipes")
    assert found.failures == []
    assert found.passed
    assert found.compared == "logits"
    assert [each.name for each in found.comparisons] == [
        "random tokens",
        *(f"text: {language}" for language in harness.TEXTS),
    ]
    assert all(0 < each.absolute < 2e-5 for each in found.comparisons)
    assert found.tokenizer is not None
    assert found.tokenizer == Tokenized(5, 0, found.tokenizer.tokens, 0)
    assert found.tokenizer.tokens > 25
    expected = [] if not case.config.decoder_layers else ["greedy search", "3 beams"]
    assert [made.method for made in found.generated] == expected
    assert all(made.sentences == 3 for made in found.generated)


def test_an_encoder_out_of_a_seq2seq_model_is_compared_by_its_states(vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary, headless=True, attention_fusion="shared")
    found = case.verify()
    assert found.passed
    assert found.compared == "hidden states"
    assert found.model_class == "RobertaPreLayerNormModel"
    assert found.generated == ()
    edit_weights(case, lambda arrays: arrays["LayerNorm.bias"].__iadd__(1e-3))
    assert any("hidden states of text: hi differ by 1.0e-03" in x for x in case.verify().failures)


def test_without_a_vocabulary_random_tokens_are_compared(encoder):
    found = encoder.verify(text=False)
    assert found.passed
    assert [each.name for each in found.comparisons] == ["random tokens"]
    assert found.tokenizer is None


def test_every_position_is_compared(encoder):
    """Random tokens fill the longest sequence, so that each row of the position table counts."""
    last = encoder.config.max_positions - 1
    params = {**encoder.params, "encoder": dict(encoder.params["encoder"])}
    embedding = dict(params["encoder"]["embedding"])
    table = embedding["position"]["embedding"].copy()
    table[last] += np.random.default_rng(0).standard_normal(table.shape[1])
    embedding["position"] = {"embedding": table}
    params["encoder"]["embedding"] = embedding
    found = encoder._replace(params=params).verify()
    assert [each.name for each in found.comparisons if each.absolute > 1e-4] == ["random tokens"]


def test_checksums_are_those_of_the_bytes_in_the_file(encoder):
    file = encoder.folder / "model.safetensors"
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    del header["__metadata__"]
    assert encoder.verify(text=False).checksums == {
        name: {
            "shape": each["shape"],
            "sha256": hashlib.sha256(
                data[start + each["data_offsets"][0] : start + each["data_offsets"][1]]
            ).hexdigest(),
        }
        for name, each in header.items()
    }


def test_one_changed_weight_is_found(damaged):
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["roberta_prelayernorm.encoder.layer.1.output.dense.weight"][3, 4] += 0.1

    edit_weights(damaged, change)
    found = damaged.verify()
    assert not found.passed
    assert found.problems == ()  # transformers has what the files have
    assert "logits of random tokens differ by" in found.failures[0]
    assert "FAILED: logits of text: de differ by" in str(found)


@pytest.mark.parametrize("row", [0, 700, 1990])
def test_a_changed_row_that_no_example_reads_is_found(row, damaged):
    name = "roberta_prelayernorm.embeddings.word_embeddings"

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays[f"{name}.weight"][row] += 0.1

    edit_weights(damaged, change)
    assert f"{name} differs by 1.0e-01 in the rows from 0 on" in damaged.verify().problems


def test_another_epsilon_is_found(damaged):
    edit_config(damaged, layer_norm_eps=1e-12)
    assert any("logits of random tokens" in line for line in damaged.verify().failures)


def test_two_tables_that_the_configuration_ties_are_found(damaged):
    edit_config(damaged, tie_word_embeddings=True)
    assert any(
        "tie_word_embeddings" in line or "lm_head" in line for line in damaged.verify().failures
    )


def test_a_tied_head_that_the_configuration_unties_is_found(vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary, decoder_layers=0)
    edit_config(case, tie_word_embeddings=False)
    assert any("lm_head.decoder.weight is not in the files" in x for x in case.verify().failures)


def test_a_missing_and_an_unknown_tensor_are_found(damaged):
    missing = "roberta_prelayernorm.encoder.layer.0.output.dense.weight"

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["extra.weight"] = arrays.pop(missing)

    edit_weights(damaged, change)
    problems = damaged.verify().problems
    assert f"{missing} is not in the files, so that transformers makes it up" in problems
    assert "extra.weight of the files is not read by transformers" in problems


def test_a_value_that_is_no_number_fails(damaged):
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["roberta_prelayernorm.LayerNorm.bias"][0] = np.nan

    edit_weights(damaged, change)
    found = damaged.verify()
    assert found.problems == ()
    assert all(math.isnan(each.absolute) for each in found.comparisons)
    assert not found.passed


def test_another_tokenizer_is_found(damaged):
    file = damaged.folder / "tokenizer.json"
    values = json.loads(file.read_text("utf-8"))
    vocab = values["model"]["vocab"]
    for index in range(4, len(vocab)):
        if len(vocab[index][0]) > 1:
            vocab[index][1] = -100.0
    file.write_text(json.dumps(values), "utf-8")
    found = damaged.verify()
    assert any(line == "the tokenizer gives other ids for 5 of 5 lines" for line in found.failures)


def test_other_sentences_are_found(vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary, tie_head=False)

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["lm_head.weight"] += np.random.default_rng(0).standard_normal(
            arrays["lm_head.weight"].shape, np.float32
        )

    edit_weights(case, change)
    found = case.verify()
    assert sum(made.differing for made in found.generated) > 3
    assert any("sentences differ by greedy search" in line for line in found.failures)


def test_code_in_a_folder_runs_only_when_trusted(vocabulary, tmp_path):
    case = make(tmp_path / "model", vocabulary, attention_fusion="shared")
    (case.folder / "modeling_seqrecipes.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UserError, match="transformers does not open it"):
        case.verify(trust=False)


def test_a_folder_that_does_not_open_is_named(damaged):
    (damaged.folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="transformers does not open it"):
        damaged.verify()


def test_missing_packages_are_named(encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'seqrecipes\[hf\]'"):
        encoder.verify()


REPORT = Parity(
    model_class="SomeClass",
    versions={"transformers": "1", "torch": "2"},
    compared="logits",
    comparisons=(Comparison("random tokens", 1234, 3e-6, 4e-7), Comparison("text: de", 5, 0, 0)),
    tokenizer=Tokenized(10, 1, 5000, 5),
    generated=(Generated("greedy search", 3, 0),),
    checksums={"a": {"shape": [1], "sha256": "0"}},
    problems=(),
)


def test_the_report_is_json_and_a_table():
    assert REPORT.passed
    values = json.loads(json.dumps(REPORT.to_json()))
    assert values["passed"] is True
    assert values["failures"] == []
    assert values["comparisons"][0]["positions"] == 1234
    assert str(REPORT).splitlines() == [
        "SomeClass in float32 (transformers 1, torch 2)",
        "logits         positions  absolute  relative",
        "random tokens      1,234   3.0e-06   4.0e-07",
        "text: de               5   0.0e+00   0.0e+00",
        "weights: 1 tensors, equal to the bit",
        "tokenizer: 1 of 10 lines have other ids",
        "generation, greedy search: 3 of 3 sentences alike",
        "passed",
    ]


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"comparisons": (Comparison("x", 1, 1.1e-4, 0),)}, "logits of x differ by 1.1e-04"),
        ({"comparisons": (Comparison("x", 1, math.nan, 0),)}, "logits of x differ by nan"),
        ({"tokenizer": Tokenized(10, 1, 5000, 6)}, "other ids for 1 of 10 lines"),
        ({"generated": (Generated("3 beams", 3, 1),)}, "1 of 3 sentences differ by 3 beams"),
        ({"problems": ("a is wrong",)}, "a is wrong"),
    ],
)
def test_each_finding_alone_fails(changes, failure):
    found = dataclasses.replace(REPORT, **changes)
    assert not found.passed
    assert len(found.failures) == 1
    assert failure in found.failures[0]
    assert str(found).endswith(f"FAILED: {found.failures[0]}")
