# SPDX-License-Identifier: Apache-2.0
"""The tree of a model's modules as HTML that folds, for a notebook."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

Modules = Mapping[str, tuple[str, str]]
Shapes = Mapping[str, tuple[int, ...]]


def html_tree(modules: Modules, shapes: Shapes) -> str:
    """Modules as nested details: a click shows what is in one.

    Items of a list that are alike and follow each other are one, as in torch's text.
    Colours are the page's own, so that it reads on light and on dark.
    """
    below: dict[str, list[str]] = {}  # modules, then parameters
    for path in (*modules, *shapes):
        if path:
            below.setdefault(path.rpartition(".")[0], []).append(path)

    def inside(path: str) -> tuple[str, str, int]:
        """What it is; the HTML of what is in it; how many numbers."""
        if path in shapes:
            return f"Parameter{shapes[path]}", "", math.prod(shapes[path])
        rows: list[tuple[list[str], str, str]] = []  # names that are alike, as above
        total = 0
        for child in below.get(path, ()):
            name, (title, body, count) = child.rpartition(".")[2], inside(child)
            total += count
            if rows and name.isdigit() and rows[-1][1:] == (title, body):
                rows[-1][0].append(name)
            else:
                rows.append(([name], title, body))
        kind, extra = modules[path]
        title = f"{kind}({extra})" if extra else kind
        if total:
            title += f", {total:,} parameters"
        return title, "".join(_row(_label(n), t, body) for n, t, body in rows), total

    title, body, _ = inside("")
    tree = _row("", title, body, " open")
    return f"<div style='font-family:monospace;margin-top:.5em'>{tree}</div>"


def _label(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]}: "
    return f"{names[0]}-{names[-1]}: {len(names)} x "


def _row(label: str, title: str, body: str, opened: str = "") -> str:
    text = html.escape(label + title)
    if not body:
        return f"<div>{text}</div>"
    inner = f"<div style='margin-left:1.5em'>{body}</div>"
    return f"<details{opened}><summary>{text}</summary>{inner}</details>"
