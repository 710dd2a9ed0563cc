"""A plan for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seqrecipes import markdown
from seqrecipes.training.accelerators import GIB
from seqrecipes.training.memory import KINDS


def text(document: dict[str, Any]) -> str:
    """One recipe in detail, or several beside each other."""
    recipes = document["recipes"]
    parts = [details(recipes[0])] if len(recipes) == 1 else [table_1(document)]
    if document["machine"]:
        parts.append(machine(document))
    return "\n\n".join(parts)


def details(recipe: dict[str, Any]) -> str:
    """The phases of a recipe."""
    rows = []
    for stage in recipe["stages"]:
        for number, phase in enumerate(stage["phases"]):
            by_part = phase["flops_per_update"]
            whole = sum(by_part.values())
            counts = phase["parameters"].values()
            rows.append(
                [
                    "" if number else stage["name"],
                    str(number),
                    f"{phase['stop'] - phase['start']:,}",
                    f"{phase['tokens']:,}",
                    f"{sum(count['trainable'] for count in counts):,}",
                    f"{sum(count['frozen'] for count in counts):,}",
                    f"{phase['training_units']:.3g}",
                    f"{phase['units_by_flops']:.3g}",
                    f"{whole:.3g}",
                    *(
                        f"{by_part[part] / whole:.0%}" if part in by_part else "-"
                        for part in ("encoder", "decoder", "head")
                    ),
                ]
            )
    header = ["stage", "phase", "updates", "tokens", "trainable", "frozen", "TU", "TU by FLOPs"]
    header += ["FLOPs/update", "encoder", "decoder", "head"]
    tokens = sum(stage["tokens"] for stage in recipe["stages"])
    return (
        f"{recipe['name']}: {recipe['training_units']:.3g} TU, {recipe['units_by_flops']:.3g} by "
        f"FLOPs; {recipe['flops']:.3g} FLOPs, {tokens:,} tokens\n\n{markdown.table(header, rows)}"
    )


def table_1(document: dict[str, Any]) -> str:
    """Recipes as rows, with what they save against training each of their models from scratch."""
    rows, notes = [], []
    for recipe in document["recipes"]:
        scratch = recipe["from_scratch"]
        rows.append(
            [
                recipe["name"],
                _updates(recipe["encoder_updates"]),
                _updates(recipe["decoder_updates"]),
                f"{recipe['training_units']:.1f}",
                f"{recipe['units_by_flops']:.1f}",
                *(
                    [
                        f"{scratch['training_units']:.1f}",
                        f"{1 - recipe['training_units'] / scratch['training_units']:.0%}",
                        f"{1 - recipe['flops'] / scratch['flops']:.0%}",
                    ]
                    if scratch
                    else ["-"] * 3
                ),
            ]
        )
        if scratch:
            notes.append(f"from scratch: {' + '.join(scratch['recipes'])}")
    header = ["recipe", "encoder updates", "decoder updates", "TU", "by FLOPs"]
    header += ["both from scratch", "saves", "by FLOPs"]
    once = document["stages_once"]
    return "\n".join(
        [
            markdown.table(header, rows),
            "",
            "TU: by the rule of Soltan et al. 2023, appendix D; by FLOPs: of all matrix products",
            *dict.fromkeys(notes),
            f"all of them, stages that they share trained once: {once['training_units']:.1f} TU",
        ]
    )


def _updates(phases: Sequence[int]) -> str:
    return " + ".join(f"{steps:,}" for steps in phases) or "0"


def machine(document: dict[str, Any]) -> str:
    """Hours and memory of every phase."""
    on = document["machine"]
    kind = on["accelerator"]
    rows: list[list[str]] = []
    stages: list[dict[str, Any]] = []
    for recipe in document["recipes"]:
        stages += [stage for stage in recipe["stages"] if stage not in stages]
    for stage in stages:
        for number, phase in enumerate(stage["phases"]):
            sizes = phase["memory"]
            rows.append(
                [
                    "" if number else stage["name"],
                    str(number),
                    f"{phase['hours']:,.3g}",
                    f"{phase['chip_hours']:,.3g}",
                    f"{phase['micro_batch']:,}",
                    *(f"{sizes[name] / GIB:.2f}" if sizes else "-" for name in KINDS),
                    f"{sum(sizes.values()) / GIB:.2f}" if sizes else str(phase["refused"]),
                    "yes" if phase["fits"] else "no",
                    f"{phase['largest_micro_batch']:,}" if phase["largest_micro_batch"] else "none",
                ]
            )
    header = ["stage", "phase", "hours", "chip-hours", "micro-batch", *KINDS, "total", "fits"]
    header += ["largest"]
    mesh = document["recipes"][0]["mesh"]
    compiler = {
        "tpu": "as libtpu compiles it",
        "cpu": "as XLA compiles it for CPUs, a stand-in for this accelerator",
    }[on["compiler"]]
    lines = [
        f"{on['devices']:,} x {kind['name']}: {kind['peak'] / 1e12:g} TFLOP/s, of which "
        f"{on['utilisation']:.0%} are assumed; {kind['memory'] / GIB:g} GiB, of which "
        f"{on['reserve']:.0%} stay free",
        f"mesh: {' x '.join(f'{axis} {size}' for axis, size in mesh.items())}",
        "",
        markdown.table(header, rows),
        "",
        f"memory in GiB of one device, {compiler}; micro-batch: examples that a device has at a",
        "time, largest: the most that fit (Partitioning.micro_batches or Phase.micro_batches)",
    ]
    return "\n".join(lines)
