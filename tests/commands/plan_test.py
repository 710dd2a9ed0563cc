"""The planner: Table 1 of Soltan et al. 2023, memory, pictures, and what a user can get wrong."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import gin
import jax
import pytest

from seqrecipes import plan
from seqrecipes.training import memory
from tests.commands.harness import ROOT

MINI = [
    "--gin_file=gin/demo.gin",
    "--gin.VOCABULARY_SIZE=500",
    "--gin.SEQUENCE_LENGTH=32",
    "--gin.Stage.model_overrides={'encoder_layers': 1}",
]

# (encoder updates, decoder updates, TU) as the paper has them.
TABLE_1 = {
    "roberta_12e": ([500_000], [], 5.0),
    "bart_12e12d": ([500_000], [500_000], 10.0),
    "bart_12e12d_mask": ([500_000], [500_000], 10.0),
    "bart_12e2d": ([500_000], [500_000], 5.8),
    "bart_12e2d_mask": ([500_000], [500_000], 5.8),
    "bart_12e1d_mask": ([500_000], [500_000], 5.4),
    "bart_12e12d_mlm": ([500_000, 100_000], [500_000], 11.0),
    "2stage": ([500_000], [500_000], 12.5),
    "2stage_attn_f": ([500_000], [500_000], 12.5),
    "2stage_unfrz": ([500_000, 150_000], [200_000, 150_000], 11.0),
}
SAVINGS = {"bart_12e12d_mlm": 27, "2stage": 17, "2stage_attn_f": 17, "2stage_unfrz": 27}


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    jax.devices()  # counted once: a plan must not leave the other tests with fewer
    yield
    gin.clear_config()


def planned(capsys, *arguments: str) -> tuple[int, str]:
    try:
        status = plan.main(list(arguments))
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_the_ten_recipes_are_table_1(capsys, tmp_path):
    files = [f"gin/{name}.gin" for name in TABLE_1]
    status, text = planned(capsys, *files, f"--output={tmp_path}")
    assert status == 0
    document = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    assert [recipe["name"] for recipe in document["recipes"]] == list(TABLE_1)
    for recipe in document["recipes"]:
        encoder, decoder, units = TABLE_1[recipe["name"]]
        assert (recipe["encoder_updates"], recipe["decoder_updates"]) == (encoder, decoder)
        assert round(recipe["training_units"], 1) == units
        (line,) = [row for row in text.split("\n") if row.startswith(f"| {recipe['name']} ")]
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells[3] == f"{units:.1f}"
        if recipe["name"] in SAVINGS:
            assert recipe["from_scratch"]["recipes"] == ["roberta_12e", "bart_12e12d"]
            assert round(recipe["from_scratch"]["training_units"], 9) == 15.0
            assert cells[5:7] == ["15.0", f"{SAVINGS[recipe['name']]}%"]
        else:
            assert recipe["from_scratch"] is None
            assert cells[5:] == ["-", "-", "-"]
        picture = (tmp_path / f"{recipe['name']}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
    # Once: 5 + 2 x 10 + 2 x 35/6 + 65/12 + 1 + 2 x 7.5 + 6.
    assert document["stages_once"]["training_units"] == pytest.approx(64.0 + 1 / 12)
    assert (tmp_path / "recipes.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "plan.md").read_text("utf-8").strip() in text


def test_phases_of_one_recipe(capsys, tmp_path):
    status, text = planned(capsys, "--gin_file=gin/2stage_unfrz.gin", f"--output={tmp_path}")
    assert status == 0
    (recipe,) = json.loads((tmp_path / "plan.json").read_text("utf-8"))["recipes"]
    frozen, unfrozen = recipe["stages"][1]["phases"]
    parts = frozen["parameters"]
    assert parts["encoder"]["trainable"] == parts["token_embedding"]["trainable"] == 0
    assert parts["decoder"]["frozen"] == parts["lm_head"]["frozen"] == 0
    assert parts["token_embedding"]["frozen"] == 150_000 * 1024
    assert not any(part["frozen"] for part in unfrozen["parameters"].values())
    assert (
        sum(part["trainable"] for part in unfrozen["parameters"].values())
        == (recipe["stages"][1]["parameters"])
    )
    # Soltan et al. 2023, appendix E: 1.5e-4 after 5k updates, 5e-6 at the last of both phases.
    assert recipe["stages"][1]["schedule"] == [
        [0, 0.0],
        [5_000, pytest.approx(1.5e-4)],
        [350_000, pytest.approx(5e-6)],
    ]
    # A frozen encoder has a forward pass alone.
    assert unfrozen["flops"] > frozen["flops"] * 150_000 / 200_000
    per_update = frozen["flops_per_update"]["encoder"], unfrozen["flops_per_update"]["encoder"]
    assert per_update[1] == 3 * per_update[0]
    assert frozen["tokens"] == 200_000 * 2048 * 512
    assert f"{200_000 * 2048 * 512:,}" in text
    assert "2stage_unfrz: 11 TU" in text


def test_hours_and_memory_of_a_machine(capsys, tmp_path):
    layers = "{'tie_head': False, 'encoder_layers': 1, 'decoder_layers': 1}"
    status, text = planned(
        capsys,
        "gin/2stage_unfrz.gin",
        *MINI,
        f"--gin.seq2seq/Stage.model_overrides={layers}",
        # Of the seq2seq model there is one micro-batch to try, of the encoder there are two.
        "--gin.seq2seq/Stage.batch_size=8",
        "--gin.mlm/Phase.micro_batches=2",
        "--accelerator=v5e",
        "--devices=2x4",
        "--utilisation=0.5",
        f"--output={tmp_path}",
    )
    assert status == 0, text
    document = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    assert document["machine"]["devices"] == 8
    (recipe,) = document["recipes"]
    assert recipe["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert recipe["hours"] == pytest.approx(recipe["flops"] / (8 * 197e12 * 0.5) / 3600)
    assert recipe["chip_hours"] == pytest.approx(8 * recipe["hours"])
    for stage in recipe["stages"]:
        for phase in stage["phases"]:
            trainable = sum(part["trainable"] for part in phase["parameters"].values())
            assert phase["memory"]["parameters"] == 4 * stage["parameters"]
            assert phase["memory"]["gradients"] == 4 * trainable
            assert phase["memory"]["activations"] > 0
            assert phase["fits"]
            assert phase["micro_batch"] == 1
            assert phase["largest_micro_batch"] == (2 if stage is recipe["stages"][0] else 1)
    assert "8 x v5e: 197 TFLOP/s, of which 50% are assumed" in text
    assert "a stand-in for this accelerator" in text


def test_a_shared_stage_with_other_micro_batches_is_another_program(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "of_step", lambda *_: memory.Memory(1, 1, 1, 1, 1))
    monkeypatch.setattr(memory, "largest_micro_batch", lambda *_: 1)
    files = []
    for parts in (1, 2, 2):
        file = tmp_path / f"recipe_{len(files)}.gin"
        file.write_text(f"include 'gin/roberta_12e.gin'\nMICRO_BATCHES = {parts}\n", "utf-8")
        files.append(str(file))
    # demo.gin comes after each and leaves micro-batches alone.
    arguments = [*files, *MINI, "--accelerator=v5e", f"--output={tmp_path}"]
    status, text = planned(capsys, *arguments)
    assert status == 0, text
    recipes = json.loads((tmp_path / "plan.json").read_text("utf-8"))["recipes"]
    phases = [recipe["stages"][0]["phases"][0] for recipe in recipes]
    assert [phase["micro_batch"] for phase in phases] == [16, 8, 8]
    assert text.count("| roberta_12e | 0 ") == 2


def test_what_does_not_fit_is_said(capsys, tmp_path):
    """Nothing fits if all but a ten-thousandth of the memory is to stay free."""
    status, text = planned(
        capsys,
        "gin/roberta_12e.gin",
        *MINI,
        "--accelerator=v5e",
        "--reserve=0.9999",
        f"--output={tmp_path}",
    )
    assert status == 0, text
    (recipe,) = json.loads((tmp_path / "plan.json").read_text("utf-8"))["recipes"]
    (phase,) = recipe["stages"][0]["phases"]
    assert not phase["fits"]
    assert phase["largest_micro_batch"] == 0
    assert text.count("| no ") == 1
    assert text.count("| none ") == 1


def test_a_value_with_spaces_is_no_recipe(capsys, tmp_path):
    overrides = "{'encoder_layers': 6, 'dropout': 0.0}"
    arguments = ["gin/roberta_12e.gin", f"--gin.Stage.model_overrides={overrides}"]
    status, text = planned(capsys, *arguments, f"--output={tmp_path}")
    assert status == 0, text
    (recipe,) = json.loads((tmp_path / "plan.json").read_text("utf-8"))["recipes"]
    assert recipe["training_units"] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--gin_file = None: name a recipe"),
        (["gin/none.gin"], "none.gin"),
        (["gin/2stage.gin", "./gin/2stage.gin"], "every recipe needs a name of its own"),
        (["gin/defaults.gin"], "%MODEL_DIR = None: train.model_dir reads it and nothing sets it"),
        (["gin/roberta_12e.gin", "--accelerator=h900"], "choose one of v4, v5e"),
        (["gin/roberta_12e.gin", "--devices=eight"], "write a number"),
        (["gin/roberta_12e.gin", "--devices=4x"], "write a number"),
        (["gin/roberta_12e.gin", "--utilisation=0"], "must lie in (0, 1]"),
        (["gin/roberta_12e.gin", "--reserve=1"], "must lie in [0, 1)"),
        (["gin/roberta_12e.gin", "--compiler=tpu"], "name one"),
        (
            ["gin/roberta_12e.gin", "--compiler=tpu", "--accelerator=h100"],
            "is none for h100",
        ),
        (
            ["gin/roberta_12e.gin", "--compiler=tpu", "--accelerator=v5e", "--devices=2x4"],
            "needs libtpu",
        ),
        (["gin/roberta_12e.gin", "--gin.FSDP=3", "--devices=8"], "must multiply to the 8 devices"),
        (["gin/roberta_12e.gin", "--devices=3"], "Stage.batch_size"),
        (["gin/roberta_12e.gin", "--gin.MLMSTEPS=5"], "nothing reads it"),
    ],
)
def test_a_wrong_input_gets_one_line(capsys, monkeypatch, arguments, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else find(name, *a)
    )
    status, text = planned(capsys, *arguments)
    assert status == 2
    last = text.strip().split("\n")[-1]
    assert last.startswith("error: ")
    assert words in last


def test_as_many_devices_as_asked_for_are_there_on_any_machine(tmp_path):
    """In a process of its own: JAX counts devices once."""
    script = "from seqrecipes.planning import devices; print(len(devices.of_host(96)))"
    environment = {"PATH": "", "JAX_PLATFORMS": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "96", done.stderr
