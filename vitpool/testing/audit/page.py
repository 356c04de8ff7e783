# SPDX-License-Identifier: Apache-2.0
"""What an audit found: a table for a terminal, JSON, a page of HTML, and Markdown.

All four tell the same. Where many classes have one fault it is told once, with the
classes: `groups.py`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...model.tables import text_table
from ...text import printable, some
from .finding import SEVERITIES, Audit, Finding, Skip
from .groups import Group, grouped

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.5 system-ui, sans-serif;
  --line: #8884; --box: #8881; }}
body {{ margin: 0 auto; padding: 16px; max-width: 880px; overflow-wrap: anywhere; }}
h1 {{ font-size: 20px; margin: 0 0 4px; }}
h2 {{ font-size: 16px; margin: 32px 0 0; }}
h3 {{ font: 600 14px/1.4 ui-monospace, monospace; margin: 0 0 4px; }}
p {{ margin: 4px 0; }}
section {{ border-top: 1px solid var(--line); padding: 16px 0; margin-top: 8px; }}
.who, .told {{ opacity: .75; font-size: 13px; }}
.kind {{ margin-top: 12px; }}
summary {{ cursor: pointer; font-size: 13px; }}
pre {{ background: var(--box); border-radius: 4px; padding: 8px 12px; margin: 4px 0;
  overflow-x: auto; font: 12px/1.5 ui-monospace, monospace; overflow-wrap: normal; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13px; }}
td, th {{ border-top: 1px solid var(--line); padding: 2px 6px; text-align: right;
  font-variant-numeric: tabular-nums; font-weight: normal; }}
td:first-child, th:first-child {{ text-align: left; }}
thead th {{ border: 0; font-weight: 600; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def table(audits: Sequence[Audit]) -> str:
    """A line a subject with its findings by severity, then each finding once."""
    rows = [
        [printable(audit.name), *(str(n or "") for n in audit.counts().values())]
        for audit in audits
    ]
    total = _counts(audits).values()
    rows.append([_subjects(audits), *map(str, total)])
    parts = [text_table(["class", *SEVERITIES], rows, right=len(SEVERITIES))]
    for group in grouped(audits):
        lines = [f"{group.severity}  {group.check}"]
        for kind in group.kinds:
            lines.append(f"   {printable(kind.message)}")
            if len(audits) > 1:
                lines.append(f"      {_in(kind.names)}")
        parts.append("\n".join(lines))
    parts += [f"broke: {printable(line)}" for line in _broken(audits)]
    return "\n\n".join(parts)


def document(audits: Sequence[Audit]) -> dict[str, Any]:
    """All of it as plain values: {'ok', 'counts', 'classes': each Audit.to_dict()}."""
    return {
        "ok": all(audit.ok for audit in audits),
        "counts": _counts(audits),
        "classes": [audit.to_dict() for audit in audits],
    }


def audits_of(document: Mapping[str, Any]) -> list[Audit]:
    """The reports that a document was made of."""
    return [
        Audit(
            told["name"],
            tuple(Finding(**finding) for finding in told["findings"]),
            tuple(Skip(**skip) for skip in told["skips"]),
            tuple(told["passed"]),
            told["seconds"],
        )
        for told in document["classes"]
    ]


def html_page(audits: Sequence[Audit], title: str = "vitpool audit") -> str:
    """A page of HTML that needs no other file."""
    body = [f"<p>{_text(_summary(audits))}</p>"]
    groups = grouped(audits)
    for severity, meaning in SEVERITIES.items():
        own = [group for group in groups if group.severity == severity]
        if own:
            body.append(f"<h2>{severity}: {_text(meaning)}</h2>")
        for group in own:
            kinds = "\n".join(
                f'<div class="kind"><p>{_text(kind.message)}</p>'
                f'<p class="who">{_text(_in(kind.names, most=len(kind.names)))}</p>'
                "<details><summary>a program that shows it</summary>"
                f"<pre>{html.escape(kind.reproduce.strip())}</pre></details></div>"
                for kind in group.kinds
            )
            body.append(
                f"<section><h3>{_text(group.check)}</h3>"
                f'<p class="told">{_text(group.sentence)}</p>\n{kinds}</section>'
            )
    broken = _broken(audits)
    if broken:
        body.append("<h2>Checks that broke, and so say nothing</h2>")
        body += [f"<p>{_text(line)}</p>" for line in broken]
    body.append(f"<h2>By class</h2>{_html_table(audits)}")
    skipped = _skipped(audits)
    if skipped:
        body.append("<h2>What was not checked</h2>")
        body += [f"<p>{_text(line)}</p>" for line in skipped]
    return _PAGE.format(title=_text(title), body="\n".join(body))


def markdown(
    audits: Sequence[Audit], title: str, lead: str, answers: Mapping[str, str]
) -> str:
    """A page of Markdown: a section a check, with what is done there elsewhere.

    lead: the text below the title. answers: by check, what another implementation does;
    each check with a finding has to have one (KeyError).
    """
    lines = [f"# {title}", "", lead, "", f"**{_summary(audits)}**"]
    groups = grouped(audits)
    for severity, meaning in SEVERITIES.items():
        own = [group for group in groups if group.severity == severity]
        if own:
            lines += ["", f"## {severity}: {meaning}"]
        for group in own:
            lines += ["", *_markdown_group(group, answers[group.check])]
    broken = _broken(audits)
    if broken:
        lines += ["", "## Checks that broke, and so say nothing", ""]
        lines += [f"- {_escaped(line)}" for line in broken]
    lines += ["", "## By class", "", "| class | " + " | ".join(SEVERITIES) + " |"]
    lines.append("| --- |" + " ---: |" * len(SEVERITIES))
    for audit in audits:
        counts = " | ".join(str(n or "") for n in audit.counts().values())
        lines.append(f"| {audit.name} | {counts} |")
    skipped = _skipped(audits)
    if skipped:
        lines += ["", "## What was not checked", ""]
        lines += [f"- {_escaped(line)}" for line in skipped]
    return "\n".join(lines) + "\n"


def _markdown_group(group: Group, answer: str) -> list[str]:
    lines = [
        f"### {group.check}",
        "",
        f"It pins that {group.sentence}.",
    ]
    for kind in group.kinds:
        lines += ["", f"**{_escaped(kind.message)}**", ""]
        lines += [f"{_in(kind.names, most=len(kind.names))}.", "", "```python"]
        lines += [kind.reproduce.strip(), "```"]
    return [*lines, "", f"vitpool: {answer}"]


def _counts(audits: Sequence[Audit]) -> dict[str, int]:
    """How many findings there are of each severity, in all of them."""
    return {
        severity: sum(audit.counts()[severity] for audit in audits)
        for severity in SEVERITIES
    }


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", text)


def _summary(audits: Sequence[Audit]) -> str:
    """How much was found, in words."""
    counts = _counts(audits)
    found = ", ".join(f"{n} {severity}" for severity, n in counts.items() if n)
    sound = sum(audit.ok for audit in audits)
    kinds = sum(len(group.kinds) for group in grouped(audits))
    if not found:
        return f"{_subjects(audits)}: no finding"
    return f"{_subjects(audits)}, {sound} without a finding: {found}, of {kinds} kinds"


def _subjects(audits: Sequence[Audit]) -> str:
    return "1 model" if len(audits) == 1 else f"{len(audits)} models"


def _in(names: Sequence[str], most: int = 6) -> str:
    return (
        f"in {len(names)}: {some(names, most)}" if len(names) > 1 else f"in {names[0]}"
    )


def _broken(audits: Sequence[Audit]) -> list[str]:
    return [
        f"{audit.name}: {skip.check}: {skip.reason}"
        for audit in audits
        for skip in audit.skips
        if skip.failed
    ]


def _skipped(audits: Sequence[Audit]) -> list[str]:
    """What was skipped: checks that skipped the same for one reason, and where."""
    found: dict[tuple[str, str], list[str]] = {}
    for audit in audits:
        for skip in audit.skips:
            if not skip.failed:
                found.setdefault((skip.check, _reason(skip)), []).append(audit.name)
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (check, reason), names in sorted(found.items()):
        alike.setdefault((reason, tuple(dict.fromkeys(names))), []).append(check)
    return [
        f"{', '.join(checks)}: {reason} ({_in(names)})"
        for (reason, names), checks in alike.items()
    ]


def _reason(skip: Skip) -> str:
    """The reason without the shapes of one class."""
    return re.sub(r"\((\d+, )+\d*\)", "(...)", skip.reason)


def _html_table(audits: Sequence[Audit]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in ("class", *SEVERITIES))
    rows = [
        f"<tr><th>{_text(audit.name)}</th>"
        + "".join(f"<td>{n or ''}</td>" for n in audit.counts().values())
        + "</tr>"
        for audit in audits
    ]
    return f"<table><thead><tr>{head}</tr></thead>{''.join(rows)}</table>"


def _text(text: str) -> str:
    return html.escape(printable(text))
