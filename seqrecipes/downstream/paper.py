"""The fine-tuning results of Soltan et al. 2023, as printed there, to stand beside one's own.

Mean and standard deviation over three seeds, in percent. Table 2 and the mTOP half of Table 3 are
the columns en and avg-0s of the tables by language (4 to 9), with one exception that the paper does
not explain: Table 3 prints 46.8 ±1.1 for the avg-0s of 2stage-bart-12e12d on mTOP, Table 9 prints
46.3 ±0.3. The mean of that row of Table 9 is 46.28, so Table 9 is followed.
"""

from __future__ import annotations

import functools

from seqrecipes.downstream.results import ENGLISH, Statistic

SEEDS = 3

# Tables 4 to 9, by set and metric; each model has a line of means and one of deviations.
_BY_LANGUAGE: dict[tuple[str, str], str] = {
    ("xnli", "accuracy"): """
                   en   ar   de   es   fr   hi avg-0s
roberta-12e      84.5 72.9 76.9 79.9 78.7 70.5   75.8
±                 0.5  0.2  0.3  0.2  0.3  0.8    0.2
bart-12e12d      83.9 71.6 76.0 79.2 77.8 68.9   74.7
±                 0.2  0.6  0.5  0.8  0.1  0.3    0.3
bart-12e12d-mask 83.9 71.9 76.3 79.5 78.5 68.5   75.0
±                 0.4  0.7  0.2  0.6  0.5  1.3    0.6
bart-12e2d       71.3 56.7 60.3 64.2 63.9 53.3   59.7
±                 0.1  0.7  0.3  0.7  0.6  0.2    0.5
bart-12e2d-mask  82.9 70.9 74.7 78.1 76.9 68.2   73.8
±                 0.3  0.4  0.5  0.3  0.4  0.5    0.2
bart-12e1d-mask  82.4 69.6 73.5 77.0 76.3 66.9   72.7
±                 0.2  0.3  0.3  0.1  0.4  0.2    0.1
bart-12e12d+mlm  80.3 65.6 70.6 72.9 72.6 63.4   69.0
±                 0.4  0.4  0.2  0.8  0.2  0.8    0.4
""",
    ("matis", "intent_accuracy"): """
                   en   de   es   fr   hi   ja   pt avg-0s
roberta-12e      97.8 92.7 96.2 94.6 79.5 65.6 94.3   87.2
±                 0.1  2.2  0.5  1.4  4.5 17.1  2.4    4.1
bart-12e12d      96.8 91.0 91.0 93.1 77.7 72.1 92.2   86.2
±                 0.1  2.5  0.4  1.5  3.6  4.5  1.8    1.5
bart-12e12d-mask 97.1 89.7 94.2 94.0 78.6 75.0 91.9   87.3
±                 0.1  1.1  0.4  0.8  0.7  3.4  1.1    0.7
bart-12e2d       96.1 80.4 84.7 86.1 74.3 64.4 84.6   79.1
±                 0.1  8.1  3.5  3.0  1.3  5.6  2.6    0.8
bart-12e2d-mask  96.8 92.4 94.5 94.7 79.1 73.9 94.4   88.1
±                 0.1  0.6  0.5  0.5  1.5  5.1  0.4    0.9
bart-12e1d-mask  97.0 90.1 94.8 93.3 79.4 76.5 91.6   87.6
±                 0.1  0.8  0.4  0.4  0.8  3.0  0.4    0.5
bart-12e12d+mlm  97.2 86.1 92.0 91.1 76.1 70.1 88.2   83.9
±                 0.4  4.2  0.8  1.5  2.7  4.4  3.3    1.6
""",
    ("matis", "slot_f1"): """
                   en   de   es   fr   hi   ja   pt avg-0s
roberta-12e      95.7 82.8 81.8 72.3 31.8 20.9 79.8   61.6
±                 0.1  1.2  0.6  1.7  1.3  1.2  0.8    0.6
bart-12e12d      92.5 57.0 52.6 58.5 25.1 12.6 60.0   44.3
±                 0.3  4.8  0.9  0.4  1.3  1.5  3.1    1.3
bart-12e12d-mask 91.1 54.7 52.9 52.5 23.2 10.5 53.9   41.3
±                 0.9  2.6  2.4  0.9  2.9  1.5  1.7    1.3
bart-12e2d       91.4 52.0 53.2 50.3 11.4  3.9 58.3   38.2
±                 0.1  4.1  2.3  1.7  0.8  1.5  2.2    1.7
bart-12e2d-mask  92.3 63.7 60.7 60.8 26.0 10.4 66.4   48.0
±                 0.3  2.5  1.1  1.8  1.5  0.9  2.1    1.4
bart-12e1d-mask  92.8 65.6 59.5 61.7 24.7 16.3 68.0   49.3
±                 0.5  4.8  0.4  0.3  1.7  1.8  1.6    1.2
bart-12e12d+mlm  95.3 70.5 79.7 67.3 33.5 15.9 72.2   56.5
±                 0.2  7.6  1.2  1.4  3.9  3.8  0.6    2.8
""",
    ("panx", "f1"): """
                   en   ar   de   es   fr   hi   it   ja   mr   pt   ta   te avg-0s
roberta-12e      83.0 45.7 73.5 68.9 75.4 71.5 76.7 28.0 57.5 74.7 53.9 46.5   61.1
±                 0.1  2.1  0.7  0.5  0.4  0.5  0.7  1.0  2.0  0.2  0.3  0.7    0.4
bart-12e12d      76.6 44.4 64.8 61.1 70.7 62.2 69.7 10.2 41.0 69.7 42.0 37.0   52.1
±                 0.2  1.8  1.2  1.7  0.8  2.2  0.7  0.6  1.9  0.4  0.2  2.3    0.9
bart-12e12d-mask 73.2 30.6 57.7 59.8 67.4 60.7 66.1  8.1 41.3 68.9 37.6 33.8   48.4
±                 0.1  0.8  0.3  0.5  0.5  0.1  0.5  0.7  2.9  1.5  1.1  1.9    0.6
bart-12e2d       69.3 31.0 53.5 54.9 61.2 48.7 62.0  7.1 33.2 61.9 31.1 28.0   42.9
±                 0.5  1.7  1.0  0.5  0.5  0.8  0.8  0.4  3.3  0.2  0.8  1.0    0.1
bart-12e2d-mask  76.5 45.2 63.5 65.0 70.8 64.0 69.9 10.3 44.4 71.5 47.7 41.4   54.0
±                 0.2  1.9  0.5  2.4  0.5  1.0  0.3  0.7  3.3  0.5  2.4  3.1    0.6
bart-12e1d-mask  74.6 40.9 54.5 64.0 64.3 54.3 65.4  9.4 43.0 67.3 37.8 32.1   48.5
±                 0.5  2.5  1.6  2.0  0.6  1.0  0.3  0.8  0.4  0.5  0.9  2.3    0.3
bart-12e12d+mlm  79.9 29.8 62.8 60.9 68.9 58.7 68.7 13.6 29.4 69.5 33.7 27.0   47.5
±                 0.2  1.0  0.6  0.5  0.3  1.4  0.4  0.3  0.8  0.7  1.1  0.9    0.5
""",
    ("udpos", "f1"): """
                   en   ar   de   es   fr   hi   it   ja   mr   pt   ta   te avg-0s
roberta-12e      95.8 65.9 86.2 85.6 77.6 67.5 88.0 44.9 74.4 86.1 55.1 76.8   73.5
±                 0.0  0.2  0.2  0.5  0.2  0.6  0.4  1.3  1.7  0.3  0.1  1.2    0.2
bart-12e12d      94.3 54.0 75.0 70.7 66.7 57.0 71.2 32.1 61.5 72.8 47.4 68.6   61.5
±                 0.7  0.4  3.9  5.5  1.1  1.4  2.4  7.9  9.7  3.0  4.5  7.8    0.4
bart-12e12d-mask 93.3 49.0 62.4 58.9 56.4 50.6 60.9 27.3 60.0 64.3 47.3 69.0   55.1
±                 0.1  1.3  1.2  0.5  0.4  1.4  0.6  1.1  1.1  0.5  0.5  0.9    0.4
bart-12e2d       92.1 43.5 60.8 58.4 54.6 42.3 58.5 16.8 57.2 63.2 41.4 61.1   50.7
±                 0.1  0.9  1.5  1.7  1.4  0.3  1.3  0.3  3.0  0.9  0.3  1.2    0.5
bart-12e2d-mask  93.3 48.9 61.7 52.8 52.9 48.8 58.1 27.1 63.3 59.3 48.1 73.4   54.0
±                 0.1  0.6  2.6  0.9  1.8  0.5  1.2  1.2  1.5  1.6  1.0  2.2    0.6
bart-12e1d-mask  92.4 44.8 52.5 43.8 43.8 43.0 47.9 19.8 58.4 53.0 42.1 60.0   46.3
±                 0.1  1.4  3.4  1.6  2.8  2.6  3.2  1.7  1.9  1.5  1.1  1.9    1.7
bart-12e12d+mlm  95.1 53.5 78.2 76.1 68.2 56.0 72.8 39.6 49.4 74.9 41.9 57.5   60.7
±                 0.0  1.3  1.1  0.7  1.8  2.0  0.7  1.4  1.0  1.0  0.3  1.9    0.9
""",
    ("mtop", "sciem"): """
                            en   fr   de   es   hi avg-0s
bart-12e12d               83.4 54.3 48.5 51.6 28.4   45.7
±                          0.2  1.2  1.7  1.6  0.5    1.1
bart-12e12d-mask          83.2 53.9 51.0 53.2 29.3   46.9
±                          0.5  0.6  0.4  0.9  0.2    0.5
2stage-bart-12e12d        82.0 52.3 49.6 54.4 28.8   46.3
±                          1.1  0.6  1.4  0.5  0.3    0.3
2stage-bart-12e12d-attn-f 80.6 52.6 49.8 53.7 29.7   46.4
±                          1.3  0.7  0.7  0.8  0.4    0.5
2stage-bart-12e12d-unfrz  83.3 55.2 51.3 55.3 31.1   48.2
±                          0.2  1.1  1.6  1.2  0.2    0.5
""",
}

