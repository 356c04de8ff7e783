# SPDX-License-Identifier: Apache-2.0
"""What a run measured, as text and Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from .engines import NOT_FLOAT32
from .targets import TARGETS, title

PARTS = {
    "models": "Models",
    "tokens": "ViT-S/16 by image size",
    "attention": "One attention layer (width 384, 6 heads)",
}


def milli(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.{1 if value >= 10 else 2}f}"


def fastest_peer(cell: dict[str, Any]) -> tuple[str, float]:
    """The right peer with the smallest minimum, and that; ('', 0.0) without any."""
    peers = [
        (row["min"], engine)
        for engine, row in cell["engines"].items()
        if engine != "vitpool" and row["right"]
    ]
    return (min(peers)[1], min(peers)[0]) if peers else ("", 0.0)


def ratio(cell: dict[str, Any]) -> float | None:
    """vitpool's time over the fastest peer's: below 1, vitpool is faster."""
    peer = fastest_peer(cell)
    if not peer[0] or "vitpool" not in cell["engines"]:
        return None
    return cell["engines"]["vitpool"]["min"] / peer[1]


def timm_columns(times: list[float], batch: int) -> dict[str, float]:
    """What timm's benchmark.py says of these calls, by its names: means."""
    mean = statistics.mean(times)
    return {
        "infer_samples_per_sec": round(batch / mean, 2),
        "infer_step_time": round(1e3 * mean, 3),
    }


def cell_text(cell: dict[str, Any], peak: float) -> str:
    head = f"{cell['model']} batch {cell['batch']}, {cell['threads']} thread(s)"
    lines = [f"{head}: {cell['gflop']:.1f} GFLOP, {cell['tokens']} tokens"]
    for engine, row in cell["engines"].items():
        share = cell["gflop"] / row["min"] / peak
        lines.append(
            f"  {engine:14} {milli(row['min']):>7} / {milli(row['median']):>7} ms  "
            f"{share:6.1%} of peak  differs {row['difference']:.1e}"
            f"{'' if row['right'] else '  WRONG'}  ({row['setup']})"
        )
    if ratio(cell) is not None:
        lines.append(
            f"  {ratio(cell):.2f} of the fastest peer, {fastest_peer(cell)[0]}"
        )
    return "\n".join(lines)


def cold_text(cold: dict[str, Any]) -> str:
    lines = [f"cold start, ViT-B, {cold['threads']} thread(s)"]
    for engine, row in cold["engines"].items():
        lines.append(
            f"  {engine:14} {row['min']:6.2f} / {row['median']:6.2f} s  "
            f"peak {row['peak'] / 1e6:5.0f} MB, {row['before'] / 1e6:.0f} before"
        )
    return "\n".join(lines)


def overhead_text(data: dict[str, Any]) -> str:
    call, callers, rates = (
        data[key] for key in ("per_call", "callers", "images_per_second")
    )
    lines = []
    for n in (1, 2):
        lines.append(
            f"a call of a one-layer model, {n} thread(s): "
            f"{call[f'min_us_{n}']:.1f} / {call[f'median_us_{n}']:.1f} us"
        )
        one, two = callers[f"one_caller_{n}"], callers[f"two_callers_{n}"]
        lines.append(
            f"ViT-Ti, {n} thread(s): one caller {one:.1f} images/s, "
            f"two callers {two:.1f} ({two / one:.2f} times)"
        )
    lines.append(
        f"ViT-B, 2 threads: {rates['batch_1']:.2f} images/s at batch 1, "
        f"{rates['batch_32']:.2f} at 32 (ratio {rates['ratio']:.2f})"
    )
    return "\n".join(lines)


