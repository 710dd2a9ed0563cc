"""From a fine-tuning as written to one that can run: every check that needs no training.

Only the training and validation split of one language are read here. Of the others no more is
looked at than whether they are there and have the labels that a model can predict.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gin
import numpy as np
from jax.sharding import Mesh

from seqrecipes import identity, tree
from seqrecipes.config import optimizers
from seqrecipes.config.finetuning import Finetuning
from seqrecipes.config.recipe import Phase
from seqrecipes.config.training import Checkpointing
from seqrecipes.downstream import checking, places
from seqrecipes.downstream.scoring import Scorer
from seqrecipes.downstream.sources import Source
from seqrecipes.errors import UserError
from seqrecipes.finetuning import OF_LOSS, Facts
from seqrecipes.folders import write_file
from seqrecipes.training import checkpoints, loop, optimizer
from seqrecipes.training import partitioning as parts
from seqrecipes.training.loop import Evaluation, LocalBatch, Training

if TYPE_CHECKING:
    from seqrecipes.data.labelled.epochs import Epochs
    from seqrecipes.data.labelled.examples import Examples
    from seqrecipes.data.labelled.records import LabelledSplit
    from seqrecipes.data.vocabulary import Vocabulary

RUN_FILE, GIN_FILE = "finetuning.json", "config.gin"
IDENTITY = "identity"  # its name in a checkpoint's metadata
VOCABULARY = pathlib.Path("vocabulary", "spm.model")
# These change speed or what is shown, or belong to one of several runs in the folder.
_FREE = ("seeds", "partitioning", "log_every", "logits_tile", "skip_nonfinite")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A fine-tuning with all that follows from it.

    Attributes:
      finetuning: as written.
      source: what the model is fine-tuned from.
      facts: what checkpoints will say of themselves, but for the seed.
      scorer: predicts and scores.
      train: examples to train on.
      validation: examples to select by.
      mesh: devices.
    """

    finetuning: Finetuning
    source: Source
    facts: Facts
    scorer: Scorer
    train: Examples
    validation: Examples
    mesh: Mesh

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Updates that see every example once."""
        return self._epochs(0).steps_per_epoch

    @property
    def languages(self) -> Sequence[str]:
        """Those to score."""
        return self.finetuning.languages or self.scorer.labelled.languages

    @property
    def by_loss(self) -> bool:
        """Whether the metric to select by is made of the loss alone."""
        return self.scorer.labelled.kind == "generation" and self.finetuning.metric in OF_LOSS

    def training(self, seed: int) -> Training:
        """How one seed is trained."""
        ours = self.finetuning
        validate_every = ours.validate_every or self.steps_per_epoch
        features = {name: array.shape[1] for name, array in self.train.features.items()}
        return Training(
            name=f"{ours.set} seed {seed}",
            model=self.scorer.model,
            features=features,
            phases=[Phase(ours.updates(self.steps_per_epoch), ours.freeze)],
            optimizer=ours.optimizer,
            partitioning=ours.partitioning,
            checkpointing=Checkpointing(every=validate_every, keep=1, best=ours.best),
            batch_size=ours.batch_size,
            tokens_per_update=ours.batch_size * features["encoder_input_tokens"],
            seed=seed,
            logits_tile=ours.logits_tile,
            log_every=ours.log_every,
            validate_every=validate_every,
            skip_nonfinite=ours.skip_nonfinite,
            minimised=ours.loss,
        )

    def train_batches(self, seed: int, start: int, stop: int) -> Iterator[LocalBatch]:
        """This process's rows of the batches of steps start ... stop - 1."""
        return self._epochs(seed).train(start, stop)

    def evaluation(self, training: Training, examples: Examples) -> Evaluation:
        """What the selection goes by, of some examples: the set's metrics, or those of the loss."""
        if not self.by_loss:
            return functools.partial(self.scorer.evaluate, examples=examples)
        of_loss = loop.evaluator(training, self.mesh, Batches(self, training.seed, examples))

        def evaluate(params: tree.Tree) -> dict[str, float]:
            values = of_loss(params)
            return values | {"perplexity": float(np.exp(values["loss"]))}

        return evaluate

    def _epochs(self, seed: int) -> Epochs:
        from seqrecipes.data.labelled.epochs import Epochs

        rows = parts.local_rows(self.finetuning.batch_size, self.mesh)
        return Epochs(self.train.features, self.finetuning.batch_size, seed=seed, rows=rows)

    def identity(self) -> dict[str, Any]:
        """What decides the numbers that come out."""
        written = dataclasses.asdict(self.finetuning)
        written["optimizer"] = self.finetuning.optimizer.to_dict()
        for name in _FREE:
            written.pop(name)
        folder = self.source.folder
        facts = {
            "vocabulary": self.scorer.vocabulary.checksum,
            "step": folder and int(folder.name),
            "labels": self.facts.labels,
            "examples": {
                "train": len(self.train.references),
                "validation": len(self.validation.references),
            },
        }
        return identity.plain(written | facts)

    def check_folder(self, run_dir: pathlib.Path) -> None:
        """Refuses a folder that holds another fine-tuning.

        Where the folder does not say what it is for, its seeds' checkpoints do.

        Raises:
          UserError: names every value that differs.
        """
        file = run_dir / RUN_FILE
        there = identity.read(file) if file.exists() else _of_checkpoints(run_dir)
        if there:
            there["optimizer"] = identity.plain(optimizers.complete(there["optimizer"]))
        if there and (changed := identity.differences(there, self.identity(), "Finetuning")):
            raise UserError(
                "MODEL_DIR",
                str(run_dir),
                f"holds another fine-tuning ({'; '.join(changed)}); choose another folder or "
                "restore these values",
            )

    def claim(self, run_dir: pathlib.Path) -> None:
        """Writes what a folder is for, and checks that it has room."""
        self.check_folder(run_dir)
        sizes = {path: leaf.size for path, leaf in tree.flatten(self.training(0).shapes).items()}
        trainable = sum(sizes[path] for path in self.training(0).spans[0].cohorts)
        # The best, the latest and the one that is being written.
        checkpoints.check_space(run_dir, 3 * 4 * (sum(sizes.values()) + 2 * trainable))
        text = json.dumps(self.identity(), indent=2, ensure_ascii=False)
        write_file(run_dir / RUN_FILE, text + "\n")
        write_file(run_dir / GIN_FILE, gin.config_str())
        places.write(run_dir)
        write_file(run_dir / VOCABULARY, self.source.vocabulary)

    def __str__(self) -> str:
        ours, training = self.finetuning, self.training(0)
        labelled, span = self.scorer.labelled, training.spans[0]
        shapes = tree.flatten(training.shapes)
        trained = sum(shapes[path].size for path in span.cohorts)
        frozen = sum(shapes[path].size for path in span.frozen)
        labels = ", ".join(f"{len(each)} labels" for each in self.facts.labels.values())
        account = self.source.account(training.model)
        lines = [
            f"{self.source.name} on {ours.set} ({labelled.kind}{labels and f': {labels}'})",
            f"  from {self.source.folder or 'random weights'}",
            *(str(account).splitlines() if account else []),
            f"  {trained:,} parameters are trained, {frozen:,} frozen {list(ours.freeze)}",
            f"  {len(self.train.references):,} examples to train on, "
            f"{len(self.validation.references):,} to select by {ours.metric} ({ours.language})",
            f"  {training.steps:,} updates of {ours.batch_size} examples, {self.steps_per_epoch:,} "
            f"an epoch; {ours.optimizer}",
            f"  scored: {', '.join(self.languages)}",
        ]
        return "\n".join(lines)


