"""Checkpoints out to Hugging Face's format and back in: what `convert` and recipes do with one.

The formats are in `seqrecipes.conversion.hf`; this is the way from a checkpoint's folder to theirs:
its vocabulary, its history for the model card, the comparison with transformers.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from seqrecipes import history, models, tree
from seqrecipes.config.finetuning import Search
from seqrecipes.config.training import Partitioning
from seqrecipes.conversion import warm_start
from seqrecipes.conversion.hf import card, config, generation, labelling, load, parity
from seqrecipes.conversion.hf.export import encoder_of, export
from seqrecipes.conversion.hf.files import read_json
from seqrecipes.conversion.hf.vocabulary import FILES, Imported, read_vocabulary
from seqrecipes.data import pieces
from seqrecipes.data.corpora.corpus import texts
from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.errors import UserError
from seqrecipes.finetuning import Facts
from seqrecipes.folders import whole_folder
from seqrecipes.models import ModelConfig
from seqrecipes.training import checkpoints

log = logging.getLogger(__name__)

PARITY_FILE = "parity.json"
_ALL_DEVICES = Partitioning()
_DOCUMENTS = 4  # of each language, for the comparison


def find_vocabulary(
    checkpoint: pathlib.Path,
    metadata: Mapping[str, Any],
    given: str | None,
    *,
    flag: str = "--vocabulary",
) -> bytes:
    """The SentencePiece model that a checkpoint was trained with.

    Args:
      checkpoint: a checkpoint's folder; its run or its stage may hold the vocabulary.
      metadata: of the checkpoint.
      given: a path, or None to look in these two places.
      flag: the one that gives it.

    Raises:
      UserError: it is in neither, or the one given is another.
    """
    wanted = metadata["vocabulary"]
    if given:
        if not pathlib.Path(given).is_file():
            raise UserError(flag, given, "no such file")
        model = pathlib.Path(given).read_bytes()
        if (checksum := pieces.checksum(model)) != wanted:
            raise UserError(
                flag,
                given,
                f"has the checksum {checksum[:12]} (SHA-256); the checkpoint was trained with "
                f"{wanted[:12]}",
            )
        return model
    stage = checkpoint.parent.parent
    places = [each / "vocabulary" / pieces.MODEL_NAME for each in (stage, stage.parent)]
    for file in places:
        if file.is_file() and pieces.checksum(model := file.read_bytes()) == wanted:
            return model
    raise UserError(
        "CHECKPOINT",
        str(checkpoint),
        f"its vocabulary ({wanted[:12]}, SHA-256) is not in "
        f"{' or '.join(str(place.parent) for place in places)}; name it with {flag}",
    )


def export_stage(stage_dir: pathlib.Path, *, vocabulary: str) -> None:
    """Exports a finished stage into `hf/` of its folder, where that was not done before."""
    output = stage_dir / "hf"
    if not output.exists():
        checkpoint = checkpoints.find(stage_dir, field="MODEL_DIR")
        log.info(export_checkpoint(checkpoint, output, vocabulary=vocabulary))


def export_checkpoint(
    checkpoint: pathlib.Path,
    output: pathlib.Path,
    *,
    vocabulary: str | None = None,
    headless: bool = False,
    verify: bool = False,
    partitioning: Partitioning = _ALL_DEVICES,
) -> str:
    """Writes a checkpoint as a folder that transformers opens.

    Args:
      checkpoint: a checkpoint's folder.
      output: must not exist.
      vocabulary: path of its SentencePiece model; None looks beside the checkpoint.
      headless: the encoder alone, of a labeller without its heads.
      verify: compare with transformers, and write no folder where the two differ.
      partitioning: devices for the comparison.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: something is missing or cannot be expressed, or the comparison failed.
    """
    if verify:
        parity.libraries()  # lest their absence is found after all is written
    metadata = checkpoints.read_metadata(checkpoint)
    ours = ModelConfig.from_dict(metadata["model"], field=str(checkpoint))
    model = find_vocabulary(checkpoint, metadata, vocabulary)
    pieces_count = len(pieces.pieces(model))
    tuned = None
    if "finetuning" in metadata:
        tuned = Facts.of_checkpoint(metadata, field="SOURCE", value=str(checkpoint))
    labels = tuned.labels if tuned and not headless else {}
    whole = tuned.model(ours) if tuned else models.build(ours)
    shapes = models.shapes(whole)
    with checkpoints.disk_errors(output), whole_folder(output) as folder:
        leaves = tree.flatten(shapes)
        with tqdm(
            total=4 * sum(leaf.size for leaf in leaves.values()),
            desc=f"exporting {output.name}",
            unit="B",
            unit_scale=True,
            disable=None,
        ) as bar:

            def read(path: str) -> np.ndarray:
                leaf = checkpoints.read_leaf(checkpoint, path)
                bar.update(leaf.nbytes)
                return leaf

            if labels:
                assert isinstance(whole, models.Labeller)
                labelling.export_labeller(folder, whole, labels, read, vocabulary=model)
            else:
                export(
                    folder,
                    ours,
                    read,
                    vocabulary=model,
                    headless=headless,
                    generation=_generation(tuned.search) if tuned else {},
                )
        lines = []
        if verify:
            params = checkpoints.restore_params(checkpoint, shapes, partitioning.placement())
            compared = models.build(ours) if headless else whole
            result = _parity(folder, compared, params, model, trust=True)
            (folder / PARITY_FILE).write_text(_json(result.to_json()), "utf-8")
            lines = str(result).splitlines()
        facts = card.Facts(
            name=metadata.get("stage", output.name),
            parameters=_parameters(whole, pieces_count, headless),
            pieces=pieces_count,
            parity=lines,
            tuned=history.tuned(tuned, checkpoint) if tuned else None,
            **history.training(metadata),
        )
        shown = encoder_of(ours) if headless else ours
        (folder / "README.md").write_text(card.card(shown, facts, headless=headless), "utf-8")
    kind = config.LABELLER if labels else config.model_type(shown)
    cut = ours.vocab_size - pieces_count
    notes = [f"{cut:,} padded rows of the vocabulary's tables cut off"] if cut else []
    return "\n".join([*notes, *lines, f"written to {output} ({kind})"])


def import_folder(
    folder: pathlib.Path,
    output: pathlib.Path,
    *,
    vocabulary: str | None = None,
    sentinels: int = 0,
    verify: bool = False,
    partitioning: Partitioning = _ALL_DEVICES,
    seed: int = 0,
) -> str:
    """Makes a checkpoint, to warm-start from, of a folder in Hugging Face's format.

    Args:
      folder: a model that transformers opens.
      output: must not exist.
      vocabulary: path of a SentencePiece model to take in place of the folder's tokenizer; the
        model's own where the folder has none.
      sentinels: for span corruption, added to the folder's tokenizer.
      verify: compare with transformers, and write nothing where the two differ.
      partitioning: devices to load onto.
      seed: of a head that the folder lacks.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: the folder is no model that ours can be, or the comparison failed.
    """
    if verify:
        parity.libraries()
    placement = partitioning.placement()
    values = load.read_config(folder)
    theirs = config.from_hf(values)
    found, model = _vocabularies(folder, vocabulary, sentinels)
    imported = load.load(folder, placement=placement, seed=seed)
    lines = [f"imported {folder} ({values['model_type']})", *imported.notes]
    settings = generation.read(folder, values) if theirs.decoder_layers else {}
    if settings:
        lines.append(f"for `generate`: {', '.join(f'{k} {v}' for k, v in settings.items())}")
    files = {}
    if verify:
        result = _parity(
            folder,
            models.build(theirs),
            imported.params,
            found.model,
            trust=_is_ours(folder, values["model_type"]),
        )
        files[PARITY_FILE] = _json(result.to_json())
        lines += str(result).splitlines()
    ours, params = theirs, imported.params
    wanted = pieces.pieces(model)
    if list(found.pieces) != wanted:
        ours = dataclasses.replace(theirs, vocab_size=len(wanted))
        account = warm_start.plan(
            "new_vocabulary",
            models.parameter_shapes(theirs),
            models.parameter_shapes(ours),
            pieces=(found.pieces, wanted),
        )
        initialise = functools.partial(models.init_params, ours, seed)
        params = warm_start.apply(account, params, initialise=initialise, placement=placement)
        lines.append(str(account))
    checkpoints.save_params(
        output,
        params,
        {
            "model": ours.to_dict(),
            "converted_from": str(folder.absolute()),
            "conversion": "from_hf",
            "generation": settings,
        },
        vocabulary=model,
        account="\n".join(lines),
        files=files,
    )
    return "\n".join([*lines, f"written to {output}; use it as WarmStart.source"])


def _vocabularies(
    folder: pathlib.Path, given: str | None, sentinels: int
) -> tuple[Imported, bytes]:
    """What the rows of a folder's model mean, and the vocabulary to take it to."""
    if given is None:
        found = read_vocabulary(folder, sentinels=sentinels)
        if found.model is None:
            raise UserError(
                "--vocabulary",
                None,
                f"the tokenizer in {folder} has no SentencePiece form; name a vocabulary, and its "
                "rows are found by piece",
            )
        return found, found.model
    if sentinels:
        raise UserError("--sentinels", sentinels, "the one named with --vocabulary has its own")
    model = pieces.load(given).data
    if any((folder / name).is_file() for name in FILES):
        return read_vocabulary(folder), model
    # Without a tokenizer of its own, the vocabulary named can only be the model's.
    return Imported(model, pieces.pieces(model)), model


