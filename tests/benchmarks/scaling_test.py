"""The scaling sheet: its cases, its tables and picture from made-up figures, one small run."""

from __future__ import annotations

import json

import pytest

from benchmarks import scaling
from benchmarks.scale import cases, worker
from seqrecipes.training import flops, partitioning

DEVICES = 8


def row(axis: str, value: int, base: bool, scale: float) -> dict:
    figures = {"seconds": 0.2, "counted_flops": 4e9, "model_flops": 3e9, "bytes": 2**24}
    about = {"kind": "mlm", "axis": axis, "value": value, "base": base}
    return about | {name: scale * figure for name, figure in figures.items()}


ROWS = [row("batch", 4, False, 0.5), row("batch", 8, True, 1.0), row("devices", 1, True, 1.0)]


def test_costs_are_set_beside_the_base() -> None:
    lines = scaling.cost_table(ROWS).split("\n")
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells == ["mlm", "batch", "4", "100.0", "1.50", "2.00", "0.750", "8.0", "0.50"]
    assert lines[3].split("|")[-2].strip() == "1.00"


def test_bytes_between_devices_are_set_beside_the_gradients() -> None:
    sent = {"gradients": 2**20, "all-reduce": 2**21, "all-to-all": 2**20}
    about = {"kind": "mlm", "phase": "frozen", "mesh": "data 8"}
    line = scaling.traffic_table([about | {"bytes": sent}]).split("\n")[2]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["mlm", "frozen", "data 8", "2.0", "0.0", "1.0", "3.0", "1.0", "3.00"]


def test_an_axis_varies_one_size_around_the_base() -> None:
    for axis in cases.AXES:
        around = cases.along(axis, "mlm", "small")
        values = [getattr(case, axis) for case in around]
        assert values == sorted(set(values))
        assert values.count(cases.SIZES["small"].get(axis, 1)) == 1
        assert len({case.batch for case in around}) == (len(values) if axis == "batch" else 1)
        assert all(case.batch % case.devices == 0 for case in around)


def test_frozen_and_unfrozen_stand_on_the_same_meshes() -> None:
    placed = cases.on_meshes("seq2seq", "tiny")
    for frozen in (False, True):
        assert [name for name, case in placed if case.frozen == frozen] == list(cases.MESHES)
    for case in (case for _, case in placed if case.frozen):
        training = cases.training(case, scan_layers=True)
        mesh = training.partitioning.mesh()
        count = training.micro_batches(training.spans[0])
        partitioning.check_batch(case.batch, count, mesh, field="batch")
        training.partitioning.parameter_shardings(training.shapes, mesh)


def test_collectives_of_a_frozen_data_parallel_update() -> None:
    (case,) = (
        c for n, c in cases.on_meshes("mlm", "tiny") if c.frozen and n == "data 8, no ZeRO-1"
    )
    sent = worker.traffic(case)
    d, vocabulary = case.hidden, case.vocabulary
    # The head alone trains: a layer of width D with its norm, and the projection.
    assert sent["gradients"] == 4 * (d * d + d + 2 * d + vocabulary * d + vocabulary)
    assert sent.keys() == {"gradients", "all-reduce"}
    assert sent["all-reduce"] >= sent["gradients"]


def test_a_process_has_the_devices_of_its_case() -> None:
    given = {"XLA_FLAGS": "--xla_a=1 --xla_force_host_platform_device_count=8", "HOME": "/"}
    environment = worker._environment(given, 2)
    assert environment["XLA_FLAGS"] == "--xla_a=1 --xla_force_host_platform_device_count=2"
    assert (environment["JAX_PLATFORMS"], environment["HOME"]) == ("cpu", "/")


@pytest.mark.slow
def test_the_command_measures_tabulates_and_draws(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(cases.FACTORS, "batch", (1,))
    file, image = tmp_path / "sheet.json", tmp_path / "sheet.png"
    arguments = ["--size", "tiny", "--kinds", "mlm", "--axes", "batch", "--steps", "2"]
    arguments += ["--no-traffic", "--json", str(file), "--picture", str(image)]
    assert scaling.main(arguments) == 0
    (measured,) = json.loads(file.read_text())["costs"]
    training = cases.training(cases.along("batch", "mlm", "tiny")[0], scan_layers=False)
    by_part = flops.forward(training.model.config, training.features)
    assert measured["model_flops"] == 3 * 8 * sum(by_part.values())
    assert measured["counted_flops"] == pytest.approx(measured["model_flops"], rel=0.3)
    # Parameters with two moments, at least.
    assert measured["bytes"] > 3 * 4 * 2 * 64 * 256
    assert measured["seconds"] > 0
    assert "| mlm    | batch | 8 " in capsys.readouterr().out
    assert image.read_bytes()[:4] == b"\x89PNG"


def test_a_picture_without_costs_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        scaling.main(["--size", "paper", "--picture", "sheet.png"])
    assert "--axes" in capsys.readouterr().err
