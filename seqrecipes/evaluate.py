"""Scores a fine-tuned checkpoint and writes its predictions.

`python -m seqrecipes.evaluate --checkpoint=runs/udpos/0 --languages=de,fr --output=predictions`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from seqrecipes import configuration
from seqrecipes.config import flags as flags_of
from seqrecipes.errors import UserError, exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = flags_of.Parser("evaluate", description=__doc__)
    parser.add_argument(
        "--checkpoint",
        type=flags_of.name,
        required=True,
        metavar="DIR",
        help="a seed's folder, or a checkpoint of it",
    )
    parser.add_argument(
        "--languages", default="", metavar="XX,YY", help="default: all that have the split"
    )
    parser.add_argument(
        "--split", default="test", choices=["train", "validation", "test"], help="default: test"
    )
    parser.add_argument(
        "--output", type=flags_of.path, metavar="DIR", help="gets the predictions, as JSON lines"
    )
    parser.add_argument(
        "--vocabulary", default="", metavar="FILE", help="where it is not in the run's folder"
    )
    configuration.add_tasks_flag(parser, "tasks.downstream")
    configuration.add_flags(parser)
    parser.epilog = (
        "Where the data lies is known from the run's data.json; "
        "--gin.LabelledFiles.folder=\"'data'\" says otherwise."
    )
    flags, bindings = configuration.parse_flags(parser, argv)
    return exit_status(lambda: print(_run(flags, bindings)))


def _run(flags: argparse.Namespace, bindings: list[str]) -> str:
    configuration.quiet_tensorflow()
    from seqrecipes.data.registry import import_tasks
    from seqrecipes.downstream import places
    from seqrecipes.downstream.evaluation import FineTuned
    from seqrecipes.folders import write_file
    from seqrecipes.training import reporting

    reporting.log_to_terminal(0)
    tuned = FineTuned(flags.checkpoint)
    if tuned.facts.tasks != flags.tasks:
        raise UserError(
            "--tasks",
            flags.tasks,
            f"the checkpoint names the module {tuned.facts.tasks!r}, which would be run; "
            f"if you trust it, give --tasks={tuned.facts.tasks}",
        )
    import_tasks(flags.tasks, "--tasks")
    places.bind(tuned.run_dir)
    configuration.load(flags.gin_file, bindings, flags.gin_search_paths)
    languages = [each for each in flags.languages.split(",") if each]
    scores = tuned.evaluate(
        languages, flags.split, vocabulary=flags.vocabulary, output=flags.output
    )
    if flags.output:
        content = {"checkpoint": str(tuned.folder), "split": flags.split, "scores": scores}
        write_file(flags.output / "evaluation.json", json.dumps(content, indent=2) + "\n")
    width = max(map(len, scores))
    return "\n".join(
        f"{language:<{width}}  " + "  ".join(f"{name} {value:.2f}" for name, value in row.items())
        for language, row in scores.items()
    )


if __name__ == "__main__":
    sys.exit(main())
