"""Fine-tuned labellers in transformers: the same logits, pipelines, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers

from seqrecipes import convert, tree
from seqrecipes.config.finetuning import Search
from seqrecipes.conversion.hf import config as hf_config
from seqrecipes.conversion.hf import load, parity
from seqrecipes.data import pieces
from seqrecipes.errors import UserError
from seqrecipes.finetuning import Facts
from seqrecipes.models import Labeller, ModelConfig
from seqrecipes.training import checkpoints
from tests.conversion.harness import on_one_device
from tests.hf import harness
from tests.models import tiny

INTENTS = ("play", "wake", "stop")
TAGS = ("O", "B-song", "I-song", "B-time")
KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "text": {"label": INTENTS},
    "words": {"words": TAGS},
    "both": {"label": INTENTS, "words": TAGS},
}
AUTO = {
    "text": "AutoModelForSequenceClassification",
    "words": "AutoModelForTokenClassification",
    "both": "AutoModel",
}


class Case(NamedTuple):
    model: Labeller
    params: dict[str, Any]
    stage: Path

    def ours(self, source: np.ndarray) -> dict[str, np.ndarray]:
        """Logits of our model: of <s>, and of every token."""
        positions = np.broadcast_to(np.arange(source.shape[1]), source.shape)
        batch = {"encoder_input_tokens": source, "word_positions": positions}
        found: Any = self.model.apply({"params": self.params}, batch)
        return {name: np.asarray(logits) for name, logits in found.items()}


def make(
    folder: Path,
    vocabulary: bytes,
    kind: str,
    hidden: tuple[int, ...] = (12, 9),
    **overrides: Any,
) -> Case:
    """A checkpoint as fine-tuning leaves it, with values that hide nothing."""
    config = harness.config(vocabulary, decoder_layers=0, **overrides)
    facts = Facts(
        *("xsid", "tasks.downstream", "encoder", 3, 1e-3, KINDS[kind], hidden),
        *({"encoder_input_tokens": 16}, "en", "slot_f1", Search(), 8),
    )
    model = facts.model(config)
    assert isinstance(model, Labeller)
    params = tiny.random_params(model, dtype="float32")
    checkpoints.save_params(
        folder,
        params,
        {
            "model": config.to_dict(),
            "finetuning": facts.to_dict(),
            "converted_from": "/runs/demo/roberta_12e/checkpoints/250",
            "conversion": "fine-tuning on xsid",
        },
        vocabulary=vocabulary,
        account="random",
    )
    return Case(model, params, folder)


def run(*arguments: object) -> int:
    return convert.main([str(argument) for argument in arguments])


def opened(kind: str, folder: Path, **options: Any) -> Any:
    auto = getattr(transformers, AUTO[kind])
    return auto.from_pretrained(folder, trust_remote_code=True, **options).eval()


def inputs(config: ModelConfig) -> np.ndarray:
    """Token ids, <s> first, padded at the right."""
    source, _ = harness.batch(config)
    source[:, 0] = 0
    return source


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_ours(kind, norm, vocabulary, tmp_path):
    epsilon = 1e-3  # wide enough to show
    case = make(tmp_path / "stage", vocabulary, kind, norm=norm, norm_epsilon=epsilon)
    assert run("--to=hf", case.stage, tmp_path / "out") == 0
    theirs = opened(kind, tmp_path / "out")
    source = inputs(case.model.config)
    with torch.inference_mode():
        output = theirs(torch.from_numpy(source).long())
    assert (
        type(theirs.encoder).__name__
        == {
            "pre": "RobertaPreLayerNormModel",
            "post": "XLMRobertaModel",
        }[norm]
    )
    assert theirs.encoder.pooler is None
    ours, real = case.ours(source), source != harness.PAD
    if "label" in ours:
        logits = output.label_logits if kind == "both" else output.logits
        np.testing.assert_allclose(logits.numpy(), ours["label"][:, 0], rtol=0, atol=2e-5)
    if "words" in ours:
        logits = output.word_logits if kind == "both" else output.logits
        np.testing.assert_allclose(logits.numpy()[real], ours["words"][real], rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_comparison_covers_every_head(kind, vocabulary, tmp_path, capsys):
    case = make(tmp_path / "stage", vocabulary, kind, norm="post", dtype="bfloat16")
    assert run("--to=hf", "--verify", case.stage, tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "parity.json").read_text("utf-8"))
    assert report["passed"] and report["compared"] == "logits"
    assert {each["name"] for each in report["comparisons"]} >= {"random tokens", "text: te"}
    # Of <s> there is one in each of the three.
    assert (report["comparisons"][0]["positions"] == 3) is (kind == "text")
    held = [name for name in report["checksums"] if name.startswith("heads.")]
    assert len(held) == 6 * len(KINDS[kind])

    for head in KINDS[kind]:
        leaves = tree.flatten(case.params)
        leaves[f"heads/{head}/output/bias"] = leaves[f"heads/{head}/output/bias"] + 1e-2
        found = parity.verify(
            tmp_path / "out",
            case.model,
            tree.unflatten(leaves),
            vocabulary=None,
            texts={},
            trust=True,
        )
        assert any("logits of random tokens differ by 1.0e-02" in x for x in found.failures)


def test_the_pipeline_labels_texts_and_pairs(vocabulary, tmp_path):
    case = make(tmp_path / "stage", vocabulary, "text")
    assert run("--to=hf", case.stage, tmp_path / "out") == 0
    label = transformers.pipeline(
        "text-classification", str(tmp_path / "out"), trust_remote_code=True
    )
    encode = pieces.parse(vocabulary, "test").tokenizer.EncodeAsIds
    first, second = encode("Es regnet."), encode("It rains.")
    for given, ids in (
        ("Es regnet.", [0, *first, 2]),
        ({"text": "Es regnet.", "text_pair": "It rains."}, [0, *first, 2, 2, *second, 2]),
    ):
        logits = case.ours(np.array([ids]))["label"][0, 0].astype(np.float64)
        probabilities = np.exp(logits) / np.exp(logits).sum()
        (found,) = label([given])
        assert found["label"] == INTENTS[logits.argmax()]
        assert found["score"] == pytest.approx(probabilities.max(), rel=1e-3)


def test_the_pipeline_labels_tokens(vocabulary, tmp_path):
    case = make(tmp_path / "stage", vocabulary, "words", hidden=())
    assert run("--to=hf", case.stage, tmp_path / "out") == 0
    label = transformers.pipeline(
        "token-classification",
        str(tmp_path / "out"),
        trust_remote_code=True,
        ignore_labels=[],
    )
    text = "The committee will meet again"
    ids = [0, *pieces.parse(vocabulary, "test").tokenizer.EncodeAsIds(text), 2]
    best = case.ours(np.array([ids]))["words"][0].argmax(axis=-1)
    found = label(text)
    assert [each["entity"] for each in found] == [TAGS[index] for index in best[1:-1]]
    assert len(set(best)) > 1, "all tokens have one label"


def test_what_the_folder_says(vocabulary, tmp_path):
    case = make(tmp_path / "stage", vocabulary, "both")
    scores = {"scores": {"en": {"intent_accuracy": 91.25, "slot_f1": 77.5}}}
    (case.stage / "scores.json").write_text(json.dumps(scores))
    assert run("--to=hf", case.stage, tmp_path / "both") == 0
    config = json.loads((tmp_path / "both" / "config.json").read_text())
    assert config["heads"]["words"] == {"reads": "words", "hidden": [12, 9], "labels": list(TAGS)}
    assert config["heads"]["label"]["labels"] == list(INTENTS)
    assert "id2label" not in config
    card = (tmp_path / "both" / "README.md").read_text("utf-8")
    for words in (
        "AutoModel.from_pretrained(FOLDER, trust_remote_code=True)",
        "a head for 3 labels of the text and one for 4 labels of words",
        "Started from `roberta_12e`.",
        "On `xsid`, language en, peak learning rate 0.001, seed 3.",
        "intent_accuracy, %",
        "77.50",
        "`B-song`",
    ):
        assert words in card
    case = make(tmp_path / "other", vocabulary, "words")
    assert run("--to=hf", case.stage, tmp_path / "words") == 0
    config = json.loads((tmp_path / "words" / "config.json").read_text())
    assert config["id2label"] == {"0": "O", "1": "B-song", "2": "I-song", "3": "B-time"}
    assert config["label2id"]["I-song"] == 2
    card = (tmp_path / "words" / "README.md").read_text("utf-8")
    assert "pipeline_tag: token-classification" in card
    assert 'pipeline("token-classification", FOLDER, trust_remote_code=True)' in card


@pytest.mark.parametrize("kind", ["text", "words"])
def test_saved_again_and_trained_on(kind, vocabulary, tmp_path):
    case = make(tmp_path / "stage", vocabulary, kind)
    assert run("--to=hf", case.stage, tmp_path / "out") == 0
    theirs = opened(kind, tmp_path / "out")
    theirs.save_pretrained(tmp_path / "again")
    again = opened(kind, tmp_path / "again")
    assert again.config.id2label == dict(enumerate(KINDS[kind].get("label", TAGS)))
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    ids = torch.from_numpy(inputs(case.model.config)).long()
    labels = ids[:, 0] % 3 if kind == "text" else torch.where(ids == harness.PAD, -100, ids % 4)
    optimizer = torch.optim.SGD(again.parameters(), lr=1e-3)
    before = again(ids, labels=labels).loss
    before.backward()
    optimizer.step()
    assert again(ids, labels=labels).loss < before


def test_both_heads_are_trained_on_together(vocabulary, tmp_path):
    case = make(tmp_path / "stage", vocabulary, "both")
    assert run("--to=hf", case.stage, tmp_path / "out") == 0
    theirs = opened("both", tmp_path / "out")
    labels, words = torch.tensor([1, 2]), torch.where(IDS == harness.PAD, -100, IDS % 4)
    losses = [theirs(IDS, **each).loss for each in ({"labels": labels}, {"word_labels": words})]
    assert theirs(IDS, labels=labels, word_labels=words).loss == sum(losses)
    assert theirs(IDS).loss is None


@pytest.fixture(scope="module")
def folder(vocabulary, tmp_path_factory) -> Path:
    """An exported labeller of words."""
    folder = tmp_path_factory.mktemp("words")
    make(folder / "stage", vocabulary, "words")
    assert run("--to=hf", folder / "stage", folder / "out") == 0
    return folder / "out"


IDS = torch.tensor([[0, 9, 8, 7, 2], [0, 6, 2, 1, 1]])


@torch.no_grad()
def test_with_more_rows_it_is_saved_and_opened_again(folder, tmp_path):
    theirs = opened("words", folder)
    rows = theirs.config.get_text_config().vocab_size
    theirs.resize_token_embeddings(rows + 3)
    theirs.save_pretrained(tmp_path)
    again = opened("words", tmp_path)
    assert again.get_input_embeddings().num_embeddings == rows + 3
    assert torch.equal(again(IDS).logits, theirs(IDS).logits)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_is_computed_as_asked(folder, implementation):
    theirs = opened("words", folder, attn_implementation=implementation)
    assert theirs.encoder.config._attn_implementation == implementation
    torch.testing.assert_close(theirs(IDS).logits, opened("words", folder)(IDS).logits)
    if implementation == "eager":
        assert theirs(IDS, output_attentions=True).attentions[0].shape == (2, 4, 5, 5)


@torch.no_grad()
def test_the_encoder_saved_alone_opens_by_itself_and_under_new_heads(folder, tmp_path):
    theirs = opened("words", folder)
    theirs.base_model.save_pretrained(tmp_path)
    alone = transformers.AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    new, info = type(theirs).from_pretrained(tmp_path, num_labels=7, output_loading_info=True)
    assert info["missing_keys"] == {"heads.words.output.weight", "heads.words.output.bias"}
    output = new.eval()(IDS, output_hidden_states=True)
    assert output.logits.shape == (2, 5, 7)
    mask = (IDS != harness.PAD).long()
    torch.testing.assert_close(
        alone(IDS, attention_mask=mask).last_hidden_state, output.hidden_states[-1]
    )


def test_other_labels_are_learned_in_place_of_these(folder):
    with pytest.raises(RuntimeError, match="mismatch"):
        opened("words", folder, num_labels=9)
    theirs = opened("words", folder, num_labels=9, ignore_mismatched_sizes=True)
    assert theirs(IDS).logits.shape == (2, 5, 9)


def test_the_encoder_alone_is_one_of_theirs(vocabulary, tmp_path):
    case = make(tmp_path / "stage", vocabulary, "words")
    assert run("--to=hf", "--verify", "--headless", case.stage, tmp_path / "out") == 0
    found = load.load(tmp_path / "out", placement=on_one_device)
    ours = tree.flatten(case.params)
    for path, leaf in tree.flatten(found.params).items():
        if path.startswith("encoder/"):
            np.testing.assert_array_equal(np.asarray(leaf), ours[path], err_msg=path)


def test_what_cannot_be_expressed_is_refused(vocabulary, tmp_path, capsys):
    case = make(tmp_path / "stage", vocabulary, "words", embedding_norm=False)
    assert run("--to=hf", case.stage, tmp_path / "out") == 2
    assert "embedding_norm" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_does_not_come_back(vocabulary, tmp_path, capsys):
    case = make(tmp_path / "stage", vocabulary, "words")
    assert run("--to=hf", case.stage, tmp_path / "out") == 0
    assert run("--from=hf", tmp_path / "out", tmp_path / "in") == 2
    error = capsys.readouterr().err
    assert "seqrecipes-labeller" in error
    assert "import the model that it was fine-tuned from" in error
    with pytest.raises(UserError, match="import the model"):
        load.load(tmp_path / "out", placement=on_one_device)


def test_the_classes_need_no_other_files():
    """They are copied beside the weights, alone."""
    for model_type in (hf_config.OWN, hf_config.LABELLER):
        for file in hf_config.code_files(model_type):
            text = file.read_text("utf-8")
            assert "import seqrecipes" not in text and "from seqrecipes" not in text
