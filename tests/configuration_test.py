"""gin files and flags: what changes nothing is refused, and what is almost right is said."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import gin
import pytest

from seqrecipes import configuration
from seqrecipes.config import flags
from seqrecipes.config.bindings import Bindings, Key
from seqrecipes.config.recipe import train
from seqrecipes.errors import UserError
from tests.commands.harness import ROOT

TWO_STAGES, ONE_STAGE = "gin/2stage.gin", "gin/roberta_12e.gin"
RECIPES = [
    f"gin/{name}.gin"
    for name in (
        *("roberta_12e", "bart_12e12d", "bart_12e12d_mask", "bart_12e12d_mlm", "bart_12e1d_mask"),
        *("bart_12e2d", "bart_12e2d_mask", "2stage", "2stage_attn_f", "2stage_unfrz"),
    )
]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    gin.clear_config()
    yield
    gin.clear_config()


def refused(files: list[str], *bindings: str) -> str:
    with pytest.raises(UserError) as caught:
        configuration.load(files, bindings, root="train")
        with configuration.required_values():
            train()
    return str(caught.value).split("\n")[0]


@pytest.mark.parametrize(
    ("file", "binding", "words"),
    [
        (TWO_STAGES, "Stage.model = 'x'", "mlm/Stage.model and seq2seq/Stage.model win"),
        (ONE_STAGE, "Stage.objective = 'x'", "changes nothing: mlm/Stage.objective win"),
        (ONE_STAGE, "WarmStart.source = 'x'", "Stage.warm_start = @WarmStart() would"),
        (ONE_STAGE, "Loss.z_loss = 1e-4", "no Loss is made here; Stage.loss = @Loss() would"),
        (TWO_STAGES, "finetune.model_dir = 'x'", "no finetune is made here"),
        (TWO_STAGES, "mlmm/Stage.size = 'x'", "mlm/Stage, seq2seq/Stage; did you mean mlm?"),
        (TWO_STAGES, "MLM_STEP = 5", "did you mean MLM_STEPS?"),
        (TWO_STAGES, "EXTRACTED_PEAK = 5", "nothing reads it; macros are"),
        (TWO_STAGES, "Recipe.log_evry = 5", "Recipe has no log_evry; did you mean log_every?"),
        (TWO_STAGES, "Staje.size = 5", "there is no Staje; did you mean Stage?"),
        (TWO_STAGES, "SIZE = 'mini", "a quote is not closed"),
        (TWO_STAGES, "SIZE = mini", "strings need quotes: --gin.SIZE=\"'mini'\""),
        (TWO_STAGES, "SHARED = ['a'", "a bracket is not closed"),
        (TWO_STAGES, "EXPORT_HF = false", "write False"),
        (TWO_STAGES, "SIZE = ", "write a value"),
        (
            TWO_STAGES,
            "CORPUS = %CORPS",
            "CORPUS reads it and nothing sets it; did you mean CORPUS?",
        ),
        (TWO_STAGES, "EXPORT_HF = 'False'", "must be True or False, without quotes"),
        (TWO_STAGES, "MLM_STEPS = 1e3", "must be a whole number: write 1000"),
        (TWO_STAGES, "mlm/Stage.phases = [@mlm/Phase]", "must be a Phase: @Phase()"),
        ("gin/2stag.gin", "SIZE = 'mini'", "no such file; did you mean gin/2stage.gin?"),
        ("gin", "SIZE = 'mini'", "is a folder"),
        ("gin/protocol.gin", "SEEDS = [0]", "is for python -m seqrecipes.protocol"),
    ],
)
def test_mistakes_of_flags(file: str, binding: str, words: str) -> None:
    text = refused([file], binding)
    assert words in text
    if "out of range" in words or "without quotes" in words or "did you mean" in words:
        assert "strings need quotes" not in text


def test_a_number_out_of_range_needs_no_quotes() -> None:
    assert refused([TWO_STAGES], "PEAK = -1.0") == "AdamW.peak = -1.0: must be above 0"


def test_a_file_must_change_something_too(tmp_path: pathlib.Path) -> None:
    own = tmp_path / "own.gin"
    own.write_text("Stage.model = 'configs/roberta_12e.py'\n")
    assert "mlm/Stage.model and seq2seq/Stage.model win" in refused([TWO_STAGES, str(own)])
    own.write_text("WarmStart.source = 'runs/x'\n")
    assert "no WarmStart is made here" in refused([ONE_STAGE, str(own)])
    configuration.load([TWO_STAGES, str(own)], [], root="train")


def test_what_an_included_file_set_may_be_left_unread(tmp_path: pathlib.Path) -> None:
    own = tmp_path / "own.gin"
    own.write_text(f"include '{TWO_STAGES}'\nRecipe.stages = [@mlm/Stage()]\n")
    configuration.load([str(own)], [], root="train")
    assert [stage.name for stage in train().recipe.stages] == ["roberta_12e"]


@pytest.mark.parametrize("small", ["gin/demo.gin", "gin/small.gin"])
def test_a_file_of_which_nothing_is_left_is_refused(small: str) -> None:
    words = f"{TWO_STAGES} replaces all that it sets; name it after that one"
    assert words in refused([small, TWO_STAGES])


@pytest.mark.parametrize("recipe", RECIPES)
def test_files_serve_several_recipes_in_silence(recipe: str, caplog, capsys) -> None:
    configuration.load([recipe, "gin/demo.gin"], [], root="train")
    assert not caplog.records and not any(capsys.readouterr())


def test_arguments_come_from_the_innermost_scope() -> None:
    gin.parse_config("ENCODER = 'x'")
    text = (
        "Recipe.stages = [@a/b/Stage(), @Stage()]\nStage.model = %M\na/Stage.model = 'y'\n"
        "a/b/Stage.size = 's'\nc/Stage.size = 'z'\nStage.optimizer = @AdamW()\nM = %N\nN = 3\n"
        "a/AdamW.peak = 1\nAdamW.peak = 2\nLoss.z_loss = 3\n"
    )
    found = Bindings(text, ["Recipe"])
    read = {str(key) for key in found.read}
    assert read == {
        *("Recipe.stages", "Stage.model", "a/Stage.model", "a/b/Stage.size", "Stage.optimizer"),
        *("M", "N", "a/AdamW.peak", "AdamW.peak"),
    }
    assert found.problem(Key.of("c/Stage.size"), {}) is not None
    alone = Bindings(text.replace(", @Stage()", ""), ["Recipe"])
    assert (
        alone.problem(Key.of("Stage.model"), {})
        == "changes nothing: a/Stage.model win; set a/Stage.model"
    )


def test_flags_for_text_that_is_not_opened_are_refused() -> None:
    bindings = ["TEXT_FILES = {'en': 'x'}"]
    configuration.load([TWO_STAGES, "gin/demo.gin"], bindings, root="train")
    train()
    with pytest.raises(UserError, match=r"TEXT_FILES.*this run opens no TextFiles.*'text'"):
        configuration.check_called(bindings, "train")
    with pytest.raises(UserError, match="no such file"):  # now it is opened
        configuration.CONFIGURABLES["TextFiles"]()
    configuration.check_called(bindings, "train")


MODULE = """
import gin
from seqrecipes.data.corpora.sample import SampleCorpus
from seqrecipes.data.tasks import register_tasks

