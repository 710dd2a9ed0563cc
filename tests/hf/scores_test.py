"""Our scores and predictions by an independent path: files, transformers and the metric libraries.

The models are so small and the sets so plain that they are learned: no decision is a near tie.
"""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import gin
import pytest

from benchmarks import independent_scores
from seqrecipes import convert
from seqrecipes.config.finetuning import Search
from seqrecipes.config.optimizers import AdamW
from seqrecipes.data.labelled.local_files import LabelledFiles
from seqrecipes.downstream.runs import Run
from tests.downstream import tiny_runs

# Wide margins, in logits; float32 sums in another order differ by less than 1e-4.
DECIDED = 1e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any, vocabulary: bytes) -> Any:
    """Checkpoints and sets; the sets are found while the tests of this file run."""
    folder = tmp_path_factory.mktemp("scores")
    tiny_runs.checkpoint(folder / "encoder", vocabulary)
    tiny_runs.checkpoint(folder / "post", vocabulary, norm="post")
    tiny_runs.checkpoint(folder / "seq2seq", vocabulary, decoder_layers=1)
    tiny_runs.write_udpos(folder / "data")
    tiny_runs.write_xnli(folder / "data")
    tiny_runs.write_xsid(folder / "data")
    tiny_runs.write_scitldr(folder / "data")
    # A word without pieces, and a sentence that is longer than what is read.
    with open(folder / "data" / "udpos" / "de" / "test.tsv", "a", encoding="utf-8") as file:
        file.write("the\tDET\n\u200b\tNOUN\nsings\tVERB\n\n" + "river\tNOUN\n" * 30 + "\n")
    gin.clear_config()
    gin.bind_parameter(f"{LabelledFiles.__name__}.folder", str(folder / "data"))
    yield folder
    gin.clear_config()


def tuned(folder: Path, name: str, source: str, **changes: Any) -> Path:
    """The folder of a fine-tuned seed, and beside it its export."""
    job = tiny_runs.finetuning(set=name, checkpoint=str(folder / source), **changes)
    run = folder / f"{name}-{source}"
    Run(job, str(run)).execute()
    assert convert.main(["--to=hf", str(run / "0"), str(run / "hf")]) == 0
    return run


LEARNED = {"epochs": 100, "max_updates": 120, "validate_every": 40}
LABELLING = {
    "udpos": ("encoder", {"metric": "f1", "languages": ("en", "de")}),
    "xnli": ("post", {"metric": "accuracy", "languages": ("en", "fr")}),
    "xsid": ("seq2seq", {"metric": "slot_f1", "languages": ("en", "de")}),
}


def compared(folder: Path, run: Path, name: str, capsys: Any) -> tuple[int, str]:
    capsys.readouterr()
    status = independent_scores.main(
        [
            f"--exported={run / 'hf'}",
            f"--data={folder / 'data' / name}",
            f"--run={run / '0'}",
            "--batch=4",
        ]
    )
    return status, capsys.readouterr().out


def margin(text: str) -> float:
    """The narrowest decision of all languages."""
    return min(float(part.split(" ")[0]) for part in text.split("least margin ")[1:])


@pytest.mark.parametrize("name", LABELLING)
def test_labels(folder, name, capsys):
    source, changes = LABELLING[name]
    run = tuned(folder, name, source, **LEARNED, **changes)
    status, text = compared(folder, run, name, capsys)
    assert margin(text) > DECIDED
    assert status == 0, text
    scores = json.loads((run / "0" / "scores.json").read_text())["scores"]
    for language, figures in scores.items():
        for metric, value in figures.items():
            line = next(x for x in text.splitlines() if x.split()[:2] == [language, metric])
            assert line.split()[2:] == [f"{value:.8f}"] * 2
    assert text.count("\n") == 1 + sum(1 + len(figures) for figures in scores.values())
    assert max(scores["en"].values()) == 100.0, "what is so plain is learned"


def test_texts(folder, capsys):
    run = tuned(
        folder,
        "scitldr",
        "seq2seq",
        metric="perplexity",
        lengths={"encoder_input_tokens": 24, "decoder_target_tokens": 12},
        languages=("en",),
        freeze=(),
        optimizer=AdamW(peak=1e-2, warmup_steps=1, floor=0.0),
        search=Search(beams=3, max_length=12, length_penalty=0.5, early_stopping=True),
        **LEARNED,
    )
    status, text = compared(folder, run, "scitldr", capsys)
    assert status == 0, text
    assert "0 of 3 lines differ" in text
    lines = (run / "0" / "predictions" / "en.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    written = {row["prediction"] for row in rows}
    assert len(written - {""}) > 1, "one text for all proves little"
    card = (run / "hf" / "README.md").read_text("utf-8")
    assert "On `scitldr`, language en" in card
    assert "rouge1, %" in card
    # What is exported writes so by itself.
    settings = json.loads((run / "hf" / "generation_config.json").read_text())
    assert settings["num_beams"] == 3
    assert settings["max_length"] == 13  # with the start token
    assert settings["length_penalty"] == 0.5
    assert settings["early_stopping"] is True


@pytest.mark.parametrize("what", ["a prediction", "a reference", "a line", "a figure"])
def test_a_difference_is_seen(folder, tmp_path, capsys, what):
    run = folder / "xnli-post"
    if not run.exists():
        run = tuned(folder, "xnli", "post", **LEARNED, **LABELLING["xnli"][1])
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "0" / "predictions" / "fr.jsonl"
    lines = file.read_text().splitlines()
    first = json.loads(lines[0])
    match what:
        case "a prediction":
            lines[0] = json.dumps(first | {"prediction": "neutral"})
        case "a reference":
            lines[0] = json.dumps(first | {"reference": "neutral"})
        case "a line":
            del lines[-1]
        case "a figure":
            scores = tmp_path / "run" / "0" / "scores.json"
            values = json.loads(scores.read_text())
            values["scores"]["fr"]["accuracy"] -= 1e-6
            scores.write_text(json.dumps(values))
    file.write_text("".join(f"{line}\n" for line in lines))
    status, text = compared(folder, tmp_path / "run", "xnli", capsys)
    assert status == 1
    assert ("fr       1 of 6 lines differ" in text) is (what != "a figure")


def test_it_shares_no_code_with_ours():
    tree = ast.parse(Path(independent_scores.__file__).read_text("utf-8"))
    names = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [each.name for each in node.names]
        )
    ]
    assert "transformers" in names
    assert not [name for name in names if name.split(".")[0] in ("seqrecipes", "tasks", "tests")]
