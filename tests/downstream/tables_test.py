"""Tables against the paper's own, and what each layout makes of them."""

from __future__ import annotations

import pathlib
import re
import statistics

import pytest

from seqrecipes.downstream import layouts, paper, results, tables
from seqrecipes.downstream.results import AVERAGE, Result, Statistic
from seqrecipes.downstream.tables import Column, Metric, Row, Table
from seqrecipes.errors import UserError
from tests.downstream.harness import write_scores

# Soltan et al. 2023, Table 2, typed apart from Tables 4 to 8: XNLI, mATIS++ IC and SL, WikiANN,
# UDPOS, each English and avg-0s.
TABLE_2 = """
roberta-12e      84.5 75.8 97.8 87.2 95.7 61.6 83.0 61.1 95.8 73.5
bart-12e12d      83.9 74.7 96.8 86.2 92.5 44.3 76.6 52.1 94.3 61.5
bart-12e12d-mask 83.9 75.0 97.1 87.3 91.1 41.3 73.2 48.4 93.3 55.1
bart-12e2d       71.3 59.7 96.1 79.1 91.4 38.2 69.3 42.9 92.1 50.7
bart-12e2d-mask  82.9 73.8 96.8 88.1 92.3 48.0 76.5 54.0 93.3 54.0
bart-12e1d-mask  82.4 72.7 97.0 87.6 92.8 49.3 74.6 48.5 92.4 46.3
bart-12e12d+mlm  80.3 69.0 97.2 83.9 95.3 56.5 79.9 47.5 95.1 60.7
"""
TABLE_2_AVERAGE_DEVIATIONS = """
roberta-12e      0.2 4.1 0.6 0.4 0.2
bart-12e12d      0.3 1.5 1.3 0.9 0.4
bart-12e12d-mask 0.6 0.7 1.3 0.6 0.4
bart-12e2d       0.5 0.8 1.7 0.1 0.5
bart-12e2d-mask  0.2 0.9 1.4 0.6 0.6
bart-12e1d-mask  0.1 0.5 1.2 0.3 1.7
bart-12e12d+mlm  0.4 1.6 2.8 0.5 0.9
"""
TABLE_3 = """
bart-12e12d               83.4 45.7 40.37 17.37 32.46
bart-12e12d-mask          83.2 46.9 40.63 17.48 32.63
2stage-bart-12e12d        82.0 46.3 40.12 17.13 32.16
2stage-bart-12e12d-attn-f 80.6 46.4 40.13 17.24 32.28
2stage-bart-12e12d-unfrz  83.3 48.2 40.63 17.58 32.65
"""


def typed(text: str) -> dict[str, list[float]]:
    rows = [line.split() for line in text.strip().split("\n")]
    return {model: [float(value) for value in values] for model, *values in rows}


def all_tasks(folder: pathlib.Path, model: str = "mlm", seeds: int = 1) -> list[Result]:
    """A model with made-up scores on all of the paper's tasks, in its languages."""
    for task, found in (tables.ENCODER_TASKS | tables.SEQ2SEQ_TASKS).items():
        languages = set(paper.languages(task, found[0].key)) - {AVERAGE}
        if languages:
            scores = {of: {metric.key: 50.0 for metric in found} for of in sorted(languages)}
            for seed in range(seeds):
                write_scores(folder, scores, task=task, model=model, seed=seed)
    return results.read(results.find([folder]))


def means(row: Row) -> list[float | None]:
    return [cell.mean if cell else None for cell in row.cells]


def test_the_papers_rows_are_tables_2_and_3(tmp_path):
    encoder, seq2seq = tables.overview(all_tasks(tmp_path), published=True)
    assert [c.heading for c in encoder.columns] == ["en", "avg-0s"] * 5
    assert [c.heading for c in seq2seq.columns] == ["en", "avg-0s", "R-1", "R-2", "R-L"]
    for table, text in ((encoder, TABLE_2), (seq2seq, TABLE_3)):
        assert {row.model: means(row) for row in table.rows if row.published} == typed(text)
    deviations = {
        row.model: [cell.std for cell in row.cells[1::2] if cell]
        for row in encoder.rows
        if row.published
    }
    assert deviations == typed(TABLE_2_AVERAGE_DEVIATIONS)
    assert encoder.rows[0] == Row("mlm", False, [Statistic(50.0, None, 1)] * 10)
    assert not any(
        row.published for row in tables.overview(all_tasks(tmp_path / "b"), published=False)[0].rows
    )


