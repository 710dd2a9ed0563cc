"""Tables of fine-tuning results, laid out as Tables 2 to 9 of Soltan et al. 2023.

`overview` has models as rows and tasks as columns, the language trained on and avg-0s each;
`by_language` has all languages of one task. What a table says is separate from how it is written:
`layouts` does that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from seqrecipes.downstream import paper
from seqrecipes.downstream.results import AVERAGE, ENGLISH, Result, Statistic
from seqrecipes.errors import UserError


class Metric(NamedTuple):
    """A metric of a task: its name in `scores.json`, and how tables print it.

    Args:
      key: `f1`, ...
      group: heading over the columns, with the unit.
      label: what tells it from other metrics of the group; empty if there are none.
      digits: after the decimal point.
    """

    key: str
    group: str
    label: str = ""
    digits: int = 1


def _rouge(name: str) -> tuple[Metric, ...]:
    return tuple(Metric(f"rouge{n}", f"{name} (ROUGE)", f"R-{n}", 2) for n in "12L")


ENCODER_TASKS = {
    "xnli": (Metric("accuracy", "XNLI (acc.)"),),
    "pawsx": (Metric("accuracy", "PAWS-X (acc.)"),),
    "matis": (
        Metric("intent_accuracy", "mATIS++ IC (acc.)"),
        Metric("slot_f1", "mATIS++ SL (f1)"),
    ),
    "xsid": (Metric("intent_accuracy", "xSID IC (acc.)"), Metric("slot_f1", "xSID SL (f1)")),
    "panx": (Metric("f1", "WikiANN (f1)"),),
    "udpos": (Metric("f1", "UDPOS (f1)"),),
}
SEQ2SEQ_TASKS = {
    "mtop": (Metric("sciem", "mTOP (acc.)"),),
    "xsum": _rouge("XSUM"),
    "scitldr": _rouge("SciTLDR"),
    "ntrex": (Metric("bleu", "NTREX (BLEU)"),),
}


class Column(NamedTuple):
    """One figure of every model: `of` a language, or avg-0s."""

    task: str
    metric: Metric
    of: str
    heading: str


class Row(NamedTuple):
    """A model's figures in the columns' order, None where it has none."""

    model: str
    published: bool
    cells: list[Statistic | None]


class Table(NamedTuple):
    """Columns of one task stand together; notes say what a reader has to know."""

    title: str
    columns: list[Column]
    rows: list[Row]
    notes: list[str]


def overview(results: Sequence[Result], *, published: bool) -> list[Table]:
    """Tables of encoder tasks and of sequence-to-sequence tasks, those that have results.

    A task of a name unknown here stands among the encoder tasks with every metric it has.

    Args:
      results: every model and task once.
      published: the paper's rows stand below ours of the same name, the others at the end.

    Raises:
      UserError: models were scored on different languages of a task: their averages do not compare.
    """
    tables = []
    tasks = list(dict.fromkeys(result.task for result in results))
    others = [task for task in tasks if task not in ENCODER_TASKS | SEQ2SEQ_TASKS]
    for title, order in (
        ("Encoder tasks", [*ENCODER_TASKS, *others]),
        ("Sequence-to-sequence tasks", [*SEQ2SEQ_TASKS]),
    ):
        columns = []
        for task in [task for task in order if task in tasks]:
            members = [result for result in results if result.task == task]
            _check_languages(members)
            for metric in metrics(members[0]):
                columns += _averages(task, metric, members[0])
        if columns:
            rows = _rows(columns, results, published)
            tables.append(Table(title, columns, rows, _notes(columns, rows, results)))
    return tables


def by_language(results: Sequence[Result], task: str, *, published: bool) -> list[Table]:
    """One table a metric of the task, with a column for each language.

    Args:
      results: of any tasks.
      task: the one to show.
      published: with the paper's rows.

    Raises:
      UserError: there are no results of the task, or models were scored on different languages.
    """
    members = [result for result in results if result.task == task]
    if not members:
        known = ", ".join(sorted({result.task for result in results}))
        raise UserError("--per_language", task, f"none of these runs is of that task, only {known}")
    _check_languages(members)
    tables = []
    for metric in metrics(members[0]):
        order = (members[0].trained, *paper.languages(task, metric.key))
        languages = sorted(
            members[0].languages, key=lambda of: order.index(of) if of in order else len(order)
        )
        columns = [Column(task, metric, of, of) for of in languages]
        if members[0].runs[0].zero_shot():
            columns.append(Column(task, metric, AVERAGE, _average_heading(members[0])))
        rows = _rows(columns, members, published)
        title = f"{metric.group.replace(' (ROUGE)', '')} {metric.label}".strip() + " by language"
        tables.append(Table(title, columns, rows, _notes(columns, rows, members)))
    return tables


def metrics(result: Result) -> tuple[Metric, ...]:
    """What is reported of a result's task."""
    known = ENCODER_TASKS | SEQ2SEQ_TASKS
    if result.task in known:
        return known[result.task]
    keys = result.runs[0].scores[result.languages[0]]
    return tuple(Metric(key, result.task, key) for key in sorted(keys))