def table(
    cells: list[dict[str, Any]], engines: list[str], peak: dict[str, float]
) -> str:
    head = ["model", "tokens", "batch", "threads", *engines]
    head += ["vitpool / fastest", "vitpool of peak", "largest difference"]
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|---|" + "---:|" * (len(head) - 1))
    for cell in cells:
        row = [cell["model"], str(cell["tokens"])]
        row += [str(cell["batch"]), str(cell["threads"])]
        for engine in engines:
            got = cell["engines"].get(engine)
            text = f"{milli(got['min'])} / {milli(got['median'])}" if got else "–"
            row.append(text if not got or got["right"] else f"{text} (wrong)")
        share = ratio(cell)
        row.append("–" if share is None else f"**{share:.2f}** {fastest_peer(cell)[0]}")
        ours = cell["engines"].get("vitpool")
        rate = peak[str(cell["threads"])]
        row.append(f"{cell['gflop'] / ours['min'] / rate:.0%}" if ours else "–")
        found = [r["relative_difference"] for r in cell["engines"].values()]
        row.append(f"{max(found, default=0):.0e}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def timm_table(cells: list[dict[str, Any]], engines: list[str]) -> str:
    """A row for each cell; for each engine infer_samples_per_sec / infer_step_time."""
    head = ["model", "infer_img_size", "infer_batch_size", "threads", *engines]
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|---|" + "---:|" * (len(head) - 1))
    for cell in cells:
        row = [cell["timm"], str(cell["image"])]
        row += [str(cell["batch"]), str(cell["threads"])]
        for engine in engines:
            got = cell["engines"].get(engine)
            names = ("infer_samples_per_sec", "infer_step_time")
            row.append(" / ".join(f"{got[n]}" for n in names) if got else "–")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def how_engines_ran(data: dict[str, Any]) -> list[str]:
    """What held each engine to the target, if not all of the CPU, and their set-ups."""
    out: list[str] = []
    if data["target"] != data["best"]:
        out += [f"## How each engine was held to {TARGETS[data['target']].label}", ""]
        out += [f"- {e}: {row['caps']}" for e, row in data["engines"].items()] + [""]
    setups = sorted(
        {
            (engine, row["setup"])
            for cell in data["cells"]
            for engine, row in cell["engines"].items()
        }
    )
    if setups:
        out += ["## How each engine was set up", ""]
        out += [f"- {engine}: {setup}" for engine, setup in setups] + [""]
    return out


def markdown(data: dict[str, Any]) -> str:
    machine, peak = data["machine"], data["peak"]
    rates = ", ".join(f"{n}: {rate:.0f}" for n, rate in sorted(peak["gflops"].items()))
    tiles = "- AMX's tiles, six bfloat16 products for one of float32, in GFLOP/s: " + (
        ", ".join(f"{n}: {rate:.0f}" for n, rate in sorted(peak["tiles"].items()))
        + "; vitpool uses them, which is how it passes the peak of multiply-adds. The "
        "others are asked for float32, for which they do not use them by default"
    )
    by = peak["by"] + (f" of {peak['bits']} bits" if peak["bits"] else "")
    versions = [
        f"{engine} {row['version']}"
        for engine, row in data["engines"].items()
        if "version" in row
    ]
    # The load counts what ran before: on a quiet machine it is near nought.
    busy = ["- **other work ran at the start: not for quoting**"]
    busy = busy if machine["load"] > 0.5 * machine["cores"] else []
    judges = {cell["reference"] for cell in data["cells"] if cell.get("reference")}
    judge = " or ".join(sorted(judges)) or "torch"
    out = [
        f"# vitpool beside its peers: {title(data)}",
        "",
        f"`python -m benchmarks {data['arguments']}`".replace(" `", "`"),
        "",
        f"- vitpool at {machine.get('commit') or 'no commit'}",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python "
        f"{machine['python']}, {machine['date']}; {data['minutes']:.1f} minutes, load "
        f"{machine['load']:.1f} at the start",
        *busy,
        f"- peak in GFLOP/s by threads: {rates} ({by}, best of the run)",
        *([tiles] if peak["tiles"] else []),
        *([f"- {', '.join(versions)}"] if versions else []),
        "- float32 everywhere; milliseconds for the whole batch, minimum / median; "
        "'of peak' counts every product that timm computes; the largest difference of "
        f"any engine's output from {judge}'s is relative to {judge}'s largest value",
        "",
    ]
    for part, heading in PARTS.items():
        cells = [cell for cell in data["cells"] if cell["part"] == part]
        if cells:
            engines = list(data["engines"])
            out += [f"## {heading}", "", table(cells, engines, peak["gflops"]), ""]
        if cells and part == "models":
            far = " and ".join(f"{e} ({d:.0e})" for e, d in NOT_FLOAT32.items())
            out += [
                f"Not timed as float32: {far}, whose outputs differ from timm's by "
                "more than 1e-4 of the largest value at the highest precision they "
                "have.",
                "",
            ]
    models = [cell for cell in data["cells"] if cell["part"] == "models"]
    if models:
        out += [
            "## As timm's benchmark.py tells it",
            "",
            "For each engine infer_samples_per_sec / infer_step_time (ms), which are "
            "means over all calls, where the tables above have the minimum.",
            "",
            timm_table(models, list(data["engines"])),
            "",
        ]
    out += how_engines_ran(data)
    if "cold" in data:
        cold = data["cold"]
        out += [
            f"## Cold start, ViT-B, {cold['threads']} threads",
            "",
            "A new process, beyond `import numpy`, to the first logits. The weights' "
            f"file has {cold['weights'] / 1e6:.0f} MB.",
            "",
            "| engine | seconds, minimum / median | peak memory, MB | before, MB |",
            "|---|---:|---:|---:|",
        ]
        for engine, row in cold["engines"].items():
            out.append(
                f"| {engine} | {row['min']:.2f} / {row['median']:.2f} | "
                f"{row['peak'] / 1e6:.0f} | {row['before'] / 1e6:.0f} |"
            )
        out.append("")
    if "overhead" in data:
        lines = overhead_text(data["overhead"]).splitlines()
        out += ["## Calls", "", *(f"- {line}" for line in lines), ""]
    if data["skipped"]:
        out += ["## Left out", "", *(f"- {what}" for what in data["skipped"]), ""]
    return "\n".join(out)
