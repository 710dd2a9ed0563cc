"""Where fine-tuning begins: a checkpoint, a folder in Hugging Face's format, or random weights."""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
import shutil
from typing import Any

from seqrecipes import hugging_face, models
from seqrecipes.config.finetuning import RANDOM, Finetuning
from seqrecipes.conversion import warm_start
from seqrecipes.conversion.conversions import FREE
from seqrecipes.data import pieces
from seqrecipes.errors import UserError
from seqrecipes.folders import locked, shipped
from seqrecipes.models import ModelConfig
from seqrecipes.models import config as model_config
from seqrecipes.training import checkpoints
from seqrecipes.training.partitioning import Placement, laid_out

log = logging.getLogger(__name__)

IMPORTED = "imported"


@dataclasses.dataclass(frozen=True)
class Source:
    """What a model is fine-tuned from.

    Attributes:
      name: of the model, for tables.
      config: of the model, pre-training's head or decoder included.
      vocabulary: its SentencePiece model.
      folder: the checkpoint's; None is random weights.
    """

    name: str
    config: ModelConfig
    vocabulary: bytes
    folder: pathlib.Path | None

    def encoder_config(self) -> ModelConfig:
        """The configuration of the encoder alone."""
        return dataclasses.replace(self.config, decoder_layers=0, attention_fusion="none")

    def account(self, model: models.Model) -> warm_start.Account | None:
        """Where every parameter of a model will come from; None if all are random."""
        return None if self.folder is None else self.plan(model)

    def plan(self, model: models.Model) -> warm_start.Account:
        """Where every parameter of a model comes from, if these are the weights to begin with."""
        theirs = models.parameter_shapes(self.config)
        return warm_start.plan(_conversion(model), theirs, models.shapes(model))

    def params(self, model: models.Model, seed: int, placement: Placement) -> dict[str, Any]:
        """The first parameters of a model, on the devices."""
        initialise = functools.partial(models.random_params, model, seed)
        if self.folder is None:
            return laid_out(initialise, placement)
        params, _ = warm_start.from_checkpoint(
            _conversion(model),
            self.folder,
            models.parameter_shapes(self.config),
            initialise=initialise,
            placement=placement,
        )
        return params


def find(finetuning: Finetuning, imports: pathlib.Path) -> Source:
    """What a run is fine-tuned from.

    Args:
      finetuning: names it.
      imports: a folder in Hugging Face's format is imported into a folder of it, or was before.

    Raises:
      UserError: there is no such checkpoint, or its vocabulary is not found; or none is named.
    """
    if not finetuning.checkpoint:
        raise UserError(
            "Finetuning.checkpoint",
            finetuning.checkpoint,
            "name what to fine-tune: --gin.CHECKPOINT=\"'runs/roberta_12e/roberta_12e'\"",
        )
    path = shipped(finetuning.checkpoint)
    if path.is_file():
        source = _of_file(finetuning)
    elif (path / "config.json").is_file():
        imported = imports / IMPORTED
        given = finetuning.vocabulary or None
        # Seeds that begin side by side share it.
        with locked(imports, wait=True):
            if not _is_import_of(imported, path, given):
                shutil.rmtree(imported, ignore_errors=True)
                log.info(hugging_face.import_folder(path, imported, vocabulary=given))
        name = path.resolve().name
        source = dataclasses.replace(_of_checkpoint(imported, None), name=name)
    else:
        source = _of_checkpoint(path, finetuning.vocabulary or None)
    if finetuning.size and not path.is_file():
        raise UserError("Finetuning.size", finetuning.size, "is of a file in configs/ alone")
    name = source.name
    if finetuning.weights == RANDOM:
        source = dataclasses.replace(source, folder=None)
        name = f"{name} (random weights)"
    if changed := sorted(set(finetuning.model_overrides) - set(FREE)):
        raise UserError(
            "Finetuning.model_overrides",
            changed,
            f"would make another model of the checkpoint; it may replace {', '.join(FREE)}",
        )
    config = model_config.override(source.config, finetuning.model_overrides)
    return dataclasses.replace(source, config=config, name=finetuning.name or name)


def _is_import_of(imported: pathlib.Path, path: pathlib.Path, vocabulary: str | None) -> bool:
    if not imported.is_dir():
        return False
    metadata = checkpoints.read_metadata(checkpoints.find(imported, field=IMPORTED))
    wanted = vocabulary and pieces.checksum(pieces.load(vocabulary).data)
    return metadata["converted_from"] == str(path.absolute()) and (
        not wanted or metadata["vocabulary"] == wanted
    )


def _of_file(finetuning: Finetuning) -> Source:
    """The shape that a file in `configs/` describes."""
    path = finetuning.checkpoint
    if finetuning.weights != RANDOM:
        raise UserError(
            "Finetuning.checkpoint", path, f"holds no weights; set Finetuning.weights to '{RANDOM}'"
        )
    if not finetuning.vocabulary:
        raise UserError("Finetuning.vocabulary", "", f"{path} has none; name a spm.model")
    model = pieces.load(finetuning.vocabulary)
    size = finetuning.size or "full"
    config = model_config.load(path, size=size, vocab_size=model.tokenizer.GetPieceSize())
    return Source(pathlib.Path(path).stem, config, model.data, None)


def _of_checkpoint(path: pathlib.Path, vocabulary: str | None) -> Source:
    folder = checkpoints.find(path, field="Finetuning.checkpoint")
    metadata = checkpoints.read_metadata(folder)
    config = ModelConfig.from_dict(metadata["model"], field="Finetuning.checkpoint")
    if "finetuning" in metadata:
        raise UserError(
            "Finetuning.checkpoint",
            str(path),
            "is fine-tuned already; name what it was fine-tuned from",
        )
    found = hugging_face.find_vocabulary(folder, metadata, vocabulary, flag="Finetuning.vocabulary")
    name = metadata.get("stage", folder.parent.parent.name)
    return Source(name, config, found, folder)


def _conversion(model: models.Model) -> str:
    return "encoder_to_labeller" if isinstance(model, models.Labeller) else "identity"
