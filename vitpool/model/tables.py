# SPDX-License-Identifier: Apache-2.0
"""Rows of text as a table, for a terminal and for a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence


def text_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: int = 0,
    total: bool = True,
) -> str:
    """Columns two spaces apart, the last `right` to the right; the last row is a total,
    below a line, if there is one."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    left = len(head) - right

    def text(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body = [text(row) for row in rows]
    if total:
        body.insert(-1, rule)
    return "\n".join([text(head), rule, *body])


def html_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 0
) -> str:
    """A table that takes its colours from the page; the first column is headings.

    The last `right` columns are aligned to the right.
    """

    def row(cells: Sequence[str], heading: bool = False) -> str:
        text = "".join(
            _cell(cell, heading or i == 0, i >= len(cells) - right)
            for i, cell in enumerate(cells)
        )
        return f"<tr>{text}</tr>"

    first = [row(head, heading=True)] if head else []
    return f"<table>{''.join([*first, *map(row, rows)])}</table>"


def _cell(text: str, heading: bool, right: bool) -> str:
    tag = "th" if heading else "td"
    side = "right" if right else "left"
    return f"<{tag} style='text-align:{side}'>{html.escape(text)}</{tag}>"
