"""Tables of fine-tuning results: `python -m seqrecipes.tables runs/finetuned`.

Finds every `scores.json` below the folders and shows models against tasks, the language trained on
and the average over the others, as Soltan et al. 2023 do in Tables 2 and 3; `--paper` sets their
numbers beside.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from seqrecipes.config import flags as flags_of
from seqrecipes.errors import UserError, exit_status

STEM = "tables"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = flags_of.Parser("tables", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=flags_of.path, metavar="RUNS", help="folders of fine-tuning runs"
    )
    parser.add_argument(
        "--paper", action="store_true", help="with the results of Soltan et al. 2023"
    )
    parser.add_argument(
        "--per_language",
        action="append",
        default=[],
        metavar="TASK",
        help="a table of all languages of this task too; may be repeated",
    )
    parser.add_argument(
        "--output",
        type=flags_of.path,
        metavar="DIR",
        help="folder for tables.md, tables.tex, tables.json and scores.png",
    )
    flags = parser.parse_args(argv)
    return exit_status(lambda: _run(flags))


def _run(flags: argparse.Namespace) -> None:
    from seqrecipes.downstream import layouts, results, tables

    if flags.output and flags.output.exists() and not flags.output.is_dir():
        raise UserError("--output", str(flags.output), "is no folder; name one, it may be new")
    found = results.read(results.find(flags.runs))
    shown = tables.overview(found, published=flags.paper)
    for task in flags.per_language:
        shown += tables.by_language(found, task, published=flags.paper)
    print("\n\n".join(map(layouts.terminal, shown)))
    if flags.output:
        from seqrecipes.downstream import pictures

        flags.output.mkdir(parents=True, exist_ok=True)
        texts = {
            "md": "\n\n".join(map(layouts.as_markdown, shown)),
            "tex": "% needs \\usepackage{booktabs}\n\n" + "\n\n".join(map(layouts.as_latex, shown)),
            "json": json.dumps(tables.document(shown), indent=1, ensure_ascii=False),
        }
        for suffix, text in texts.items():
            (flags.output / f"{STEM}.{suffix}").write_text(text + "\n", "utf-8")
        pictures.draw(found, flags.output / pictures.PICTURE_FILE)
        names = [*(f"{STEM}.{suffix}" for suffix in texts), pictures.PICTURE_FILE]
        print(f"\nin {flags.output}: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