@gin.configurable
def MyText(folder="somewhere"):
    return SampleCorpus()

register_tasks({"mine_{number}": MyText}, {}, {})
"""


def test_a_task_module_may_define_what_gin_fills(tmp_path, monkeypatch) -> None:
    """It is known only once the module is imported, which a typo is not worth."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tasks_of_mine.py").write_text(MODULE)
    own = tmp_path / "own.gin"
    own.write_text("Recipe.tasks = 'tasks_of_mine'\nMyText.folder = 'x'\n")
    configuration.load([TWO_STAGES, str(own)], ["MyText.folder = 'y'"], root="train")
    assert gin.query_parameter("MyText.folder") == "y"
    assert "there is no MyTexts" in refused([TWO_STAGES, str(own)], "MyTexts.folder = 'y'")
    assert "MyText" in refused([TWO_STAGES, str(own)], "MyText.foldr = 'y'")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--size=8.0", "--size = '8.0': must be a whole number: write 8"),
        ("--size=ten", "--size = 'ten': must be a whole number"),
        ("--size=3", "--size = '3': must be at least 16"),
        ("--share=2", "--share = '2': must lie in [0, 1]"),
        ("--share=nan", "--share = 'nan': must be a finite number"),
        ("--sixe=20", "--sixe=20: there is no such argument; did you mean --size?"),
        ("--siz=20", "--siz=20: there is no such argument; did you mean --size?"),
        ("--kind=c", "--kind = 'c': choose one of aa, bb"),
        ("--kind=ab", "--kind = 'ab': choose one of aa, bb"),
        ("--output=", "--output = '': write a name"),
    ],
)
def test_flags_are_answered_in_one_line(capsys, argument: str, words: str) -> None:
    from typing import Annotated

    from seqrecipes.config.check import Range

    parser = flags.Parser("nothing")
    parser.add_argument("--size", type=flags.value(Annotated[int, Range(16)]))
    parser.add_argument("--share", type=flags.value(flags.Share))
    parser.add_argument("--kind", choices=("aa", "bb"))
    parser.add_argument("--output", type=flags.path)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([argument])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {words}\n"


def test_mistakes_are_answered_before_the_heavy_libraries_are_imported() -> None:
    """At once: what a mistake costs is the start of Python and of gin."""
    code = (
        "import sys; from seqrecipes import train\n"
        "assert train.main(sys.argv[1:]) == 2\n"
        "assert not {'jax', 'tensorflow', 'seqio', 'flax'} & set(sys.modules)"
    )
    for flag in ("--gin.PEAK=-1", "--gin.MLM_STEP=3", "--stage=mlm", "--gin_file=gin/x.gin"):
        start = time.monotonic()
        command = [sys.executable, "-c", code, f"--gin_file={TWO_STAGES}", flag]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
        assert time.monotonic() - start < 30
