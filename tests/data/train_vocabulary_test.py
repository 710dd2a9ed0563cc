"""The command that trains a vocabulary."""

from __future__ import annotations

import subprocess
import sys

import gin
import pytest

from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.data.vocabulary import Vocabulary
from seqrecipes.train_vocabulary import main


@pytest.fixture(autouse=True)
def fresh_gin():
    gin.clear_config()
    yield
    gin.clear_config()


def test_trains_on_the_sample_and_shows_how_it_fits(tmp_path, capsys):
    assert main(["--size=2000", f"--output={tmp_path}"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    vocabulary = Vocabulary(str(tmp_path / "spm.model"))
    assert vocabulary.size == 2000
    documents = list(SampleCorpus().documents("en", "train", 0))
    ids = [i for document in documents for i in vocabulary.tokenizer.encode(document)]
    characters = sum(map(len, documents)) / len(ids)
    (english,) = [row for row in table if row[:1] == ["en"]]
    assert english == [
        "en",
        "24",
        f"{len(ids):,}",
        f"{ids.count(3) / len(ids):.3%}",
        f"{characters:.2f}",
    ]
    assert vocabulary.specials.sentinels == 0
    assert table[-1] == ["wrote", str(tmp_path / "spm.model"), "(2000", "ids)"]


def test_sentinels_on_a_corpus_of_translations(tmp_path):
    arguments = ["--corpus=sample_parallel", "--size=1500", "--sentinels=101"]
    assert main([*arguments, f"--output={tmp_path}"]) == 0
    specials = Vocabulary(str(tmp_path / "spm.model")).specials
    assert (specials.vocab_size, specials.first_sentinel, specials.doc) == (1500, 1399, 1398)


def test_trains_on_files(tmp_path, capsys):
    lines = [f"the {a} river and the {b} bridge" for a in ("wide", "old") for b in ("new", "long")]
    (tmp_path / "en.txt").write_text("\n".join(lines * 50))
    arguments = [
        "--corpus=text",
        "--size=24",
        "--gin.TextFiles.document='blank_line'",
        f"--output={tmp_path}/out",
    ]
    assert main([*arguments, f"--files=en={tmp_path}/*.txt"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["en", "1"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--corpus=text"], "TextFiles.files = None: no text given"),
        (["--corpus=text", "--files=texts/en"], "--files = 'texts/en': write it as LANGUAGE=PATH"),
        (["--files=en=x"], "goes with corpus text or parallel"),
        (["--corpus=texts"], "--corpus = 'texts': choose one of "),
        (["--gin.TextFiles.fils=3"], "--gin.TextFiles.fils"),
        (["--corpus=text", "--files=en=NEW/*"], "no such file or folder"),
        (["--size=20"], "vocabulary size = 20: too small"),
        (["--alpha=2"], "--alpha = '2': must lie in [0, 1]"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, capsys, arguments, message):
    arguments = [each.replace("NEW", f"{tmp_path}/new") for each in arguments]
    try:
        status = main(["--size=2000", f"--output={tmp_path}", *arguments])
    except SystemExit as stop:  # a flag's value
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2
    assert message in captured.err and captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1 and not captured.out


def test_an_existing_vocabulary_is_kept(tmp_path, capsys):
    (tmp_path / "spm.model").write_text("precious")
    assert main(["--size=2000", f"--output={tmp_path}"]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert (tmp_path / "spm.model").read_text() == "precious"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from seqrecipes.train_vocabulary import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'tensorflow', 'seqio', 'jax'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "--output DIR" in result.stdout and result.stdout.endswith("[]\n")
