"""Scores of an exported fine-tuned model by a path that shares no code with ours: see --help.

The set's files are read anew, transformers tokenises and computes, the field's libraries score.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

OUTSIDE = "O"  # of a word that the model has not seen
_TOLERANCE = 1e-9  # of a figure in percent: only sums in another order are excused


class Example(NamedTuple):
    """What the model reads, and what is right: both as a line of `predictions` has them."""

    input: Any
    reference: Any


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.independent_scores",
        description="Scores an exported fine-tuned model with transformers, seqeval, scikit-learn, "
        "rouge-score and sacrebleu, and compares with the scores and predictions of its run. The "
        "exit status is 1 if one differs. Sets: " + ", ".join(SETS) + ".",
    )
    parser.add_argument("--exported", type=Path, required=True, help="what --to=hf has written")
    parser.add_argument("--data", type=Path, required=True, help="folder of the set")
    parser.add_argument("--run", type=Path, required=True, help="of a seed, such as runs/udpos/0")
    parser.add_argument("--batch", type=int, default=32, help="examples at a time")
    return parser


# The files of a set, in a language or pair of languages.


def _lines(file: Path) -> list[str]:
    """The lines of a file, packed or not."""
    packed = file.with_name(f"{file.name}.gz")
    data = file.read_bytes() if file.is_file() else gzip.decompress(packed.read_bytes())
    return data.decode().removesuffix("\n").split("\n")


def _rows(folder: Path, language: str, header: str) -> Iterator[list[str]]:
    """The fields of every line but a header, whose last field is `header`."""
    for number, line in enumerate(_lines(folder / language / "test.tsv")):
        fields = line.split("\t")
        if number or fields[-1] != header:
            yield fields


def read_words(folder: Path, language: str) -> Iterator[Example]:
    """A word and its tag a line, a blank line after each sentence."""
    rows: list[list[str]] = []
    for line in [*_lines(folder / language / "test.tsv"), ""]:
        if line.strip():
            rows.append(line.split("\t"))
        elif rows:
            yield Example([word for word, _ in rows], [tag for _, tag in rows])
            rows = []


def read_pairs(folder: Path, language: str) -> Iterator[Example]:
    """Premise, hypothesis and label a line."""
    for first, second, label in _rows(folder, language, "label"):
        yield Example([first, second], label)


def read_slots(folder: Path, language: str) -> Iterator[Example]:
    """Id, words, their tags and the intent a line."""
    for _, words, tags, intent in _rows(folder, language, "intent"):
        yield Example(words.split(" "), {"intent": intent, "tags": tags.split(" ")})


def read_summaries(folder: Path, _: str) -> Iterator[Example]:
    """An object of JSON a line, with one summary or several."""
    for line in _lines(folder / "test.jsonl"):
        row = json.loads(line)
        yield Example(row["document"], row.get("summaries") or row["summary"])


def read_translations(folder: Path, pair: str) -> Iterator[Example]:
    """Two files of as many lines."""
    texts = [_lines(folder / f"test.{language}.txt") for language in pair.split("-")]
    for source, target in zip(*texts, strict=True):
        yield Example(source, target)


# What the model makes of them: a function that has the model open.


class Labeller:
    """The best label of every text, of every word, or of both."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        import transformers

        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
        (auto,) = (name for name in config.auto_map if name.startswith("AutoModel"))
        self._tokenizer, self._model = _opened(folder, auto)
        self._length = settings["lengths"]["encoder_input_tokens"]
        self._pairs = auto == "AutoModelForSequenceClassification"
        self.margins: list[float] = []  # of all decisions, in logits

    def __call__(self, batch: list[Any]) -> list[Any]:
        inputs = self._tokenizer(
            *(map(list, zip(*batch, strict=True)) if self._pairs else [batch]),
            is_split_into_words=not self._pairs,
            split_special_tokens=True,
            truncation=True,
            max_length=self._length,
            padding=True,
            return_tensors="pt",
        )
        output = self._model(**inputs)
        if self._pairs:
            return [self._best(row) for row in output.logits]
        joint = "word_logits" in output
        values: list[Any] = []
        for row, words in enumerate(batch):
            places: dict[int | None, int] = {}
            for place, word in enumerate(inputs.word_ids(row)):
                places.setdefault(word, place)
            logits = (output.word_logits if joint else output.logits)[row]
            tags = [
                self._best(logits[places[word]], "words" if joint else "")
                if word in places
                else OUTSIDE
                for word in range(len(words))
            ]
            intent = self._best(output.label_logits[row], "label") if joint else ""
            values.append({"intent": intent, "tags": tags} if joint else tags)
        return values

    def _best(self, logits: Any, head: str = "") -> str:
        first, second = logits.topk(2)[0].tolist()
        self.margins.append(first - second)
        index, config = int(logits.argmax()), self._model.config
        return config.heads[head]["labels"][index] if head else config.id2label[index]


