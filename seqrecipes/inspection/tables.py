"""The statistics as tables, for a terminal, a page or a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqrecipes.inspection.excerpt import TextCounts
from seqrecipes.inspection.findings import Findings
from seqrecipes.inspection.trace import KEPT, MASKED, RANDOM, ExampleCounts

ALL = "all"
FATES = {MASKED: "<mask>", RANDOM: "a random token", KEPT: "the token itself"}
_LONGEST_SPAN = 12  # what is longer is counted together
_BAR = 40


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells; the first column is text, the others are numbers.

    Attributes:
      title: what it says.
      header: a name for each column; may have several lines.
      rows: as many cells in each.
    """

    title: str
    header: list[str]
    rows: list[list[str]]

    def text(self) -> str:
        """The table in fixed-width letters."""
        head = [name.split("\n") for name in self.header]
        height = max(map(len, head))
        lines = [[""] * (height - len(names)) + names for names in head]
        rows = [*(list(row) for row in zip(*lines, strict=True)), *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.header))]
        text = []
        for row in rows:
            cells = [
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            text.append("  ".join(cells).rstrip())
        return "\n".join([self.title, *text])


def tables(findings: Findings) -> list[Table]:
    """All tables: text, lengths, and noise."""
    found = [_text(findings), _lengths(findings), _noise(findings)]
    if findings.total.fates:
        found.append(_fates(findings))
    return found


def span_rows(findings: Findings) -> list[tuple[str, float, float | None]]:
    """(length, share of the spans, share under the law) of each length; long ones together."""
    spans, law = findings.total.spans, findings.law
    total = max(spans.total(), 1)
    rows: list[tuple[str, float, float | None]] = []
    last = min(max(spans, default=0), _LONGEST_SPAN)
    for length in range(1, last + 1):
        open_end = length == _LONGEST_SPAN
        count = sum(n for s, n in spans.items() if s == length or (open_end and s > length))
        expected = None
        if law is not None:
            expected = float(law[1][length - 1 : None if open_end else length].sum())
        rows.append((f"{length}{'+' if open_end else ''}", count / total, expected))
    return rows


def span_histogram(findings: Findings) -> str:
    """Span lengths as bars of letters; empty without spans."""
    rows = span_rows(findings)
    if not rows:
        return ""
    most = max(max(share, expected or 0) for _, share, expected in rows)
    law = f"; | marks {findings.law[0]}" if findings.law else ""
    lines = [f"Lengths of removed spans{law}"]
    for length, share, expected in rows:
        bar = list(("#" * round(share / most * _BAR)).ljust(_BAR + 1))
        if expected is not None:
            bar[round(expected / most * _BAR)] = "|"
        lines.append(f"{length:>5} {share:>7.2%}  {''.join(bar)}".rstrip())
    return "\n".join(lines)


def _with_total(findings: Findings) -> list[tuple[str, ExampleCounts]]:
    parts = list(findings.counts.items())
    return parts if len(parts) == 1 else [(ALL, findings.total), *parts]


def _text(findings: Findings) -> Table:
    header = ["language", "documents", "characters\nper token", "unknown\ntokens"]
    header += ["empty", "cut", "bad"] + (["share in\ntraining"] if findings.shares else [])
    texts = list(findings.texts.items())
    if len(texts) > 1:
        texts.insert(0, (ALL, _sum([text for _, text in texts])))
    rows = []
    for name, text in texts:
        per_token = text.characters_per_token
        row = [
            name,
            f"{text.documents:,}",
            "-" if per_token is None else f"{per_token:.2f}",
            f"{text.unknown_tokens / max(text.tokens, 1):.3%}",
            f"{text.empty_documents:,}",
            f"{text.cut_documents:,}",
            f"{text.bad_records:,}",
        ]
        if findings.shares:
            row.append("" if name == ALL else f"{findings.shares[name]:.2%}")
        rows.append(row)
    return Table(f"Text ({findings.scope})", header, rows)


def _sum(texts: Sequence[TextCounts]) -> TextCounts:
    names = [f.name for f in dataclasses.fields(TextCounts) if f.type == "int"]
    total = TextCounts(**{name: sum(getattr(text, name) for text in texts) for name in names})
    total.tokens_are_cut = any(text.tokens_are_cut for text in texts)
    return total


def _lengths(findings: Findings) -> Table:
    groups = findings.features()
    header = ["language"] + ["\n".join([*g, f"of {findings.static[g[0]]}"]) for g in groups]
    rows = []
    for name, counts in _with_total(findings):
        row = [name]
        for feature, *_ in groups:
            lengths = counts.lengths.get(feature)
            if not lengths:
                row.append("-")
                continue
            mean = sum(lengths) / len(lengths)
            padding = counts.padding(feature, findings.static[feature])
            row.append(f"{mean:.1f}  {max(lengths):>4}  {padding:>6.1%}")
        rows.append(row)
    return Table("Lengths (mean, longest, padding in a batch)", header, rows)


def _noise(findings: Findings) -> Table:
    has_spans = bool(findings.total.spans)
    header = ["language", "records", "tokens\nper record", "[DOC]\nper record", "noise"]
    header += ["spans\nper record", "tokens\nper span"] if has_spans else []
    rows = []
    for name, counts in _with_total(findings):
        records = max(counts.records, 1)
        row = [
            name,
            f"{counts.records:,}",
            f"{counts.tokens / records:.1f}",
            f"{counts.documents_ended / records:.2f}",
            f"{counts.noise:.2%}",
        ]
        if has_spans:
            row += [f"{counts.spans.total() / records:.2f}", f"{counts.mean_span:.2f}"]
        rows.append(row)
    return Table("Examples (noise: corrupted among ordinary tokens)", header, rows)


def _fates(findings: Findings) -> Table:
    fates = findings.total.fates
    rows = [
        [name, f"{fates[fate]:,}", f"{fates[fate] / fates.total():.2%}"]
        for fate, name in FATES.items()
    ]
    return Table("What stands where a token is to be predicted", ["", "tokens", "share"], rows)
