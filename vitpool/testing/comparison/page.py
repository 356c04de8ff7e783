# SPDX-License-Identifier: Apache-2.0
"""A Comparison as HTML: for a notebook, and as a page that needs no other file."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...model.tables import html_table
from ...text import printable
from . import words
from .chart import svg

if TYPE_CHECKING:
    from .result import Comparison, StageRow

# Middle tones, which stand out on a light page and on a dark one.
_STYLE = """.vp-chart .parts { fill: #e5484d }
.vp-chart .allowed { stroke: #e5484d }
.vp-chart .own { fill: #3b82f633; stroke: #3b82f6 }
.vp-chart .other { fill: #f59e0b33; stroke: #f59e0b }
.vp-key span { white-space: nowrap; margin-right: 16px }
.vp-stages th, .vp-stages td { white-space: nowrap }
.vp-key i { display: inline-block; width: 10px; height: 10px; margin-right: 6px }"""

_NUMBER = re.compile(r"\d\S*e-\d+")  # which is not to be broken at its sign

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif;
  --line: #8884; --bad: light-dark(#c62a2f, #ff6369);
  --good: light-dark(#18794e, #4cc38a); }}
body {{ margin: 0 auto; padding: 16px; max-width: 1120px; }}
h1 {{ font-size: 20px; margin: 0 0 16px; overflow-wrap: anywhere; }}
h2 {{ font-size: 15px; margin: 24px 0 8px; }}
h1 span {{ white-space: nowrap; }}
.bad {{ color: var(--bad); }}
h1.good {{ color: var(--good); }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 4px 16px;
  margin: 0; }}
dt {{ opacity: .7; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
.scroll {{ overflow-x: auto; }}
table {{ border-spacing: 0; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; font-weight: normal; padding: 3px 16px 3px 0;
  border-bottom: 1px solid var(--line); white-space: nowrap; }}
thead th {{ opacity: .7; }}
tbody th {{ position: sticky; left: 0; background: Canvas; }}
p {{ margin: 0 0 4px; overflow-wrap: anywhere; }}
svg {{ max-width: 100%; height: auto; display: block; }}
.narrow {{ display: none; }}
@media (max-width: 700px) {{
  .wide {{ display: none; }} .narrow {{ display: block; }}
  dl {{ grid-template-columns: 1fr; gap: 0; }} dd {{ margin-bottom: 6px; }} }}
{style}
</style>
{body}
"""


def page(comparison: Comparison) -> str:
    """A page of HTML: the verdict, what is different, a chart and all stages.

    It needs no other file, fits a narrow screen, and is light or dark as the reader's
    system is.
    """
    found = comparison
    verdict = _text(words.verdict(found))
    title = _NUMBER.sub(r"<span>\g<0></span>", verdict)
    body = [f"<h1 class='{'good' if found.ok else 'bad'}'>{title}</h1>", "<dl>"]
    for name, fact in words.facts(found).items():
        body.append(f"<dt>{name}</dt><dd>{_text(fact)}</dd>")
    body.append("</dl>")
    for title, lines in words.sections(found).items():
        body.append(f"<h2>{title}</h2>")
        body += [f"<p>{_text(line)}</p>" for line in lines]
    if found.stages:
        body.append("<h2>largest difference by depth, of each stage's scale</h2>")
        body.append(f"<div class='vp-chart wide'>{svg(found, 1080, 380)}</div>")
        body.append(f"<div class='vp-chart narrow'>{svg(found, 358, 360)}</div>")
        body.append(_key(found))
    for title, rows in (
        ("preprocessing", found.preprocessing),
        ("stages", found.stages),
    ):
        if rows:
            body.append(f"<h2>{title}</h2>{_table(rows)}")
    return _PAGE.format(title=verdict, style=_STYLE, body="\n".join(body))


def notebook(found: Comparison) -> str:
    """The same for a notebook: it takes the page's colours; wide parts scroll."""
    parts = [f"<style>{_STYLE}</style><p><b>{_text(words.verdict(found))}</b></p>"]
    told = list(words.facts(found).items())
    for title, lines in words.sections(found).items():
        told.append((title, "\n".join(lines)))
    parts.append(html_table((), told).replace("\n", "<br>"))
    if found.stages:
        parts.append(f"<div class='vp-chart'>{svg(found, 880, 340)}</div>{_key(found)}")
    for rows in (found.preprocessing, found.stages):
        if rows:
            cells = [words.cells(row) for row in rows]
            table = html_table(words.COLUMNS, cells)
            parts.append(f"<div class='vp-stages'>{table}</div>")
    scroll = "<div style='overflow-x:auto'>{}</div>"
    return "".join(scroll.format(part) for part in parts)


def _key(found: Comparison) -> str:
    """What the chart's colours mean."""
    key = [("#e5484d", "parts; dashed: what is allowed")]
    if any(row.reference_error is not None for row in found.stages):
        key.append(("#3b82f6", "the reference's own float32 error"))
    if any(row.candidate_error is not None for row in found.stages):
        key.append(("#f59e0b", "the candidate's own float32 error"))
    spans = (f"<span><i style='background:{c}'></i>{t}</span>" for c, t in key)
    return f"<p class='vp-key'>{' '.join(spans)}</p>"


def _table(rows: Sequence[StageRow]) -> str:
    head = "".join(f"<th>{name}</th>" for name in words.COLUMNS)
    lines = []
    for row in rows:
        name, *cells = map(_text, words.cells(row))
        kind = "" if row.ok else " class='bad'"
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f"<tr{kind}><th>{name}</th>{numbers}</tr>")
    return (
        f"<div class='scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _text(text: str) -> str:
    return html.escape(printable(text))
