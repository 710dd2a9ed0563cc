"""Examples and statistics as one HTML file that needs nothing else, not even scripts."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from html import escape

from seqrecipes.inspection.findings import Findings
from seqrecipes.inspection.panes import Pane, Shown, Token, legend, texts
from seqrecipes.inspection.plots import panels, svg
from seqrecipes.inspection.tables import Table, tables

_GROUPS = 6

_STYLE = """
body { font: 15px/1.6 system-ui, "Noto Sans", sans-serif; color: #222; background: #fafafa;
       max-width: 1240px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #ddd; }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; }
h4 { font: 600 .8rem ui-monospace, "DejaVu Sans Mono", monospace; color: #666; margin: 0 0 .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: .85rem; }
dt { color: #666; } dd { margin: 0; overflow-wrap: anywhere; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; padding: 0;
          font-size: .85rem; }
.panes { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; margin-bottom: .8rem; }
.pane { background: #fff; border: 1px solid #e3e3e3; border-radius: 6px; padding: .7rem .9rem;
        min-width: 0; }
.pane p { margin: 0 0 .4rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 800px) { .panes { grid-template-columns: 1fr; } }
i { font-style: normal; }
.name, .special { font: .8em ui-monospace, "DejaVu Sans Mono", monospace; }
.special { color: #0b6e75; }
.random, .kept, .masked, .removed, .sentinel, .mask, .gap { border-radius: 3px; }
.masked { background: #ffe08a; } .random { background: #ffb3a7; } .kept { background: #b9e4c0; }
.mask { background: #eee; }
.g0 { background: #ffe08a; } .g1 { background: #b9e4c0; } .g2 { background: #b8d8f8; }
.g3 { background: #f9c4dc; } .g4 { background: #e2cfb0; } .g5 { background: #d7c9f7; }
.gap { padding: 0 1px; } .gap::before { content: "\\2038"; }
body:has(#ids:checked) i[data-id]::after { content: attr(data-id); font: .62em ui-monospace,
       "DejaVu Sans Mono", monospace; color: #777; vertical-align: sub; margin-right: 2px; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
.tables { display: flex; flex-wrap: wrap; gap: 1.4rem 3rem; } .wide { overflow-x: auto; }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; white-space: nowrap; }
th, td { padding: .12rem .9rem .12rem 0; text-align: right; white-space: pre; }
th { vertical-align: bottom; border-bottom: 1px solid #999; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
.note { background: #fff6dc; border-left: 4px solid #e0a800; padding: .4rem .8rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem; }
figure { margin: 0; background: #fff; border: 1px solid #e3e3e3; border-radius: 6px; }
figure img { width: 100%; display: block; } figcaption { font-weight: 600; font-size: .85rem;
       padding: .6rem .9rem 0; }
"""


def page(findings: Findings, *, ids: bool) -> str:
    """The file's text.

    Args:
      findings: what to show.
      ids: whether ids are shown before anybody asks for them.
    """
    title = escape(findings.title)
    body = [f"<h1>{title}</h1>", _facts(findings)]
    body += [f'<p class="note">{escape(note)}</p>' for note in findings.notes]
    if findings.examples:
        body += ["<h2>Examples</h2>", _legend(findings.examples)]
        checked = " checked" if ids else ""
        body.append(f'<label><input type="checkbox" id="ids"{checked}> show ids</label>')
        body += [_example(example) for example in findings.examples]
    body.append("<h2>Statistics</h2>")
    body += ['<div class="tables">', *map(_table, tables(findings)), "</div>"]
    body += ["<h2>Pictures</h2>", '<div class="plots">', *_plots(findings), "</div>"]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _facts(findings: Findings) -> str:
    facts = (f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in findings.facts.items())
    return f"<dl>{''.join(facts)}</dl>"


def _legend(examples: list[Shown]) -> str:
    entries = (
        f"<li>{''.join(_runs(Pane('', [sample])))} {escape(meaning)}</li>"
        for sample, meaning in legend(examples)
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _example(example: Shown) -> str:
    rows = (
        f'<div class="panes">{_pane(left, example)}{_pane(right, example)}</div>'
        for left, right in example.rows
    )
    return f"<section><h3>{escape(example.heading)}</h3>{''.join(rows)}</section>"


def _pane(pane: Pane, example: Shown) -> str:
    paragraphs = []
    for segment, tokens in itertools.groupby(pane.tokens, lambda token: token.segment):
        language = escape(example.languages[segment].replace("_", "-"))
        runs = "".join(_runs(Pane("", list(tokens))))
        paragraphs.append(f'<p dir="auto" lang="{language}">{runs}</p>')
    return f'<div class="pane"><h4>{escape(pane.title)}</h4>{"".join(paragraphs)}</div>'


def _runs(pane: Pane) -> Iterator[str]:
    for run in pane.runs():
        first, written = run[0], texts(run)
        # A space in front of a run stays without its colour.
        space = " " if written[0].startswith(" ") else ""
        written[0] = written[0].removeprefix(space)
        tokens = "".join(map(_token, run, written))
        gap = "" if first.gap is None else f'<bdi class="gap {_group(first.gap)}"></bdi>'
        if first.role == "plain":
            yield f"{gap}{space}{tokens}"
            continue
        group = "" if first.group is None else f" {_group(first.group)}"
        # Names such as <mask> and letters of another script must not turn the text around them.
        is_foreign = first.role in ("special", "mask", "sentinel") or first.was
        element = "bdi" if is_foreign else "span"
        named = " name" if is_foreign and written[0].startswith("<") else ""
        yield f'{gap}{space}<{element} class="{first.role}{group}{named}">{tokens}</{element}>'


def _token(token: Token, text: str) -> str:
    was = f' title="{escape(token.was)}"' if token.was else ""
    id_ = f' data-id="{token.id}"' if token.id >= 0 else ""
    return f"<i{id_}{was}>{escape(text)}</i>"


def _group(number: int) -> str:
    return f"g{number % _GROUPS}"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return (
        f'<div class="wide"><table><caption>{escape(table.title)}</caption>'
        f"<tr>{head}</tr>{rows}</table></div>"
    )


def _cell(cell: str) -> str:
    return escape(cell).replace(" ", "\u2007")  # as wide as a digit


def _plots(findings: Findings) -> Iterator[str]:
    for title, draw in panels(findings).items():
        data = base64.b64encode(svg(draw, findings)).decode()
        yield (
            f"<figure><figcaption>{escape(title)}</figcaption>"
            f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}"></figure>'
        )
