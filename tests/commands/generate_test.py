"""The command that writes texts: order, widths, what is cut and said, what is refused."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from seqrecipes import convert, generate, tree
from seqrecipes.config.finetuning import Search
from seqrecipes.conversion.hf.export import export
from seqrecipes.conversion.hf.vocabulary import read_vocabulary
from seqrecipes.data import pieces
from seqrecipes.downstream import writing
from seqrecipes.models import ModelConfig, build
from seqrecipes.models.decoding import make_generate
from seqrecipes.training import checkpoints
from tests.commands.harness import ROOT
from tests.models import tiny

LINES = ["The cat sat.", "", "Es regnet seit drei Tagen, und niemand weiß warum.", "no", "yes"]
LENGTH = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory, vocabulary) -> dict[str, pathlib.Path]:
    """Of an encoder, of a seq2seq model with more rows than pieces, and an export of that."""
    parent = tmp_path_factory.mktemp("checkpoints")
    result = {}
    for name, layers in (("encoder", 0), ("seq2seq", 2)):
        config = tiny.config(
            vocab_size=len(pieces.pieces(vocabulary)) + 8, decoder_layers=layers, max_positions=40
        )
        params = tiny.random_params(build(config), dtype="float32")
        checkpoints.save_params(
            parent / name,
            params,
            {"model": config.to_dict(), "converted_from": "chance", "conversion": "none"},
            vocabulary=vocabulary,
            account="random",
        )
        result[name] = parent / name
    result["exported"] = parent / "exported"
    result["exported"].mkdir()
    leaves = tree.flatten(params)
    export(result["exported"], config, leaves.__getitem__, vocabulary=vocabulary)
    return result


def run(folder: pathlib.Path, tmp_path: pathlib.Path, lines: list[str], *more: str) -> str:
    """What the command writes to a file."""
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    flags = ["--input", str(source), "--output", str(output), f"--max_length={LENGTH}", *more]
    assert generate.main([f"--checkpoint={folder}", *flags]) == 0
    return output.read_text("utf-8")


def by_hand(folder: pathlib.Path, vocabulary: bytes, line: str, search: Search) -> tuple[Any, Any]:
    """Texts and scores of one line, written alone."""
    checkpoint = checkpoints.find(folder, field="folder")
    config = ModelConfig.from_dict(checkpoints.read_metadata(checkpoint)["model"], field="test")
    shapes = tree.flatten(tiny.shapes(build(config)))
    params = tree.unflatten({path: checkpoints.read_leaf(checkpoint, path) for path in shapes})
    model = pieces.parse(vocabulary, "vocabulary")
    ids = [0, *model.tokenizer.EncodeAsIds(line), 2]
    count = len(pieces.pieces(vocabulary))
    found = make_generate(build(config), search, pieces=count)(params, np.array([ids], np.int32))
    texts = [
        writing.text(model, row[:length].tolist())
        for row, length in zip(found.tokens[0], found.lengths[0], strict=True)
    ]
    return texts, found.scores[0].tolist()


def test_a_line_out_for_every_line_in(folders, vocabulary, tmp_path):
    expected = [
        by_hand(folders["seq2seq"], vocabulary, line, Search(3, LENGTH))[0][0] if line else ""
        for line in LINES
    ]
    assert len(set(expected)) > 3
    found = run(folders["seq2seq"], tmp_path, LINES)
    assert found == "".join(f"{text}\n" for text in expected)
    # Another grouping of lines, and another search.
    many = [LINES[i % len(LINES)] for i in range(40)]
    found = run(folders["seq2seq"], tmp_path, many, "--batch_size=8")
    assert found.split("\n")[:-1] == [expected[i % len(LINES)] for i in range(40)]
    assert run(folders["seq2seq"], tmp_path, LINES, "--beams=1") != found


def test_the_best_of_a_line_come_as_json(folders, vocabulary, tmp_path):
    flags = ("--best=2", "--beams=4", "--length_penalty=0.5")
    rows = [
        json.loads(row) for row in run(folders["seq2seq"], tmp_path, LINES, *flags).splitlines()
    ]
    assert [row["input"] for row in rows] == LINES
    assert rows[1]["hypotheses"] == []
    search = Search(4, LENGTH, 0.5, best=2)
    for row in rows[:1] + rows[2:]:
        texts, scores = by_hand(folders["seq2seq"], vocabulary, row["input"], search)
        assert [each["text"] for each in row["hypotheses"]] == texts
        assert [each["score"] for each in row["hypotheses"]] == pytest.approx(scores, rel=1e-4)


def test_an_export_writes_what_its_checkpoint_does(folders, tmp_path):
    ours = run(folders["seq2seq"], tmp_path, LINES)
    assert run(folders["exported"], tmp_path, LINES) == ours


def test_a_line_that_is_too_long_is_cut_and_named(
    folders, vocabulary, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(generate, "_WINDOW", 1)
    tokenizer = pieces.parse(vocabulary, "vocabulary").tokenizer
    long = "many words " * 30
    count = len(tokenizer.EncodeAsIds(long)) + 2
    lines = ["short"] * 20 + [long]
    found = run(folders["seq2seq"], tmp_path, lines, "--batch_size=8").splitlines()
    assert capsys.readouterr().err == (
        "1 of 21 lines are longer than the 40 tokens that the model reads and were cut there; the "
        f"longest has {count}. Lines: 21\n"
    )
    ids = tokenizer.EncodeAsIds(long)[:38]
    kept = tokenizer.DecodeIds(ids)
    assert tokenizer.EncodeAsIds(kept) == ids
    assert run(folders["seq2seq"], tmp_path, [kept]).splitlines() == [found[20]]
    assert capsys.readouterr().err == ""


def test_batches_have_few_widths_and_every_line_once():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 300, 1000).tolist()
    found = list(writing.batches(lengths, 300, 16))
    assert sorted(i for _, chosen in found for i in chosen) == [
        i for i, length in enumerate(lengths) if length
    ]
    assert {width for width, _ in found} == {32, 64, 128, 256, 300}
    for width, chosen in found:
        assert len(chosen) <= 16
        assert all(
            lengths[i] <= width and (width == 32 or 2 * lengths[i] > min(width, 256))
            for i in chosen
        )
    assert sum(len(chosen) < 16 for _, chosen in found) <= 5


def test_special_pieces_are_left_out_as_in_scoring(vocabulary):
    model = pieces.parse(vocabulary, "vocabulary")
    ids = model.tokenizer.EncodeAsIds("The cat")
    unknown, last = 3, model.tokenizer.GetPieceSize() - 1
    doc = pieces.specials(model).doc
    assert writing.text(model, [0, *ids, last, unknown, doc, *ids, 2, *ids]) == "The cat The cat"
    assert writing.text(model, [0, 2]) == ""


def test_many_cut_lines_are_one_line(folders, tmp_path, capsys):
    run(folders["seq2seq"], tmp_path, ["many words " * 30] * 13, "--beams=1", "--max_length=2")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("13 of 13 lines are longer")
    assert error.endswith("Lines: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, and 3 more\n")


def copied(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path, **settings: Any) -> Any:
    folder = shutil.copytree(folders["exported"], tmp_path / "copied")
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def test_what_a_folder_says_of_writing_is_taken_over_and_imported(folders, tmp_path):
    """Its own greedy search of three tokens with the first one forced; flags win."""
    settings = {"num_beams": 1, "max_length": 4, "forced_bos_token_id": 50}
    folder = copied(folders, tmp_path, decoder_start_token_id=9, **settings)
    source, output = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text("Es regnet.\n", "utf-8")
    assert convert.main(["--from=hf", str(folder), str(tmp_path / "in")]) == 0
    written = []
    for checkpoint, *flags in (
        (folder, "--beams=1", "--max_length=3"),
        (folder,),
        (tmp_path / "in",),
        (folder, "--max_length=5"),
    ):
        flags += [f"--input={source}", f"--output={output}", "--best=1"]
        assert generate.main([f"--checkpoint={checkpoint}", *flags]) == 0
        written.append(json.loads(output.read_text("utf-8"))["hypotheses"])
    assert written[0] == written[1] == written[2] != written[3]
    first = read_vocabulary(folder).pieces[50].replace("▁", " ").strip()
    assert written[0][0]["text"].startswith(first)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("no_repeat_ngram_size", 3), ("min_length", 10), ("do_sample", True)),
        *(("suppress_tokens", [5]), ("bad_words_ids", [[5]]), ("repetition_penalty", 1.2)),
        *(("eos_token_id", 7), ("forced_bos_token_id", 10**6), ("decoder_start_token_id", "x")),
        *(("num_beams", "four"), ("forced_eos_token_id", [1, 2]), ("length_penalty", [1])),
    ],
)
def test_what_our_search_does_not_do_is_refused_by_name(folders, tmp_path, capsys, field, value):
    folder = copied(folders, tmp_path, **{field: value})
    (tmp_path / "in.txt").write_text("yes\n")
    assert generate.main([f"--checkpoint={folder}", f"--input={tmp_path / 'in.txt'}"]) == 2
    error = capsys.readouterr().err
    assert f"generation_config.json: {field} = " in error and error.count("\n") == 1


def test_it_reads_and_writes_standard_streams_and_shows_no_bar_there(folders):
    command = [sys.executable, "-m", "seqrecipes.generate", f"--checkpoint={folders['seq2seq']}"]
    done = subprocess.run(
        [*command, "--max_length=6", "--beams=1"],
        input="\nweiß\r\n".encode(),
        capture_output=True,
        cwd=ROOT,
        env=dict(os.environ) | {"PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr.decode()
    empty, text, end = done.stdout.decode("utf-8").split("\n")
    assert (empty, end) == ("", "")
    assert text
    assert done.stderr == b""


def test_ctrl_c_ends_it_with_130(folders, tmp_path, monkeypatch, capsys):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing.Writer, "write", interrupt)
    (tmp_path / "in.txt").write_text("yes\n")
    flags = [f"--checkpoint={folders['seq2seq']}", f"--input={tmp_path / 'in.txt'}"]
    assert generate.main([*flags, f"--output={tmp_path / 'out.txt'}"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("encoder", [], "--checkpoint = .*: an encoder alone writes no text"),
        ("nowhere", [], "--checkpoint = .*: does not exist"),
        ("seq2seq", ["--max_length=41"], r"Search\.max_length = 41: this model writes at most 40"),
        ("seq2seq", ["--best=4"], r"Search\.best = 4: there are no more than 3 beams"),
        ("seq2seq", ["--best=0"], "--best = '0': must be at least 1"),
        ("seq2seq", ["--max_length=0"], "--max_length = '0': must be at least 1"),
        ("seq2seq", ["--batch_size=0"], "--batch_size = '0': must be at least 1"),
        ("seq2seq", ["--vocabulary=nowhere"], "--vocabulary = 'nowhere': no such file"),
        ("seq2seq", ["--input=nowhere"], "--input = 'nowhere': No such file"),
        ("seq2seq", ["--output=no/where"], "--output = 'no/where': No such file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(folders, tmp_path, capsys, name, flags, message):
    (tmp_path / "in.txt").write_text("yes\n")
    folder = folders.get(name, tmp_path / "nowhere")
    given = [f"--checkpoint={folder}", f"--input={tmp_path / 'in.txt'}", *flags]
    try:
        assert generate.main(given) == 2
    except SystemExit as stop:
        assert stop.code == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1


def test_input_that_is_not_utf8_is_refused(folders, tmp_path, capsys):
    (tmp_path / "in.txt").write_bytes(b"caf\xe9\n")
    flags = [f"--checkpoint={folders['seq2seq']}", f"--input={tmp_path / 'in.txt'}"]
    assert generate.main(flags) == 2
    assert "is not UTF-8" in capsys.readouterr().err
