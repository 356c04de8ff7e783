# SPDX-License-Identifier: Apache-2.0
"""Sphinx's settings; `make docs` builds to build/docs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "build" / "docs_results.md"
COMMANDS = ROOT / "build" / "docs_commands.md"
sys.path.insert(0, str(ROOT))
# What a page runs by `!python` is this Python, not the machine's.
os.environ["PATH"] = os.pathsep.join(
    (str(Path(sys.executable).parent), os.environ["PATH"])
)

import vitpool

project = "vitpool"
copyright = "the vitpool authors"
version = release = vitpool.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"vitpool {version}"
smartquotes = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]

# Every notebook runs from a fresh kernel at each build; one that raises stops it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_show_tb = True
nb_merge_streams = True

html_static_path = ["static"]
html_css_files = ["vitpool.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True


# 'name: what it is', 'name, other: what they are'
ROW = re.compile(r"[a-z_]+(, [a-z_]+)*: ")


def plain_paragraphs(app, what, name, obj, options, lines):
    """Docstrings here are plain text; this makes reStructuredText of it.

    A paragraph of 'name: what it is' rows, or with indented rows, becomes a line block;
    an indented one a literal block; in all, * _ and | stay characters.
    """
    paragraphs = "\n".join(lines).split("\n\n")
    out = []
    for rows in (p.splitlines() for p in paragraphs if p.strip()):
        if all(row.startswith("    ") for row in rows) or rows[0].startswith(">>>"):
            out += ["::", "", *(f"    {row}" for row in rows), ""]
        elif any(ROW.match(row) or row.startswith("    ") for row in rows):
            out += [*(f"| {escape(row)}" for row in rows), ""]
        else:
            out += [*(escape(row) for row in rows), ""]
    lines[:] = out


def escape(text):
    """Text that reStructuredText shows as it is; ``code`` and `code` become code."""
    parts = text.replace("``", "`").split("`")
    if len(parts) % 2 == 0:  # an odd backtick
        parts = [text.replace("`", "'")]
    for i, part in enumerate(parts):
        if i % 2 == 0:
            for mark in "\\*_|":
                part = part.replace(mark, "\\" + mark)
            parts[i] = part
        else:
            parts[i] = f"``{part}``"
    return "".join(parts)


def write_results(app):
    """What benchmarks.md includes: the results' charts and tables, as they are."""
    from benchmarks import charts, kinds, precision_report, report

    RESULTS.parent.mkdir(exist_ok=True)
    runs = kinds.load(kinds.RESULTS)
    text = ["![By kind of CPU](../benchmarks/results/by_cpu.png)"] if runs else []
    drawn = [("", data) for data in runs]
    others = kinds.OTHER_CLASSES
    drawn += [(others, data) for data in kinds.load(kinds.RESULTS, others)]
    for before, data in drawn:
        name = f"docs_{before}{data['target']}.png"
        charts.chart(data, RESULTS.with_name(name), narrow=True)
        heading, _, rest = report.markdown(data).strip().partition("\n")
        text.append(f"{heading}\n\n![Engines compared](../build/{name})\n{rest}")
    low = precision_report.load(kinds.RESULTS).values()
    text += [precision_report.markdown(data) for data in low]
    if not text:
        text = ["No results are in this tree: `make bench` makes them."]
    text = [re.sub(r"^#", "##", part, flags=re.M) for part in text]
    RESULTS.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def write_commands(app):
    """What cli.md includes: the --help of each command, as a terminal shows it."""
    from vitpool.cli.command import build_parser

    os.environ["COLUMNS"] = "80"
    parser = build_parser()
    commands = next(a for a in parser._actions if a.dest == "command").choices
    text = [f"```text\n{parser.format_help()}```"]
    for name, command in commands.items():
        text.append(f"## vitpool {name}\n\n```text\n{command.format_help()}```")
    COMMANDS.write_text("\n\n".join(text) + "\n", encoding="utf-8")


def mend_source_pages(app, page, template, context, doctree):
    """viewcode's links back, where a module's names are documented under two modules.

    It keeps one of them for all names of a file, so the other's links lead nowhere. And
    it lists modules that have no source, as the C core.
    """
    if not page.startswith("_modules/"):
        return
    known = app.env.get_domain("py").objects

    def mended(link):
        name = link[2]
        if name not in known:
            last = name.removeprefix("vitpool.")
            name = next((k for k in known if k.endswith("." + last)), name)
        return link[1] + name + '"'

    body = re.sub(r'(href="[^"#]*reference\.html#)([^"]+)"', mended, context["body"])
    context["body"] = re.sub(r'<li><a href="vitpool/_core\.html">.*?</li>\n?', "", body)


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain_paragraphs)
    app.connect("builder-inited", write_results)
    app.connect("builder-inited", write_commands)
    app.connect("html-page-context", mend_source_pages)