def best(table: Table, column: int, *, published: bool) -> list[str | None]:
    """'best', 'second' or None for every row, judged by what is printed: equal figures share it.

    Our rows compete with ours, the paper's with the paper's; a row alone wins nothing.
    """
    digits = table.columns[column].metric.digits
    values = {
        number: round(cell.mean, digits)
        for number, row in enumerate(table.rows)
        if row.published == published and (cell := row.cells[column])
    }
    if len(values) < 2:
        return [None] * len(table.rows)
    ranks = dict(zip(sorted(set(values.values()), reverse=True), ("best", "second"), strict=False))
    return [ranks.get(values[n]) if n in values else None for n in range(len(table.rows))]


def document(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """The tables for JSON, with unrounded figures."""
    return [
        {
            "title": table.title,
            "columns": [
                {"task": column.task, "metric": column.metric.key, "of": column.of}
                for column in table.columns
            ],
            "rows": [
                {
                    "model": row.model,
                    "published": row.published,
                    "cells": [cell._asdict() if cell else None for cell in row.cells],
                }
                for row in table.rows
            ],
            "notes": table.notes,
        }
        for table in tables
    ]


def _averages(task: str, metric: Metric, result: Result) -> list[Column]:
    """The language trained on and avg-0s, each only where the task has it."""
    trained = result.trained
    found = [(trained, trained)] if trained in result.languages else []
    if result.runs[0].zero_shot():
        found.append((AVERAGE, _average_heading(result)))
    return [
        Column(task, metric, of, _heading(metric.label, words, alone=len(found) == 1))
        for of, words in found
    ]


def _average_heading(result: Result) -> str:
    """Where the language trained on has no scores, the mean is over all that there are."""
    return AVERAGE if result.trained in result.languages else "avg"


def _heading(label: str, words: str, *, alone: bool) -> str:
    if not label:
        return words
    return label if alone else f"{label} {words}"


def _check_languages(results: Sequence[Result]) -> None:
    first = results[0]
    for result in results:
        if result.trained != first.trained:
            raise UserError(
                str(result.runs[0].file),
                result.trained,
                f"is not the language that {first.runs[0].file} was trained on ({first.trained}): "
                "the two do not compare",
            )
        if result.languages != first.languages:
            raise UserError(
                str(result.runs[0].file),
                result.languages,
                f"are not the languages of {first.runs[0].file} ({', '.join(first.languages)}): "
                "averages over different languages do not compare",
            )


def _rows(columns: Sequence[Column], results: Sequence[Result], published: bool) -> list[Row]:
    by_name = {(result.model, result.task): result for result in results}
    tasks = {column.task for column in columns}
    rows = []
    for model in dict.fromkeys(result.model for result in results if result.task in tasks):
        cells: list[Statistic | None] = []
        for column in columns:
            result = by_name.get((model, column.task))
            cells.append(result.statistic(column.metric.key, column.of) if result else None)
        rows.append(Row(model, False, cells))
    trained = {result.task: result.trained for result in results}
    for model in paper.models() if published else ():
        cells = [
            paper.result(column.task, column.metric.key, model, column.of)
            if trained[column.task] == ENGLISH  # as all of the paper's models are
            else None
            for column in columns
        ]
        if any(cells):
            ours = [n for n, row in enumerate(rows) if _same(row.model, model)]
            rows.insert(ours[0] + 1 if ours else len(rows), Row(model, True, cells))
    return rows


def _same(ours: str, theirs: str) -> bool:
    """Names but for what separates their words: recipes are files, `2stage_bart_12e12d`."""
    bare_ours, bare_theirs = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (ours, theirs))
    return bare_ours == bare_theirs


def _notes(columns: Sequence[Column], rows: Sequence[Row], results: Sequence[Result]) -> list[str]:
    seeds = {cell.seeds for row in rows if not row.published for cell in row.cells if cell}
    notes = [
        "mean ± standard deviation over seeds: "
        + " or ".join(map(str, sorted(seeds)))
        + ("; no ± where there is one" if 1 in seeds else "")
    ]
    if any(column.heading.endswith(AVERAGE) for column in columns):
        notes.append(
            "avg-0s: mean over all languages but the one trained on, averaged within a seed first"
        )
    if any(row.published for row in rows):
        notes.append("(paper): Soltan et al. 2023, Tables 2 to 9; three seeds")
        averaged = {c.task: c.metric for c in columns if c.of == AVERAGE}
        for task, metric in averaged.items():
            theirs = set(paper.languages(task, metric.key)) - {ENGLISH, AVERAGE}
            ours = {of for r in results if r.task == task for of in r.languages} - {ENGLISH}
            if theirs and theirs != ours:
                notes.append(
                    f"{task}: our avg-0s is over {' '.join(sorted(ours))}, "
                    f"the paper's over {' '.join(sorted(theirs))}"
                )
    return notes