@pytest.mark.parametrize(
    ("task", "metric", "models", "count"),
    [
        ("xnli", "accuracy", 7, 5),
        ("matis", "intent_accuracy", 7, 6),
        ("matis", "slot_f1", 7, 6),
        ("panx", "f1", 7, 11),
        ("udpos", "f1", 7, 11),
        ("mtop", "sciem", 5, 4),
    ],
)
def test_the_papers_averages_are_of_its_languages(task, metric, models, count):
    """Means of rounded figures are off by less than 0.1: a slip of the typist is mostly not."""
    *languages, last = paper.languages(task, metric)
    assert last == AVERAGE and languages[0] == "en" and len(languages) == 1 + count
    rows = 0
    for model in paper.models():
        if printed := paper.result(task, metric, model, AVERAGE):
            found = [paper.result(task, metric, model, of) for of in languages[1:]]
            mean = statistics.fmean(each.mean for each in found if each)
            assert mean == pytest.approx(printed.mean, abs=0.1), model
            assert printed.seeds == 3
            rows += 1
    assert rows == models


def test_table_5_shows_why_averages_come_first():
    """Per language up to 8.1, on average 0.8: deviations are of the average, not averaged."""
    found = [
        paper.result("matis", "intent_accuracy", "bart-12e2d", of)
        for of in ("de", "es", "fr", "hi", "ja", "pt", AVERAGE)
    ]
    assert [each.std for each in found if each] == [8.1, 3.5, 3.0, 1.3, 5.6, 2.6, 0.8]


def test_the_papers_rows_stand_below_ours(tmp_path):
    for model in ("mini", "bart_12e12d_mlm"):
        all_tasks(tmp_path, model)
    shown, _ = tables.overview(results.read(results.find([tmp_path])), published=True)
    names = [(row.model, row.published) for row in shown.rows]
    assert names[:3] == [
        ("bart_12e12d_mlm", False),
        ("bart-12e12d+mlm", True),
        ("mini", False),
    ]
    assert len(names) == 9


def test_averages_over_other_languages_than_the_papers_are_noted(tmp_path):
    write_scores(tmp_path, {of: {"f1": 1.0} for of in ("en", "de", "ar")}, task="udpos")
    (shown,) = tables.overview(results.read(results.find([tmp_path])), published=True)
    assert "udpos: our avg-0s is over ar de, the paper's over ar de es fr hi it" in shown.notes[-1]
    full, _ = tables.overview(all_tasks(tmp_path / "full"), published=True)
    assert not any("our avg-0s" in note for note in full.notes)


def test_models_of_different_languages_do_not_compare(tmp_path):
    write_scores(tmp_path, {"en": {"f1": 1.0}, "de": {"f1": 1.0}}, model="a")
    other = write_scores(tmp_path, {"en": {"f1": 1.0}, "fr": {"f1": 1.0}}, model="b")
    found = results.read(results.find([tmp_path]))
    for show in (
        lambda: tables.overview(found, published=False),
        lambda: tables.by_language(found, "udpos", published=False),
    ):
        with pytest.raises(UserError, match="do not compare") as error:
            show()
        assert str(other) in str(error.value)


def test_columns_are_of_the_language_trained_on(tmp_path):
    scores = {"en": {"f1": 50.0}, "de": {"f1": 90.0}, "fr": {"f1": 60.0}}
    write_scores(tmp_path, scores, language="de")
    found = results.read(results.find([tmp_path]))
    (shown,) = tables.overview(found, published=True)
    assert [column.heading for column in shown.columns] == ["de", "avg-0s"]
    assert [means(row) for row in shown.rows] == [[90.0, 55.0]], "the paper trains on English"
    (shown,) = tables.by_language(found, "udpos", published=False)
    assert [column.heading for column in shown.columns] == ["de", "en", "fr", "avg-0s"]
    write_scores(tmp_path, scores, model="other", language="en")
    with pytest.raises(UserError, match=r"was trained on \(.+\): the two do not compare"):
        tables.overview(results.read(results.find([tmp_path])), published=False)