class Batches:
    """Batches of the loop.

    Args:
      prepared: what is trained.
      seed: of the order of examples.
      examples: to validate with.
    """

    def __init__(self, prepared: Prepared, seed: int, examples: Examples):
        self._prepared, self._seed, self._examples = prepared, seed, examples

    def train(self, start: int, stop: int) -> Iterator[LocalBatch]:
        """The batches of steps start ... stop - 1."""
        return self._prepared.train_batches(self._seed, start, stop)

    def validation(self) -> Iterator[LocalBatch]:
        """The examples to validate with, once."""
        return self._prepared.scorer.batches(self._examples.features)


def prepare(
    finetuning: Finetuning,
    source: Source,
    vocabulary: Vocabulary,
    mesh: Mesh,
    scored: LabelledSplit = "test",
) -> Prepared:
    """Checks everything, and reads what to train on and to select by.

    Args:
      finetuning: as written.
      source: what it begins with.
      vocabulary: the source's.
      mesh: devices.
      scored: the split to be scored.

    Raises:
      UserError: whatever cannot work, by field.
    """
    labelled = checking.check(finetuning, source.config, scored)
    facts = Facts(
        set=finetuning.set,
        tasks=finetuning.tasks,
        name=source.name,
        seed=0,
        learning_rate=finetuning.optimizer.peak,
        labels=labelled.labels,
        hidden=finetuning.hidden,
        lengths=finetuning.lengths,
        language=finetuning.language,
        metric=finetuning.metric,
        search=finetuning.search,
        batch_size=finetuning.batch_size,
    )
    config = source.encoder_config() if facts.labels else source.config
    scorer = Scorer(facts, config, labelled, vocabulary, finetuning.partitioning, mesh)
    prepared = Prepared(
        finetuning,
        source,
        facts,
        scorer,
        train=scorer.read(finetuning.language, "train"),
        validation=scorer.read(finetuning.language, "validation"),
        mesh=mesh,
    )
    _check_metric(prepared)
    parts.check_batch(
        finetuning.batch_size,
        finetuning.partitioning.micro_batches,
        mesh,
        field="Finetuning.batch_size",
    )
    training = prepared.training(0)
    optimizer.schedule(finetuning.optimizer, training.steps)
    optimizer.check_rules(finetuning.optimizer, tree.flatten(training.shapes))
    finetuning.partitioning.parameter_shardings(training.shapes, mesh)
    source.account(training.model)
    return prepared


def _check_metric(prepared: Prepared) -> None:
    """Refuses a metric that the set does not have, before it is missed after an epoch."""
    if prepared.by_loss:
        return
    scorer, references = prepared.scorer, prepared.validation.references
    # References are perfect predictions; of several right texts any one is.
    perfect = [
        each[0] if scorer.labelled.kind == "generation" and isinstance(each, list) else each
        for each in references[:2]
    ]
    few = prepared.validation._replace(references=references[:2])
    known: Mapping[str, float] = scorer.score(few, perfect)
    if prepared.finetuning.metric not in known:
        also = OF_LOSS if scorer.labelled.kind == "generation" else ()
        raise UserError(
            "Finetuning.metric",
            prepared.finetuning.metric,
            f"{prepared.finetuning.set} has {', '.join([*known, *also])}",
        )


def _of_checkpoints(run_dir: pathlib.Path) -> dict[str, Any] | None:
    """The identity that the first seed with a checkpoint was trained under."""
    metadata = identity.first_metadata(sorted(run_dir.glob("*")))
    return None if metadata is None else metadata.get(IDENTITY)