def _parity(
    folder: pathlib.Path,
    ours: models.Model,
    params: Mapping[str, Any],
    vocabulary: bytes | None,
    *,
    trust: bool,
) -> parity.Parity:
    """Compares on random tokens, and on the sample where the vocabulary is one of ours.

    Raises:
      UserError: transformers is not installed, or the two differ.
    """
    corpus = SampleCorpus()
    documents = {
        language: list(itertools.islice(filter(None, texts(corpus, language, "train")), _DOCUMENTS))
        for language in corpus.languages
    }
    result = parity.verify(
        folder, ours, params, vocabulary=vocabulary, texts=documents, trust=trust
    )
    if not result.passed:
        raise UserError("--verify", str(folder), "; ".join(result.failures))
    return result


def _generation(search: Search) -> dict[str, Any]:
    """How a fine-tuned model writes, in transformers' words."""
    settings: dict[str, Any] = {"max_length": search.max_length + 1}  # with the start token
    if search.beams > 1:  # the others are of beams alone
        settings["num_beams"] = search.beams
        settings["length_penalty"] = search.length_penalty
        settings["early_stopping"] = search.early_stopping
    return settings


def _parameters(ours: models.Model, pieces: int, headless: bool) -> int:
    """How many there are beside padded rows of the vocabulary's tables."""
    real = ours.clone(config=dataclasses.replace(ours.config, vocab_size=pieces))
    leaves = tree.flatten(models.shapes(real)).items()
    parts = ("encoder/", "token_embedding/") if headless else ("",)
    return sum(leaf.size for path, leaf in leaves if path.startswith(parts))


def _is_ours(folder: pathlib.Path, model_type: str) -> bool:
    """Whether all code that transformers would run for the folder is this package's."""
    files = config.code_files(model_type)
    ours = {code.stem for code in files}
    for name in ("config.json", "tokenizer_config.json"):
        file = folder / name
        values = read_json(file) if file.is_file() else {}
        # 'module.Class' in values or lists, and 'repository--module.Class' for code elsewhere.
        references = re.findall(r'"([^"]*)"', json.dumps(values.get("auto_map", [])))
        if any("." in each and each.partition(".")[0] not in ours for each in references):
            return False
    return all(
        (folder / code.name).is_file() and (folder / code.name).read_bytes() == code.read_bytes()
        for code in files
    )


def _json(values: object) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