class Writer:
    """The best text for every text."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self._tokenizer, self._model = _opened(folder, "AutoModelForSeq2SeqLM")
        self._length = settings["lengths"]["encoder_input_tokens"]
        self.margins: list[float] = []  # of labels alone
        search = settings["search"]
        self._search = {"num_beams": search["beams"], "max_new_tokens": search["max_length"]}
        if search["beams"] > 1:
            self._search |= {name: search[name] for name in ("length_penalty", "early_stopping")}

    def __call__(self, batch: list[Any]) -> list[Any]:
        inputs = self._tokenizer(
            batch,
            split_special_tokens=True,
            truncation=True,
            max_length=self._length,
            padding=True,
            return_tensors="pt",
        )
        found = self._model.generate(**inputs, do_sample=False, **self._search)
        texts = self._tokenizer.batch_decode(found, skip_special_tokens=True)
        return [text.strip() for text in texts]


def _opened(folder: Path, auto: str) -> tuple[Any, Any]:
    """Tokenizer and model, by the class of transformers that is named."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
    return tokenizer, model.eval()


# How good that is, in percent.


def accuracy(references: list[str], values: list[str]) -> dict[str, float]:
    """Of labels."""
    from sklearn.metrics import accuracy_score

    return {"accuracy": 100 * accuracy_score(references, values)}


def entities(references: list[list[str]], values: list[list[str]]) -> dict[str, float]:
    """F1 of entities."""
    from seqeval.metrics import f1_score

    return {"f1": 100 * f1_score(references, values, zero_division=0)}


def parts_of_speech(references: list[list[str]], values: list[list[str]]) -> dict[str, float]:
    """XTREME's F1 and the share of words (Hu et al. 2020)."""
    from seqeval.metrics import accuracy_score

    return entities(references, values) | {"accuracy": 100 * accuracy_score(references, values)}


def joint(references: list[dict[str, Any]], values: list[dict[str, Any]]) -> dict[str, float]:
    """Of intents and slots."""
    both = references, values
    return {
        "intent_accuracy": accuracy(*([x["intent"] for x in each] for each in both))["accuracy"],
        "slot_f1": entities(*([x["tags"] for x in each] for each in both))["f1"],
    }


def rouge(references: list[Any], values: list[str]) -> dict[str, float]:
    """Means of the best F-measures."""
    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(names, use_stemmer=True)
    rows = [
        scorer.score_multi([each] if isinstance(each, str) else each, value)
        for each, value in zip(references, values, strict=True)
    ]
    return {name: 100 * sum(row[name].fmeasure for row in rows) / len(rows) for name in names}


def translation(references: list[str], values: list[str]) -> dict[str, float]:
    """BLEU and chrF2 of the corpus."""
    import sacrebleu

    return {
        "bleu": sacrebleu.corpus_bleu(values, [references]).score,
        "chrf": sacrebleu.corpus_chrf(values, [references]).score,
    }


Reader = Callable[[Path, str], Iterator[Example]]
Score = Callable[[list[Any], list[Any]], dict[str, float]]
SETS: dict[str, tuple[Reader, type[Labeller] | type[Writer], Score]] = {
    "udpos": (read_words, Labeller, parts_of_speech),
    "panx": (read_words, Labeller, entities),
    "xnli": (read_pairs, Labeller, accuracy),
    "pawsx": (read_pairs, Labeller, accuracy),
    "xsid": (read_slots, Labeller, joint),
    "scitldr": (read_summaries, Writer, rouge),
    "ntrex": (read_translations, Writer, translation),
}


def compare(flags: argparse.Namespace) -> bool:
    """Prints figures and differences by language; whether there is no difference."""
    import torch

    reported = json.loads((flags.run / "scores.json").read_text("utf-8"))
    settings = json.loads((flags.run.parent / "finetuning.json").read_text("utf-8"))
    read, program, score = SETS[reported["task"]]
    predict = program(flags.exported, settings)
    alike = True
    print(f"{reported['task']:<9}{'metric':<17}{'reported':>14}{'independent':>14}")
    for language, figures in reported["scores"].items():
        examples = list(read(flags.data, language))
        values: list[Any] = []
        predict.margins.clear()
        with torch.inference_mode():
            for start in range(0, len(examples), flags.batch):
                values += predict([each.input for each in examples[start : start + flags.batch]])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* seems not to be NE tag")
            again = score([example.reference for example in examples], values)
        for metric in sorted({*figures, *again}):
            ours, theirs = figures.get(metric, math.nan), again.get(metric, math.nan)
            alike &= abs(ours - theirs) <= _TOLERANCE
            print(f"{language:<9}{metric:<17}{ours:>14.8f}{theirs:>14.8f}")
        lines = [json.loads(line) for line in _lines(flags.run / f"predictions/{language}.jsonl")]
        found = [
            {"input": example.input, "prediction": value, "reference": example.reference}
            for example, value in zip(examples, values, strict=True)
        ]
        differing = sum(a != b for a, b in itertools.zip_longest(lines, found))
        alike &= not differing
        margin = f"; least margin {min(predict.margins):.1e} logits" if predict.margins else ""
        print(f"{language:<9}{differing} of {len(found)} lines differ{margin}")
    return alike


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return 0 if compare(_parser().parse_args(arguments)) else 1


if __name__ == "__main__":
    sys.exit(main())
