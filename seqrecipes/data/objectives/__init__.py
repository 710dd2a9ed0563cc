"""Denoising objectives by name, with the settings of the papers."""

from seqrecipes.data.objectives.base import Objective
from seqrecipes.data.objectives.corruption import SpanCorruption, TranslationSpanCorruption
from seqrecipes.data.objectives.denoising import SpanDenoise
from seqrecipes.data.objectives.mlm import Mlm, PairMlm, Tlm

OBJECTIVES: dict[str, Objective] = {
    "mlm": Mlm(),
    "span_drop": SpanDenoise("drop"),
    "span_mask": SpanDenoise("mask"),
    "span_corruption": SpanCorruption(),
    "translation_span_corruption": TranslationSpanCorruption(),
    "tlm": Tlm(),
    "adjacent_mlm": PairMlm("adjacent", rate=0.15),
    "translation_mlm": PairMlm("translations", rate=0.25),
}
