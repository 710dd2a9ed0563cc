"""Predictions of a fine-tuned model and their scores, by what its checkpoint says of itself.

Fine-tuning and `evaluate` share what is here, so that a checkpoint is scored alike whenever it is.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seqrecipes import tree
from seqrecipes.config.training import Partitioning
from seqrecipes.errors import UserError
from seqrecipes.finetuning import Facts
from seqrecipes.folders import write_file
from seqrecipes.models import ModelConfig, Seq2Seq
from seqrecipes.models.decoding import make_generate
from seqrecipes.training import partitioning as parts

if TYPE_CHECKING:
    from seqrecipes.data.labelled.examples import Examples
    from seqrecipes.data.labelled.records import LabelledSplit
    from seqrecipes.data.labelled.sets import LabelledSet
    from seqrecipes.data.vocabulary import Vocabulary

PREDICTIONS = "predictions"


class Scorer:
    """Predicts and scores.

    Args:
      facts: of the checkpoint.
      config: of its model.
      labelled: the set, as it is now.
      vocabulary: the checkpoint's.
      partitioning: lays out the model.
      mesh: devices.
    """

    def __init__(
        self,
        facts: Facts,
        config: ModelConfig,
        labelled: LabelledSet,
        vocabulary: Vocabulary,
        partitioning: Partitioning,
        mesh: Mesh,
    ):
        self.facts, self.labelled, self.vocabulary = facts, labelled, vocabulary
        self.model = facts.model(config)
        self._partitioning, self._mesh = partitioning, mesh
        self._batch_size = parts.even_batch(facts.batch_size, mesh)
        self._pad_id = config.pad_id
        step: Callable[..., Any] = self._labels
        if isinstance(self.model, Seq2Seq):
            # Rows of a table that was padded stand for no piece.
            self._generate = make_generate(self.model, facts.search, pieces=vocabulary.size)
            step = self._tokens
        self._step = jax.jit(step, out_shardings=parts.replicated(mesh))

    def _tokens(self, params: tree.Tree, batch: Mapping[str, jax.Array]) -> jax.Array:
        return self._generate(params, batch["encoder_input_tokens"]).tokens

    def _labels(self, params: tree.Tree, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        logits: Any = self.model.apply({"params": params}, batch)
        return {name: jnp.argmax(each, axis=-1) for name, each in logits.items()}

    def read(self, language: str, split: LabelledSplit) -> Examples:
        """The examples of a language and split."""
        from seqrecipes.data.labelled.examples import read

        return read(
            self.facts.set,
            language,
            split,
            lengths=self.facts.lengths,
            vocabulary=self.vocabulary,
            labels={head: tuple(labels) for head, labels in self.facts.labels.items()},
        )

    def predict(self, params: tree.Tree, examples: Examples) -> list[Any]:
        """What the model makes of every example, in the form of the references."""
        found = []
        for local in self.batches(examples.features):
            batch = parts.global_batch(local, self._batch_size, self._mesh)
            found.append(jax.device_get(self._step(params, batch)))
        size = len(examples.references)
        whole = jax.tree.map(lambda *each: np.concatenate(each)[:size], *found)
        if isinstance(self.model, Seq2Seq):
            return self._texts(whole[:, 0], examples.inputs)
        return self._labelled(whole, examples)

    def score(self, examples: Examples, predictions: Sequence[Any]) -> dict[str, float]:
        """The set's metrics, in percent."""
        scores: dict[str, float] = {}
        for metric in self.labelled.metric_fns:
            scores |= metric(examples.references, predictions)
        return scores

    def evaluate(self, params: tree.Tree, examples: Examples) -> dict[str, float]:
        """Predicts, and scores the predictions."""
        return self.score(examples, self.predict(params, examples))

    def batches(self, features: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of batches, in order; the last one is filled up with padding."""
        rows = parts.local_rows(self._batch_size, self._mesh)
        size = len(features["encoder_input_tokens"])
        for first in range(0, size, self._batch_size):
            indices = first + rows
            real = (indices < size)[:, None]
            yield {
                name: np.where(real, array[np.minimum(indices, size - 1)], self._pad_id)
                for name, array in features.items()
            }

    def _labelled(self, ids: Mapping[str, np.ndarray], examples: Examples) -> list[Any]:
        from seqrecipes.data.labelled.alignment import word_tags

        labels, features = self.facts.labels, examples.features
        of_example = [labels["label"][i] for (i,) in ids["label"]] if "label" in ids else []
        of_words = []
        if "words" in ids:
            rows = zip(ids["words"], features["word_positions"], examples.inputs, strict=True)
            of_words = [
                word_tags(found, positions, len(words), labels["words"])
                for found, positions, words in rows
            ]
        if of_example and of_words:
            return [
                {"intent": intent, "tags": tags}
                for intent, tags in zip(of_example, of_words, strict=True)
            ]
        return of_example or of_words

    def _texts(self, tokens: np.ndarray, inputs: Sequence[Any]) -> list[str]:
        from seqrecipes.data.labelled.forms import decode

        finish = self.labelled.form.finish
        return [
            finish(decode(self.vocabulary, ids), each)
            for ids, each in zip(tokens, inputs, strict=True)
        ]


def score_languages(
    scorer: Scorer,
    params: tree.Tree,
    languages: Iterable[str],
    split: LabelledSplit,
    folder: pathlib.Path | None,
) -> dict[str, dict[str, float]]:
    """{language: scores}; predictions go to `<language>.jsonl` of the folder, if there is one."""
    scores = {}
    for language in languages:
        examples = scorer.read(language, split)
        if not examples.references:
            raise UserError(f"{scorer.facts.set}.{language}", split, "there is nothing to score")
        predictions = scorer.predict(params, examples)
        scores[language] = scorer.score(examples, predictions)
        if folder is not None:
            rows = zip(examples.inputs, predictions, examples.references, strict=True)
            lines = [
                json.dumps(
                    {"input": text, "prediction": prediction, "reference": reference},
                    ensure_ascii=False,
                )
                for text, prediction, reference in rows
            ]
            write_file(folder / f"{language}.jsonl", "".join(f"{line}\n" for line in lines))
    return scores


def content(
    facts: Facts,
    seed: int,
    best_step: int,
    validation: Mapping[str, float],
    scores: Mapping[str, Mapping[str, float]],
) -> str:
    """What `scores.json` says."""
    values = {
        "task": facts.set,
        "model": facts.name,
        "seed": seed,
        "language": facts.language,
        "learning_rate": facts.learning_rate,
        "metric": facts.metric,
        "best_step": best_step,
        "validation": validation,
        "scores": scores,
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
