"""The model card: what an exported model is, how it was trained and used, what was checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from seqrecipes import markdown
from seqrecipes.conversion.hf import config as hf_config
from seqrecipes.conversion.hf import labelling
from seqrecipes.models import ModelConfig

_READS = {"label": "the text", "words": "words"}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of training, up to the checkpoint.

    Attributes:
      name: of the stage.
      objective: what it was trained on.
      steps: updates made.
      tokens: positions of original text seen.
      training_units: compute of the stage alone (Soltan et al. 2023, appendix D).
      phases: updates of each phase, and what was frozen in it.
    """

    name: str
    objective: str
    steps: int
    tokens: int
    training_units: float
    phases: Sequence[tuple[int, Sequence[str]]]


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What a model was fine-tuned on, and how well it did.

    Attributes:
      set: the labelled set.
      language: trained and selected on.
      seed: of the run.
      learning_rate: the peak.
      labels: {head: labels}; none for generation.
      scores: {language: {metric: percent}} of the test split; empty where there are none.
    """

    set: str
    language: str
    seed: int
    learning_rate: float
    labels: labelling.Labels
    scores: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a card says of a model beside its configuration.

    Attributes:
      name: the heading.
      parameters: number of them, a tied head counted once.
      pieces: rows of the vocabulary.
      languages: of the text.
      corpus: name and fingerprint of the text.
      stages: in order; empty where the checkpoint does not say.
      origin: where the first parameters came from, if not from these stages.
      tuned: of a fine-tuned model.
      parity: lines of the comparison with transformers; empty if it was not made.
    """

    name: str
    parameters: int
    pieces: int
    languages: Sequence[str] = ()
    corpus: str = ""
    stages: Sequence[Stage] = ()
    origin: str = ""
    tuned: Tuned | None = None
    parity: Sequence[str] = ()


def card(config: ModelConfig, facts: Facts, *, headless: bool) -> str:
    """The text of the card, in Markdown under a head of YAML."""
    labels = facts.tuned.labels if facts.tuned and not headless else {}
    parts = [
        _front(config, facts, headless, labels),
        f"# {facts.name}",
        _what(config, facts, headless, labels),
    ]
    parts += ["## Use", _use_labels(labels) if labels else _use(config, headless)]
    if facts.stages or facts.origin:
        parts += ["## Training", _training(facts)]
    if facts.tuned:
        parts += ["## Fine-tuning", _tuning(facts.tuned, labels)]
    checked = "\n".join(f"    {line}" for line in facts.parity)
    parts += [
        "## Parity with the original",
        checked or "Not checked. `python -m seqrecipes.convert --to=hf --verify` does.",
    ]
    return "\n\n".join(parts) + "\n"


def _front(config: ModelConfig, facts: Facts, headless: bool, labels: labelling.Labels) -> str:
    if labels:
        pipeline = labelling.pipeline(labels)
    elif config.decoder_layers:
        pipeline = "text2text-generation"
    else:
        pipeline = "feature-extraction" if headless else "fill-mask"
    lines = ["---", "library_name: transformers"]
    if pipeline:
        lines.append(f"pipeline_tag: {pipeline}")
    if facts.languages:
        lines += ["language:", *(f"- {language}" for language in facts.languages)]
    return "\n".join([*lines, "tags:", "- seqrecipes", "---"])


def _what(config: ModelConfig, facts: Facts, headless: bool, labels: labelling.Labels) -> str:
    depth = f"{config.encoder_layers} encoder"
    if config.decoder_layers:
        kind, depth = "sequence-to-sequence model", f"{depth} and {config.decoder_layers} decoder"
    else:
        kind = "encoder" if headless or labels else "masked language model"
    fusion = {
        "none": "",
        "shared": ", attention over all encoder layers by one query",
        "per_layer": ", attention over all encoder layers by a query for each decoder layer",
        "decoder_states": ", cross-attention to all encoder layers, weighed by its own queries",
    }[config.attention_fusion]
    if labels:
        each = (f"{len(names)} labels of {_READS[name]}" for name, names in labels.items())
        head = f", with a head for {' and one for '.join(each)}"
    elif headless:
        head = ""
    else:
        head = ", the head tied to the token table" if config.tie_head else ", the head untied"
    return (
        f"A {config.norm}-LayerNorm transformer, {kind}: {depth} layers of width "
        f"{config.hidden_size:,} with {config.num_heads} heads and a feed-forward width of "
        f"{config.mlp_size:,}{fusion}{head}. {facts.parameters:,} parameters, {facts.pieces:,} "
        f"pieces, {config.max_positions} positions."
    )


