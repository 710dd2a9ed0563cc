"""The wrong inputs: from declarations of fields and flags, from names, and by hand."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import pathlib
import shlex
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union
from unittest import mock

import gin

from seqrecipes import configuration
from seqrecipes.config import flags as flags_of
from seqrecipes.config.bindings import Bindings
from seqrecipes.config.check import Range
from seqrecipes.models import ModelConfig
from tests.reliability.wrong_inputs import COMMANDS, Case

TRAIN = ("--gin_file=gin/2stage_unfrz.gin", "--gin_file=gin/demo.gin", "--dry_run")
TUNE = ("--gin_file=gin/finetune/udpos.gin", "--gin_file=gin/finetune/demo.gin", "--dry_run")
WRITE = ("--gin_file=gin/finetune/mtop.gin", "--gin_file=gin/finetune/demo.gin", "--dry_run")
PROTOCOL = ("--gin_file=gin/protocol.gin", "--dry_run")
RUN = "--gin.MODEL_DIR='{run}'"
# With these every command below is whole but for what makes the input wrong.
BASES = {
    "train": (*TRAIN, RUN),
    "finetune": (*TUNE, RUN, "--gin.CHECKPOINT='{tmp}/encoder'", "--gin.LABELLED_FILES='{tmp}'"),
    "protocol": (*PROTOCOL, RUN, "--gin.LABELLED_FILES='{tmp}'"),
    "plan": ("--gin_file=gin/roberta_12e.gin", "--gin_file=gin/demo.gin"),
    "prepare": (
        *("--corpus=sample", "--vocabulary={tmp}/encoder/vocabulary/spm.model"),
        *("--output={run}", "--dry_run"),
    ),
    "convert": ("{tmp}/encoder", "{run}", "--conversion=identity", "--dry_run"),
    "train_vocabulary": ("--size=1000", "--output={run}"),
    "inspect_task": ("sample.mlm", "--vocabulary={tmp}/encoder/vocabulary/spm.model"),
    "report": ("{tmp}/runs",),
    "tables": ("{tmp}/runs",),
    "evaluate": ("--checkpoint={tmp}/tuned",),
    "generate": ("--checkpoint={tmp}/seq2seq", "--input={tmp}/text.txt"),
}


def all_cases() -> list[Case]:
    """All of them, each once."""
    found = [*of_fields(), *of_models(), *of_names(), *of_flags(), *by_hand()]
    return list(dict.fromkeys(found))


def few_cases() -> list[Case]:
    """Some of each kind, for a test of seconds: those that end before the text is read."""
    kinds = [list(of_fields()), list(of_names()), list(of_flags())]
    return [case for cases in kinds for case in cases[:: max(1, len(cases) // 20)]]


def wrong_values(declared: Any) -> Iterator[str]:
    """Texts, as in a gin file, of values that a declaration does not accept."""
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is Annotated:
        yield from wrong_values(arguments[0])
        for each in arguments[1:]:
            if isinstance(each, Range):
                yield from _outside(each, arguments[0])
    elif origin in (Union, types.UnionType):
        yield from ("@Recipe", "12.5") if str in arguments else ("@Recipe", "[2.5]")
    elif origin is Literal:
        yield from ("'nonsense'", "3")
    elif declared is int:
        yield from ("8.0", "2.5", "'ten'", "True", "[1]", "None")
    elif declared is float:
        yield from ("'ten'", "True", "1e999", "[0.1]", "None")
    elif declared is bool:
        yield from ("'False'", "1", "None")
    elif declared is str:
        yield from ("3", "['x']", "None", "True")
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        yield from ("'text'", "3", "None", "[@Recipe]")
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from ("'text'", "[1]", "None")
    elif isinstance(declared, type):
        yield from (f"'{declared.__name__}'", "3", f"@{declared.__name__}")


def _outside(allowed: Range, kind: type) -> Iterator[str]:
    for bound, step in ((allowed.least, -1), (allowed.most, 1)):
        if abs(bound) < 2**65:
            value = bound + (3 * step if allowed.also is not None else step)
            yield str(int(value) if kind is int else float(value))
    for bound in (allowed.above, allowed.below):
        if abs(bound) < 2**65:
            yield str(int(bound) if kind is int else float(bound))


def of_fields() -> Iterator[Case]:
    """Every field that gin fills, with values of other types and out of range."""
    made = {
        "train": ("--gin.Stage.loss=@Loss()",),
        "finetune": ("--gin.Finetuning.search=@Search()", "--gin.Finetuning.loss=@Loss()"),
    }
    parts = {
        "train": (
            "train",
            "Recipe",
            "Stage",
            "Phase",
            "WarmStart",
            "AdamW",
            "Loss",
            "Partitioning",
            "Checkpointing",
        ),
        "finetune": ("finetune", "Finetuning", "Search"),
        "protocol": ("protocol",),
    }
    for command, names in parts.items():
        base = (*BASES[command], *made.get(command, ()))
        bindings = _bindings(command, base)
        for name in names:
            cls = configuration.CONFIGURABLES[name]
            hints = typing.get_type_hints(cls, include_extras=True)
            for field in dataclasses.fields(cls):
                for scope in sorted(bindings.calls.get(name, {""}), reverse=True)[:1]:
                    winner = bindings.winner(scope, name, field.name)
                    key = str(winner) if winner else f"{name}.{field.name}"
                    for value in wrong_values(hints[field.name]):
                        if value == "None" and field.default is None:
                            continue
                        yield Case(command, (*base, f"--gin.{key}={value}"))
    own = ("--gin.CORPUS='text'", "--gin.TEXT_FILES={'en': '{tmp}/en'}")
    cls = configuration.CONFIGURABLES["TextFiles"]
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        for value in wrong_values(hints[field.name]) if field.init else ():
            if value != "None" or field.name not in ("files", "validation_files"):
                yield Case(
                    "train", (*BASES["train"], *own, f"--gin.TextFiles.{field.name}={value}")
                )


def _bindings(command: str, base: Sequence[str]) -> Bindings:
    gin.clear_config()
    files = [each.partition("=")[2] for each in base if each.startswith("--gin_file=")]
    flags = [each[6:].replace("=", " = ", 1) for each in base if each.startswith("--gin.")]
    configuration.load(files, flags, root=command)
    found = Bindings(gin.config_str(max_line_length=10_000), [command])
    gin.clear_config()
    return found


def of_models() -> Iterator[Case]:
    """Every field of a model, by a recipe and by the converter."""
    hints = typing.get_type_hints(ModelConfig, include_extras=True)
    for name, declared in hints.items():
        for value in list(wrong_values(declared))[::2]:
            override = f"{{'{name}': {value}}}"
            yield Case("train", (*BASES["train"], f"--gin.mlm/Stage.model_overrides={override}"))
        value = next(wrong_values(declared))
        yield Case("convert", (*BASES["convert"], f"--set={name}={value}"))


def of_names() -> Iterator[Case]:
    """Names that are almost right: macros, configurables, arguments, scopes, stages."""
    bindings = _bindings("train", BASES["train"])
    for macro in bindings.macros:
        yield Case("train", (*BASES["train"], f"--gin.{macro[:-1]}=1"))
    for name in ("Recipe", "Stage", "AdamW", "Checkpointing", "TextFiles", "Finetuning"):
        cls = configuration.CONFIGURABLES[name]
        for argument in list(inspect.signature(cls).parameters)[::3]:
            yield Case("train", (*BASES["train"], f"--gin.{name}.{argument}_=1"))
        yield Case("train", (*BASES["train"], f"--gin.{name}s.x=1"))
    for key in (
        "Stage.model='x'",
        "Phase.steps=3",
        "mlm/Phase.freeze=[",
        "mlmm/Stage.name='x'",
        "WarmStart='x'",
        "Search.beams=3",
        "finetune.model_dir='x'",
        "AdamW=3",
    ):
        yield Case("train", (*BASES["train"], f"--gin.{key}"))


def _parser(command: str) -> argparse.ArgumentParser:
    class Found(Exception):
        pass

    def stop(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise Found(self)

    with mock.patch.object(flags_of.Parser, "parse_args", stop):
        try:
            importlib.import_module(f"seqrecipes.{command}").main([])
        except Found as found:
            return found.args[0]
    raise AssertionError(f"{command} has no parser of ours")


def of_flags() -> Iterator[Case]:
    """Every flag of every command: its name cut off, no value, and values that it cannot have."""
    for command in COMMANDS:
        for action in _parser(command)._actions:
            flag = next((each for each in action.option_strings if each.startswith("--")), None)
            if flag is None or flag == "--help":
                continue
            base = tuple(each for each in BASES[command] if each.partition("=")[0] != flag)
            given = "" if action.nargs == 0 else "=1"
            yield Case(command, (*base, f"{flag[:-1]}{given}"))
            yield Case(command, (*base, f"{flag}_{given}"))
            if action.nargs == 0:
                yield Case(command, (*base, f"{flag}=yes"))
                continue
            yield Case(command, (*base, flag))
            if action.choices is not None:
                yield Case(command, (*base, f"{flag}=nonsense"))
            elif getattr(action.type, "__name__", "") == "read":  # a number
                for value in (
                    "",
                    "ten",
                    "nan",
                    "1e999",
                    "-5" if flag != "--length_penalty" else "x",
                ):
                    yield Case(command, (*base, f"{flag}={value}"))
        yield Case(command, (*BASES[command], "--nonsense"))
        yield Case(command, (*BASES[command], "one", "more", "argument"))


def by_hand() -> Iterator[Case]:
    """Files, folders, combinations, and what the others do not reach: `wrong_inputs.txt`."""
    text = pathlib.Path(__file__).with_name("wrong_inputs.txt").read_text("utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            command, *given = shlex.split(line)
            yield Case(command, _with_base(command, given))


def _with_base(command: str, given: Sequence[str]) -> tuple[str, ...]:
    if given[:1] != ["BASE"]:
        return tuple(given)
    named = {each.partition("=")[0] for each in given if each.startswith("--")}
    base = (
        each
        for each in BASES[command]
        if each.startswith("--gin") or each.partition("=")[0] not in named
    )
    return (*base, *given[1:])


def write_files(folder: pathlib.Path) -> None:
    """The files and checkpoints that inputs name as `{tmp}/...`; made in a process of its own."""
    (folder / "text.txt").write_text("A line of text.\n" * 50)
    (folder / "blank.txt").write_text("\n\n\n")
    (folder / "binary").write_bytes(bytes(range(256)) * 8)
    (folder / "binary.txt").write_bytes(bytes(range(128, 256)) * 8)
    (folder / "empty").write_text("")
    (folder / "empty_folder").mkdir()
    (folder / "en").mkdir()
    (folder / "en" / "a.txt").write_text("A line of text.\n" * 500)
    (folder / "itself.gin").write_text(f"include '{folder}/itself.gin'\n")
    (folder / "includes.gin").write_text("include 'gin/nothing.gin'\n")
    (folder / "unclosed.gin").write_text("X = [1, 2\n")
    (folder / "unknown.gin").write_text("Nothing.x = 3\n")
    (folder / "imports.gin").write_text("import nothing_of_that_name\n")
    (folder / "shadowed.gin").write_text("Stage.model = 'configs/roberta_12e.py'\n")
    for name in ("broken_run/recipe.json", "broken_scores/scores.json", "broken/model.json"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("{")
    (folder / "broken" / "checkpoints" / "5").mkdir(parents=True)
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=_write_checkpoints, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0


def _write_checkpoints(folder: pathlib.Path) -> None:
    from seqrecipes import models
    from seqrecipes.data import vocabulary
    from seqrecipes.data.corpora.sample import SampleCorpus
    from seqrecipes.models import config as model_config
    from seqrecipes.training import checkpoints

    texts = vocabulary.sample_texts(SampleCorpus())
    pieces = vocabulary.train_vocabulary(texts, 1_000, folder / "vocabulary").read_bytes()
    small = {"hidden_size": 16, "mlp_size": 16, "num_heads": 2}
    for name, file in (("encoder", "roberta_12e"), ("seq2seq", "bart_12e1d")):
        config = model_config.load(
            f"configs/{file}.py", size="mini", vocab_size=1_000, overrides=small
        )
        params = models.init_params(config, 0)
        metadata = {"model": config.to_dict()}
        checkpoints.save_params(folder / name, params, metadata, vocabulary=pieces, account="")
