"""transformers' own tests of models, unmodified, against the classes that our exports open as.

They are in the library's source package alone: `make test-hf` fetches it, or name a copy,

    SEQRECIPES_TRANSFORMERS_SOURCE=PATH python -m pytest tests/hf/library_model_test.py

The package leaves out two of the files that these tests build on, those of generation and of
exporters; empty classes stand in for theirs.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from seqrecipes.conversion.hf import config as hf_config
from seqrecipes.conversion.hf import labelling
from seqrecipes.models import Labeller
from seqrecipes.models.labeller import Head
from tests.models import tiny

_PACKAGE = "transformers_tests"  # not `tests`, which is ours
_LEFT_OUT = {
    "exporters.test_export": "ExportTesterMixin",
    "generation.test_utils": "GenerationTesterMixin",
}
BATCH, LENGTH, VOCABULARY, LAYERS = 3, 7, 60, 2
CONFIG = tiny.config(
    vocab_size=VOCABULARY,
    encoder_layers=LAYERS,
    decoder_layers=LAYERS,
    max_positions=40,
    dropout=0.1,
    attention_dropout=0.1,
)


def _library_tests() -> Any:
    """The module of the library's tests, out of its source."""
    folder = Path(os.environ["SEQRECIPES_TRANSFORMERS_SOURCE"]) / "tests"
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[_PACKAGE] = package
    for name, left_out in _LEFT_OUT.items():
        if not (folder / f"{name.replace('.', '/')}.py").is_file():
            for part in (name.partition(".")[0], name):
                module = types.ModuleType(f"{_PACKAGE}.{part}")
                module.__path__ = []
                sys.modules[module.__name__] = module
            setattr(module, left_out, type(left_out, (), {}))
    found: Any = importlib.import_module(f"{_PACKAGE}.test_modeling_common")
    # These tests choose labels, and whether they apply, by the names of the library's classes.
    for task, model_type, name in _NAMES:
        table = f"{task}_MAPPING_NAMES"
        setattr(found, table, getattr(found, table) | {model_type: name})
    return found


_NAMES = (
    ("MODEL", hf_config.OWN, "SeqRecipesModel"),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM", hf_config.OWN, "SeqRecipesForConditionalGeneration"),
    ("MODEL_FOR_SEQUENCE_CLASSIFICATION", "text", "SeqRecipesForSequenceClassification"),
    ("MODEL_FOR_TOKEN_CLASSIFICATION", "words", "SeqRecipesForTokenClassification"),
)
library = _library_tests()


def _classes(values: dict[str, Any], names: tuple[str, ...]) -> tuple[Any, ...]:
    """Our own configuration and models, loaded as `trust_remote_code` loads them."""
    module = values["auto_map"]["AutoConfig"].partition(".")[0]
    folder = str(hf_config.code_files(values["model_type"])[0].parent)
    load = transformers.dynamic_module_utils.get_class_from_dynamic_module
    return tuple(load(f"{module}.{name}", folder) for name in names)


class _Inputs:
    """What the tests ask of a model's configuration and inputs."""

    batch_size, seq_length, is_training = BATCH, LENGTH, True
    num_hidden_layers, num_attention_heads = LAYERS, CONFIG.num_heads
    hidden_size = CONFIG.hidden_size

    def __init__(self, config: Any):
        self._config = config

    def get_config(self) -> Any:
        return copy.deepcopy(self._config)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        names = ["input_ids", *(["decoder_input_ids"] if self._config.is_encoder_decoder else [])]
        inputs = {name: torch.randint(4, VOCABULARY, (BATCH, LENGTH)) for name in names}
        inputs["attention_mask"] = torch.ones(BATCH, LENGTH).long()
        return self.get_config(), inputs


class _Tests(library.ModelTesterMixin):
    """A model of ours."""

    def setUp(self) -> None:
        self.model_tester = _Inputs(self.config)


class _Seq2SeqTests(_Tests, library.GenerationTesterMixin):
    is_encoder_decoder = True


def _seq2seq(**fields: Any) -> tuple[Any, tuple[Any, ...]]:
    values = hf_config.to_hf(dataclasses.replace(CONFIG, **fields))
    names = "SeqRecipesConfig", "SeqRecipesModel", "SeqRecipesForConditionalGeneration"
    config, *models = _classes(values, names)
    return config(**values), tuple(models)


def _encoder() -> tuple[Any, tuple[Any, ...]]:
    values = hf_config.to_hf(dataclasses.replace(CONFIG, decoder_layers=0))
    config = transformers.AutoConfig.for_model(**values)
    names = "RobertaPreLayerNormModel", "RobertaPreLayerNormForMaskedLM"
    return config, tuple(getattr(transformers, name) for name in names)


class SharedFusionTest(_Seq2SeqTests, unittest.TestCase):
    config, all_model_classes = _seq2seq(attention_fusion="shared")


class LayerFusionTest(_Seq2SeqTests, unittest.TestCase):
    config, all_model_classes = _seq2seq(attention_fusion="per_layer", norm="post", tie_head=False)


class StateFusionTest(_Seq2SeqTests, unittest.TestCase):
    config, all_model_classes = _seq2seq(attention_fusion="decoder_states")


def _labeller(labels: labelling.Labels, name: str) -> tuple[Any, tuple[Any, ...]]:
    config = dataclasses.replace(CONFIG, decoder_layers=0)
    reads = {"label": "first", "words": "words"}
    heads = tuple(Head(each, len(names), (8,), reads[each]) for each, names in labels.items())
    values = labelling.values(
        Labeller(config, heads), labels, hf_config.to_hf(config, headless=True)
    )
    config_class, model = _classes(values, ("SeqRecipesLabellerConfig", name))
    return config_class(**values), (model,)


class TextLabellerTest(_Tests, unittest.TestCase):
    config, all_model_classes = _labeller({"label": "ab"}, "SeqRecipesForSequenceClassification")

    @classmethod
    def setUpClass(cls) -> None:
        """Lets the library open the class by itself, as one of its own, while these tests run."""
        super().setUpClass()
        config_class, (model_class,) = type(cls.config), cls.all_model_classes
        transformers.AutoConfig.register(hf_config.LABELLER, config_class)
        cls.addClassCleanup(CONFIG_MAPPING._extra_content.pop, hf_config.LABELLER)
        for auto in (transformers.AutoModel, transformers.AutoModelForSequenceClassification):
            auto.register(config_class, model_class)
            cls.addClassCleanup(auto._model_mapping._extra_content.pop, config_class)


class WordLabellerTest(_Tests, unittest.TestCase):
    config, all_model_classes = _labeller({"words": "abc"}, "SeqRecipesForTokenClassification")


class JointLabellerTest(_Tests, unittest.TestCase):
    config, all_model_classes = _labeller(
        {"label": "ab", "words": "abc"}, "SeqRecipesForJointLabelling"
    )

    def _prepare_for_class(
        self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False
    ) -> dict[str, Any]:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels:
            inputs["labels"] = torch.zeros(BATCH).long()
            inputs["word_labels"] = torch.zeros(BATCH, LENGTH).long()
        return inputs


class EncoderTest(_Tests, unittest.TestCase):
    config, all_model_classes = _encoder()