def test_translation_has_an_average_that_is_not_zero_shot(tmp_path):
    scores = {"en-de": {"bleu": 20.0, "chrf": 5.0}, "de-en": {"bleu": 30.0, "chrf": 5.0}}
    write_scores(tmp_path, scores, task="ntrex")
    (shown,) = tables.overview(results.read(results.find([tmp_path])), published=True)
    assert [(c.heading, c.metric.key) for c in shown.columns] == [("avg", "bleu")]
    assert means(shown.rows[0]) == [25.0]
    assert not any("avg-0s" in note for note in shown.notes)


def test_a_task_of_ones_own_shows_all_it_has(tmp_path):
    write_scores(tmp_path, {"en": {"mcc": 7.0, "f1": 1.0}}, task="cola_x")
    write_scores(tmp_path, {"en": {"accuracy": 2.0}}, task="xnli", model="other")
    (shown,) = tables.overview(results.read(results.find([tmp_path])), published=False)
    assert [(c.metric.group, c.heading) for c in shown.columns] == [
        ("XNLI (acc.)", "en"),
        ("cola_x", "f1"),
        ("cola_x", "mcc"),
    ]
    assert [means(row) for row in shown.rows] == [[None, 1.0, 7.0], [2.0, None, None]]


def test_by_language_in_the_papers_order(tmp_path):
    found = all_tasks(tmp_path)
    (shown,) = tables.by_language(found, "mtop", published=True)
    assert [c.heading for c in shown.columns] == ["en", "fr", "de", "es", "hi", "avg-0s"]
    (last,) = [row for row in shown.rows if row.model == "2stage-bart-12e12d-unfrz"]
    assert means(last) == [83.3, 55.2, 51.3, 55.3, 31.1, 48.2]
    intents, slots = tables.by_language(found, "matis", published=False)
    assert (intents.title, slots.title) == (
        "mATIS++ IC (acc.) by language",
        "mATIS++ SL (f1) by language",
    )
    rouge = tables.by_language(found, "xsum", published=False)
    assert [each.title for each in rouge] == [f"XSUM R-{n} by language" for n in "12L"]
    with pytest.raises(UserError, match=r"'xsid': none of these runs .* matis, mtop, panx"):
        tables.by_language(found, "xsid", published=False)


ONE = Metric("f1", "UDPOS (f1)")
TWO = tuple(Metric(f"rouge{n}", "A&B_1 (ROUGE)", f"R-{n}", 2) for n in "12")
SMALL = Table(
    "Tasks of 50%",
    [
        Column("udpos", ONE, "en", "en"),
        Column("udpos", ONE, AVERAGE, "avg-0s"),
        Column("xsum", TWO[0], "en", "R-1"),
        Column("xsum", TWO[1], "en", "R-2"),
    ],
    [
        Row("a_1|x", False, [Statistic(91.26, 0.04, 3), Statistic(50.0, None, 1), None, None]),
        Row("b", False, [Statistic(91.34, 1.25, 3), None, Statistic(40.629, 0.111, 3), None]),
        Row(
            "c{2}",
            False,
            [Statistic(91.24, 0.5, 3), Statistic(60, 2, 3), Statistic(40.6, 0, 2), None],
        ),
        Row("p", True, [Statistic(99.0, 0.1, 3), Statistic(99.0, 0.1, 3), None, None]),
    ],
    ["mean ± deviation"],
)


def test_equal_figures_share_their_place():
    # 91.26 and 91.34 both print 91.3; 40.629 and 40.6 print 40.63 and 40.60.
    assert tables.best(SMALL, 0, published=False) == ["best", "best", "second", None]
    assert tables.best(SMALL, 1, published=False) == ["second", None, "best", None]
    assert tables.best(SMALL, 2, published=False) == [None, "best", "second", None]
    assert tables.best(SMALL, 3, published=False) == [None] * 4
    assert tables.best(SMALL, 0, published=True) == [None] * 4, "alone it wins nothing"


