# SPDX-License-Identifier: Apache-2.0
"""The folder of results: a set of files for each kind of CPU, named by its target, and
what sets them side by side: a chart, and the table in the README.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from . import charts
from .report import markdown, ratio
from .specs import MODELS
from .targets import TARGETS, title

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).resolve().parents[1] / "README.md"
# What --families measures: the models of timm's other classes.
OTHER_CLASSES = "families."
# The table stands between these lines.
BEGIN = "<!-- results: python -m benchmarks --chart -->\n"
END = "<!-- results end -->"


def write(data: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """JSON, Markdown and charts of one run; the paths that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    paths[0].write_text(json.dumps(data, indent=1) + "\n")
    paths[1].write_text(markdown(data))
    drawn = {f"{name}.png": charts.chart, f"{name}_tokens.png": charts.token_chart}
    try:
        paths += [folder / n for n, draw in drawn.items() if draw(data, folder / n)]
    except ImportError:
        print("no chart: matplotlib is not installed")
    return paths


def load(folder: Path, before: str = "") -> list[dict[str, Any]]:
    """The runs that the folder has, one for each kind of CPU, from the least target.

    before: OTHER_CLASSES for those of timm's other classes.
    """
    paths = [folder / f"{before}{target}.json" for target in TARGETS]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def refresh(folder: Path) -> list[Path]:
    """Writes again what follows from the folder's JSON files, and, for the results of
    this tree, the README's table; the paths that were written.
    """
    runs, paths = load(folder), []
    for data in runs:
        paths += write(data, folder, data["target"])
    for data in load(folder, OTHER_CLASSES):
        paths += write(data, folder, OTHER_CLASSES + data["target"])
    try:
        if charts.by_cpu(runs, folder / "by_cpu.png"):
            paths.append(folder / "by_cpu.png")
    except ImportError:
        pass  # write() has said so
    if folder.resolve() == RESULTS.resolve():
        README.write_text(with_table(README.read_text(), table(runs)))
        paths.append(README)
    return paths


def table(runs: list[dict[str, Any]]) -> str:
    """vitpool's time over the fastest peer's for one image: a row for each model, a
    column for each kind of CPU, the numbers of threads in turn; then the machines,
    and the peers that took part there.
    """
    cells = {
        (cell["timm"], data["target"], cell["threads"]): f"{share:.2f}"
        for data in runs
        for cell in data["cells"]
        if (cell["part"], cell["batch"]) == ("models", 1)
        and (share := ratio(cell)) is not None
    }
    threads = sorted({number for _, _, number in cells})
    plural = "" if threads == [1] else "s"
    head = [f"one image, {' / '.join(map(str, threads))} thread{plural}"]
    head += [TARGETS[data["target"]].label for data in runs]
    lines = ["| " + " | ".join(head) + " |", "| ---" + " | ---:" * len(runs) + " |"]
    names = [spec.timm for spec in MODELS.values()]
    for model in (name for name in names if any(name == key[0] for key in cells)):
        row = [model]
        for data in runs:
            keys = [(model, data["target"], number) for number in threads]
            found = [cells.get(key, "–") for key in keys]
            row.append(" / ".join(found) if set(found) != {"–"} else "–")
        lines.append("| " + " | ".join(row) + " |")
    lines.append("")
    for data in runs:
        machine = data["machine"]
        peers = {e: row for e, row in data["engines"].items() if "version" in row}
        peers.pop("vitpool", None)
        free = [e for e, row in peers.items() if "not capped" in row["caps"]]
        lines.append(
            f"- {title(data)}: {machine['cpu']}, {machine['cores']} cores, "
            f"{machine['date']}, beside {', '.join(peers)}"
            + (f", of which nothing holds {', '.join(free)}" if free else "")
            + f" ([all of the run](benchmarks/results/{data['target']}.md))"
        )
    return "\n".join(lines)


def with_table(text: str, new: str) -> str:
    """The README's text with this table in the place of its own."""
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    if not re.search(pattern, text, re.S):
        raise ValueError(f"no place for the table: {BEGIN!r} and {END!r} were expected")
    return re.sub(pattern, lambda _: f"{BEGIN}\n{new}\n\n{END}", text, flags=re.S)
