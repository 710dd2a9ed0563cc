"""The table of the step benchmark, from made-up results."""

from __future__ import annotations

from benchmarks.step import table
from benchmarks.step.programs import OURS, T5X, TORCH
from benchmarks.timing import Missing
from tests.benchmarks.made_up import measured

ABOUT = {"processor": "A core", "cores": 2, "python": "3.11", "versions": {"jax": "1", "t5x": None}}


def test_table_of_made_up_results() -> None:
    ours = measured("mlm", OURS, [2.0, 1.0, 4.0, 2.0, 2.5])
    torch = measured("mlm", TORCH, [3.0, 3.0], product=2e11)
    missing = [Missing("seq2seq", T5X, "t5x not installed: pip install it")]
    text = table.report(table.Results([ours, torch], missing, "keep", 2, 5, 1), ABOUT)
    rows = {line.split("|")[2].strip(): line for line in text.splitlines() if line[0:1] == "|"}

    # 3e10 operations in 2 s of 2e11 a second.
    cells = [cell.strip() for cell in rows[OURS].split("|")[1:-1]]
    assert cells == [
        "mlm",
        OURS,
        "2,048",
        "2.000 (2.000-2.500)",
        "7.5% = 5.0% + - + 2.5%",
        "1.50",
        "2,000",
        "25.0",
        "",
    ]
    assert rows[TORCH].split("|")[-2].strip() == "1.50x"
    assert "A core, 2 cores; Python 3.11, jax 1\n" in text
    assert "allocator: keep, for all alike" in text
    assert "0.200 TFLOP/s, the fastest product" in text and "(transformers)" in text
    assert "mlm, seqrecipes: 60.5 million parameters, 40.0 trained; float32; loss 10.38" in text
    assert "seq2seq, t5x: not measured: t5x not installed: pip install it" in text


def test_ratio_needs_both() -> None:
    everything = [measured("mlm", OURS, [2.0, 2.0]), measured("frozen", TORCH, [4.0, 4.0])]
    assert table.ratio(everything, "mlm", TORCH) is None
    assert table.ratio(everything, "frozen", TORCH) is None
    everything.append(measured("mlm", TORCH, [5.0, 5.0]))
    assert table.ratio(everything, "mlm", TORCH) == 2.5


def test_known_accelerator_is_held_against_its_makers_figure() -> None:
    about = {**measured("mlm", OURS, [1.0, 1.0]).about, "device": "NVIDIA H100 80GB HBM3"}
    limit, source = table.peak([measured("mlm", OURS, [1.0, 1.0], about=about, product=7e14)])
    assert limit == 989e12
    assert source.startswith("989 TFLOP/s of NVIDIA H100 80GB HBM3 in bfloat16")