# Table 3.
_XSUM = """
                          rouge1 rouge2 rougeL
bart-12e12d                40.37  17.37  32.46
±                           0.07   0.06   0.06
bart-12e12d-mask           40.63  17.48  32.63
±                           0.09   0.10   0.06
2stage-bart-12e12d         40.12  17.13  32.16
±                           0.06   0.03   0.01
2stage-bart-12e12d-attn-f  40.13  17.24  32.28
±                           0.06   0.07   0.03
2stage-bart-12e12d-unfrz   40.63  17.58  32.65
±                           0.11   0.03   0.05
"""


def result(task: str, metric: str, model: str, of: str) -> Statistic | None:
    """What the paper reports, or None if it does not.

    Args:
      task: a set's name, e.g. `udpos`.
      metric: `f1`, `accuracy`, ... as our own results name it.
      model: as the paper writes it, e.g. `bart-12e12d+mlm`.
      of: a language, or `avg-0s`.
    """
    return _cells().get((task, metric, model, of))


@functools.cache
def models() -> tuple[str, ...]:
    """The models of Tables 2 and 3, in their order."""
    return tuple(dict.fromkeys(model for _, _, model, _ in _cells()))


def languages(task: str, metric: str) -> tuple[str, ...]:
    """The columns of the paper's table, `avg-0s` last; none if there is no such table."""
    ofs = [of for key, other, _, of in _cells() if (key, other) == (task, metric)]
    return tuple(dict.fromkeys(ofs))


@functools.cache
def _cells() -> dict[tuple[str, str, str, str], Statistic]:
    cells = {}
    for (task, metric), text in _BY_LANGUAGE.items():
        for model, of, value in _parse(text):
            cells[task, metric, model, of] = value
    for model, metric, value in _parse(_XSUM):
        cells["xsum", metric, model, ENGLISH] = value
    return cells


def _parse(text: str) -> list[tuple[str, str, Statistic]]:
    """(model, column, value) of a table as written above."""
    header, *rows = [line.split() for line in text.strip().split("\n")]
    return [
        (model, column, Statistic(float(mean), float(std), SEEDS))
        for (model, *means), (_, *stds) in zip(rows[::2], rows[1::2], strict=True)
        for column, mean, std in zip(header, means, stds, strict=True)
    ]
