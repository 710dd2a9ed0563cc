"""Cost of an update against sizes, and collective bytes by mesh, on forced CPU devices: see --help.

Every case runs in a process of its own, which has as many devices as the case wants.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import machine
from benchmarks.scale import picture, worker
from benchmarks.scale.cases import AXES, KINDS, SIZES, along, on_meshes
from seqrecipes import markdown

MIB = 2**20
_HEADER = ["update", "axis", "value", "ms", "GFLOPs", "XLA's", "ratio", "MiB", "ms / base"]
_TRAFFIC = ("all-reduce", "all-gather")


def costs(kinds: Sequence[str], axes: Sequence[str], size: str, steps: int) -> list[dict[str, Any]]:
    """One row for each value of each axis; the base, which all axes share, is measured once."""
    rows, known = [], {}
    for kind in kinds:
        for axis in axes:
            for case in along(axis, kind, size):
                described = json.dumps(dataclasses.asdict(case))
                if described not in known:
                    print(f"{kind}: {axis} {getattr(case, axis)}", file=sys.stderr, flush=True)
                    known[described] = worker.run(case, steps)
                value = getattr(case, axis)
                base = value == SIZES[size].get(axis, 1)
                about = {"kind": kind, "axis": axis, "value": value, "base": base}
                rows.append(about | known[described])
    return rows


def cost_table(rows: list[dict[str, Any]]) -> str:
    """Every row beside the base of its axis."""
    bases = {(row["kind"], row["axis"]): row["seconds"] for row in rows if row["base"]}
    cells = [
        [
            row["kind"],
            row["axis"],
            f"{row['value']:,}",
            f"{row['seconds'] * 1e3:.1f}",
            f"{row['model_flops'] / 1e9:.2f}",
            f"{row['counted_flops'] / 1e9:.2f}",
            f"{row['model_flops'] / row['counted_flops']:.3f}",
            f"{row['bytes'] / MIB:.1f}",
            f"{row['seconds'] / bases[row['kind'], row['axis']]:.2f}",
        ]
        for row in rows
    ]
    return markdown.table(_HEADER, cells)


def traffic(kinds: Sequence[str], size: str) -> list[dict[str, Any]]:
    """One row for each mesh, unfrozen and frozen."""
    rows = []
    for kind in kinds:
        for mesh, case in on_meshes(kind, size):
            phase = "frozen" if case.frozen else "unfrozen"
            print(f"{kind}, {phase}: {mesh}", file=sys.stderr, flush=True)
            about = {"kind": kind, "phase": phase, "mesh": mesh}
            rows.append(about | {"bytes": worker.run(case, None)})
    return rows


def traffic_table(rows: list[dict[str, Any]]) -> str:
    """MiB on each device, by kind of collective, beside those of the gradients."""
    header = ["update", "phase", "mesh", *_TRAFFIC, "others", "all", "gradients", "all / gradients"]
    cells = []
    for row in rows:
        sent = dict(row["bytes"])
        gradients = sent.pop("gradients")
        total = sum(sent.values())
        named = [sent.pop(kind, 0) for kind in _TRAFFIC]
        numbers = [*named, sum(sent.values()), total, gradients]
        cells.append(
            [row["kind"], row["phase"], row["mesh"]]
            + [f"{number / MIB:,.1f}" for number in numbers]
            + [f"{total / gradients:.2f}"]
        )
    return markdown.table(header, cells)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description="Cost of an update against sizes, and bytes between devices by mesh (CPU).",
    )
    parser.add_argument("--size", choices=SIZES, default="small", help="the base (default: small)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument(
        "--axes",
        nargs="*",
        choices=AXES,
        default=None,
        metavar="AXIS",
        help=f"among {', '.join(AXES)}; none for --size paper, else all",
    )
    parser.add_argument("--steps", type=int, default=5, help="timed in each case (default: 5)")
    parser.add_argument("--no-traffic", action="store_true", help="leave bytes by mesh out")
    parser.add_argument("--json", type=pathlib.Path, help="write everything there")
    parser.add_argument("--picture", type=pathlib.Path, help="draw the costs there (.png, .svg)")
    flags = parser.parse_args(argv)
    axes = flags.axes if flags.axes is not None else () if flags.size == "paper" else AXES
    if flags.picture and not axes:
        parser.error("--picture draws costs: name some --axes")
    about = machine.describe(None)
    base = ", ".join(f"{name} {value}" for name, value in SIZES[flags.size].items())
    print(f"{about['processor']}, {about['cores']} cores; base: {base}\n", flush=True)
    document: dict[str, Any] = {"machine": about, "base": SIZES[flags.size]}
    if axes:
        document["costs"] = costs(flags.kinds, axes, flags.size, flags.steps)
        print(cost_table(document["costs"]), flush=True)
    if not flags.no_traffic:
        document["traffic"] = traffic(flags.kinds, flags.size)
        print(f"\n{traffic_table(document['traffic'])}")
    if flags.json:
        flags.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    if flags.picture:
        picture.draw(document["costs"], flags.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
