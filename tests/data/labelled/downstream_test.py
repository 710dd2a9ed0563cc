"""The sets of tasks/downstream.py, on little files in the layouts that it names."""

from __future__ import annotations

import gin
import pytest
import seqio

import tasks.downstream
from seqrecipes.data.labelled.examples import read
from seqrecipes.data.labelled.registry import get_set
from seqrecipes.data.seqio.labelled import task_name
from seqrecipes.data.seqio.registration import register
from tests.data.labelled.little import PAIRS, PARSE, SLOTS, SUMS, TAGS, write_file

SETS = {s.name: s for s in tasks.downstream.SETS}
TWELVE = "ar de en es fr hi it ja mr pt ta te"
LANGUAGES = {
    "xnli": "ar de en es fr hi",
    "pawsx": "de en es fr ja",
    "udpos": TWELVE,
    "panx": TWELVE,
    "matis": "de en es fr hi ja pt",
    "xsid": "ar de en it ja",
    "mtop": "de en es fr hi",
    "xsum": "en",
    "scitldr": "en",
    "ntrex": " ".join(
        sorted(pair for x in TWELVE.split() if x != "en" for pair in (f"{x}-en", f"en-{x}"))
    ),
}
FILES = {
    "xnli": {"en/train.tsv": PAIRS},
    "pawsx": {"en/train.tsv": PAIRS},
    "udpos": {"en/train.tsv": TAGS},
    "panx": {"en/train.tsv.gz": TAGS},
    "matis": {"train_EN.tsv": SLOTS},
    "xsid": {"en/train.tsv": SLOTS},
    "mtop": {"en/train.txt": PARSE},
    "xsum": {"train.jsonl": SUMS},
    "scitldr": {"train.jsonl.gz": SUMS},
    "ntrex": {"train.en.txt": "It rains.\n", "train.te.txt": "a b c d వర్షం.\n"},
}


def test_sets_and_languages():
    assert {name: " ".join(sorted(s.languages)) for name, s in SETS.items()} == LANGUAGES


def test_every_language_has_a_task_and_every_set_its_mixtures():
    register()
    for labelled_set in SETS.values():
        names = {task_name(labelled_set, language) for language in labelled_set.languages}
        assert names <= set(seqio.TaskRegistry.names())
        assert {t.name for t in seqio.MixtureRegistry.get(labelled_set.name).tasks} == names
    for name in ("xnli", "pawsx", "udpos", "panx", "matis", "xsid", "mtop"):
        mixture = seqio.MixtureRegistry.get(f"{name}.zero_shot")
        expected = {f"{name}.{x}" for x in SETS[name].languages if x != "en"}
        assert {task.name for task in mixture.tasks} == expected
    assert "ntrex.en_de" in seqio.TaskRegistry.names()


@pytest.mark.parametrize("name", LANGUAGES)
def test_little_files_of_every_set(name, tmp_path, vocabulary):
    for path, text in FILES[name].items():
        write_file(tmp_path / path, text)
    gin.clear_config()
    gin.bind_parameter("LabelledFiles.folder", {name: str(tmp_path)})
    lengths = {"encoder_input_tokens": 48}
    if SETS[name].kind == "generation":
        lengths["decoder_target_tokens"] = 64
    language = "en-te" if name == "ntrex" else "en"
    examples = read(name, language, "train", lengths=lengths, vocabulary=vocabulary)
    assert len(examples.inputs) == len(get_set(name).records(language, "train")) > 0
    for function in SETS[name].metric_fns:
        assert all(
            score > 99.9 for score in function(examples.references, right(examples)).values()
        )
    gin.clear_config()


def right(examples):
    """Predictions that equal the references; of alternatives, the first."""
    return [r[0] if isinstance(r, list) and " " in "".join(r) else r for r in examples.references]