def _use(config: ModelConfig, headless: bool) -> str:
    if config.decoder_layers:
        auto = "AutoModelForSeq2SeqLM"
    else:
        auto = "AutoModel" if headless else "AutoModelForMaskedLM"
    own = hf_config.model_type(config) == hf_config.OWN
    trust = ", trust_remote_code=True" if own else ""
    lines = [
        f"    from transformers import AutoTokenizer, {auto}",
        f"    tokenizer = AutoTokenizer.from_pretrained(FOLDER{trust})",
        f"    model = {auto}.from_pretrained(FOLDER{trust})",
    ]
    notes = [
        "`<mask>`, `[DOC]` (between documents of one sequence) and the like are special when they "
        "stand in a text; `split_special_tokens=True` reads them as characters."
    ]
    if own:
        notes.insert(0, f"The class is in `{hf_config.MODELING_FILE}`, beside the weights.")
    return "\n".join([*lines, "", *notes])


def _use_labels(labels: labelling.Labels) -> str:
    auto, pipeline = labelling.auto_class(labels), labelling.pipeline(labels)
    if pipeline:
        lines = [
            "    from transformers import pipeline",
            f'    label = pipeline("{pipeline}", FOLDER, trust_remote_code=True)',
            "",
            f"or `{auto}.from_pretrained(FOLDER, trust_remote_code=True)`.",
        ]
    else:
        lines = [
            f"    from transformers import AutoTokenizer, {auto}",
            "    tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)",
            f"    model = {auto}.from_pretrained(FOLDER, trust_remote_code=True)",
            "",
            "It gives `label_logits` and `word_logits`.",
        ]
    lines[-1] += f" The class is in `{hf_config.LABELLING_FILE}`, beside the weights."
    if "words" in labels:
        lines.append(
            "A word's label is that of its first token, as "
            "`tokenizer(words, is_split_into_words=True)` makes them."
        )
    else:
        lines.append("Two texts are one input: `tokenizer(first, second)`.")
    return "\n".join(lines)


def _tuning(tuned: Tuned, labels: labelling.Labels) -> str:
    lines = [
        f"On `{tuned.set}`, language {tuned.language}, peak learning rate "
        f"{tuned.learning_rate:g}, seed {tuned.seed}.",
    ]
    for name, each in labels.items():
        lines += ["", f"Labels of {_READS[name]}: {', '.join(f'`{label}`' for label in each)}."]
    if tuned.scores:
        metrics = list(next(iter(tuned.scores.values())))
        rows = [
            [language, *(f"{scores[metric]:.2f}" for metric in metrics)]
            for language, scores in tuned.scores.items()
        ]
        table = markdown.table(["test split", *(f"{metric}, %" for metric in metrics)], rows)
        lines += ["", table]
    return "\n".join(lines)


def _training(facts: Facts) -> str:
    lines = [f"Started from {facts.origin}.", ""] if facts.origin else []
    if facts.corpus:
        lines += [f"Text: {facts.corpus}.", ""]
    if facts.stages:
        lines += [
            "| stage | objective | updates | tokens | training units | frozen |",
            "| --- | --- | ---: | ---: | ---: | --- |",
        ]
    for stage in facts.stages:
        frozen = "; ".join(
            f"{', '.join(names)} for {steps:,}" for steps, names in stage.phases if names
        )
        lines.append(
            f"| {stage.name} | {stage.objective} | {stage.steps:,} | {stage.tokens:,} | "
            f"{stage.training_units:.3g} | {frozen} |"
        )
    if facts.stages:
        lines += [
            "",
            "A training unit is 100,000 updates of 12 layers of width 1,024 on a million tokens "
            "(Soltan et al. 2023, appendix D).",
        ]
    return "\n".join(lines)