def grid(text: str) -> list[list[str]]:
    lines = [line for line in text.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_rounds_as_the_paper_does():
    rows = grid(layouts.as_markdown(SMALL))
    assert rows[0] == ["model", "UDPOS (f1)", "", "A&B_1 (ROUGE)", ""]
    assert rows[2:] == [
        ["", "en", "avg-0s", "R-1", "R-2"],
        ["a_1\\|x", "**91.3 ±0.0**", "_50.0_", "-", "-"],
        ["b", "**91.3 ±1.2**", "-", "**40.63 ±0.11**", "-"],
        ["c{2}", "_91.2 ±0.5_", "**60.0 ±2.0**", "_40.60 ±0.00_", "-"],
        ["p (paper)", "99.0 ±0.1", "99.0 ±0.1", "-", "-"],
    ]


def test_a_terminal_sees_no_marks():
    rows = grid(layouts.terminal(SMALL))
    assert rows[3] == ["a_1\\|x", "91.3 ±0.0", "50.0", "-", "-"]
    assert layouts.terminal(SMALL).startswith("Tasks of 50%\n")
    assert layouts.terminal(SMALL).endswith("\nmean ± deviation")


def test_a_wide_table_is_cut_between_tasks(tmp_path):
    shown, _ = tables.overview(all_tasks(tmp_path, seeds=3), published=True)
    text = layouts.terminal(shown)
    assert max(map(len, text.split("\n"))) <= 110
    headers = [row for row in grid(text) if row[0] == "model"]
    assert len(headers) == 2
    assert [cell for header in headers for cell in header[1:]] == [
        cell
        for metric in (
            "XNLI (acc.)",
            "mATIS++ IC (acc.)",
            "mATIS++ SL (f1)",
            "WikiANN (f1)",
            "UDPOS (f1)",
        )
        for cell in (metric, "")
    ]
    # All languages are one group, cut where the width says.
    (languages,) = tables.by_language(all_tasks(tmp_path / "b"), "panx", published=True)
    text = layouts.terminal(languages)
    assert max(map(len, text.split("\n"))) <= 110
    headings = [cell for row in grid(text) if row[0] == "" for cell in row[1:]]
    assert " ".join(headings) == "en ar de es fr hi it ja mr pt ta te avg-0s"


def test_latex_has_as_many_cells_as_columns():
    text = layouts.as_latex(SMALL)
    assert text.count("\\begin{tabular}{lrrrr}") == 1
    assert text.count("{") == text.count("}") + text.count("\\{") - text.count("\\}")
    lines = [line for line in text.split("\n") if line.endswith(r" \\")]
    assert lines[0] == (
        r" & \multicolumn{2}{c}{UDPOS (f1)} & \multicolumn{2}{c}{A\&B\_1 (ROUGE)} \\"
    )
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in text
    assert [len(re.split(r"(?<!\\)&", line)) for line in lines[1:]] == [5] * 5
    assert lines[2] == (
        r"a\_1\textbar{}x & \textbf{91.3} {\scriptsize $\pm$0.0} & \underline{50.0} & - & - \\"
    )
    assert lines[4].startswith(r"c\{2\} & \underline{91.2}")
    assert r"\caption{Tasks of 50\%: mean $\pm$ deviation.}" in text


def test_json_keeps_what_was_not_rounded():
    (found,) = tables.document([SMALL])
    assert found["columns"][2] == {"task": "xsum", "metric": "rouge1", "of": "en"}
    assert found["rows"][1]["cells"][2] == {"mean": 40.629, "std": 0.111, "seeds": 3}
    assert found["rows"][0]["cells"][1] == {"mean": 50.0, "std": None, "seeds": 1}
    assert found["rows"][0]["cells"][3] is None
    assert [row["published"] for row in found["rows"]] == [False, False, False, True]
