# SPDX-License-Identifier: Apache-2.0
"""What a run measured, as text, Markdown, JSON and a chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Dark to light, so that they stay apart in grey and for every kind of eye.
COLOURS = {
    "vitpool": "#0b3c5d",
    "onnxruntime": "#c8553d",
    "openvino": "#e09f3e",
    "torch.compile": "#8fb8a8",
    "torch": "#c9ccd1",
}  # an engine that runs in one cell alone has a column of the table, and no bar
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


def markdown(data: dict[str, Any]) -> str:
    machine, peak = data["machine"], data["peak"]
    rates = ", ".join(f"{n}: {rate:.0f}" for n, rate in sorted(peak["gflops"].items()))
    tiles = "- AMX's tiles, six bfloat16 products for one of float32, in GFLOP/s: " + (
        ", ".join(f"{n}: {rate:.0f}" for n, rate in sorted(peak["tiles"].items()))
        + "; vitpool uses them, which is how it passes the peak of multiply-adds. The "
        "others are asked for float32, for which they do not use them by default"
    )
    versions = [
        f"{engine} {row['version']}" for engine, row in data["engines"].items() if row
    ]
    # The load counts what ran before: on a quiet machine it is near nought.
    busy = ["- **other work ran at the start: not for quoting**"]
    busy = busy if machine["load"] > 0.5 * machine["cores"] else []
    out = [
        "# vitpool beside its peers",
        "",
        f"`python -m benchmarks {data['arguments']}`".replace(" `", "`"),
        "",
        f"- vitpool at {machine.get('commit') or 'no commit'}",
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python "
        f"{machine['python']}, {machine['date']}; {data['minutes']:.1f} minutes, load "
        f"{machine['load']:.1f} at the start",
        *busy,
        f"- peak in GFLOP/s by threads: {rates} ({peak['by']}, best of the run)",
        *([tiles] if peak["tiles"] else []),
        *([f"- {', '.join(versions)}"] if versions else []),
        "- float32 everywhere; milliseconds for the whole batch, minimum / median; "
        "'of peak' counts every product that timm computes; the largest difference of "
        "any engine's output from torch's is relative to torch's largest value",
        "",
    ]
    for part, title in PARTS.items():
        cells = [cell for cell in data["cells"] if cell["part"] == part]
        if cells:
            engines = list(data["engines"])
            out += [f"## {title}", "", table(cells, engines, peak["gflops"]), ""]
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


def chart(data: dict[str, Any], path: Path, narrow: bool = False) -> bool:
    """Time over the fastest peer's, a bar for each engine; False: nothing to draw.

    narrow: one panel below the other, to be read on a phone.
    """
    cells = [cell for cell in data["cells"] if cell["part"] == "models" and ratio(cell)]
    if not cells:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    batches = sorted({cell["batch"] for cell in cells})
    threads = sorted({cell["threads"] for cell in cells})
    panels = [(batch, number) for batch in batches for number in threads]
    columns = 1 if narrow else len(threads)
    rows = len(panels) // columns
    engines = [e for e in COLOURS if e in data["engines"]]
    order = list(dict.fromkeys(cell["model"] for cell in cells))
    figure, grid = plt.subplots(
        *(rows, columns),
        figsize=(
            6 if narrow else max(8, columns * (0.8 + 0.95 * len(order))),
            1.2 + 2.4 * rows,
        ),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    ratios = [
        row["min"] / fastest_peer(cell)[1]
        for cell in cells
        for row in cell["engines"].values()
    ]
    top = min(2.6, max(ratios) * 1.02)
    for axes, (batch, number) in zip(grid.flat, panels, strict=True):
        panel = {
            cell["model"]: cell
            for cell in cells
            if (cell["batch"], cell["threads"]) == (batch, number)
        }
        _panel(axes, panel, order, engines, top, data["peak"]["gflops"])
        axes.set_title(f"batch {batch}, {number} thread{'s' * (number > 1)}")
    for axes in grid[:, 0]:
        axes.set_ylabel("time / fastest peer's")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, ncols=(len(labels) + 1) // 2, loc="outside lower center"
    )
    machine, newline = data["machine"], "\n" if narrow else " "
    figure.suptitle(
        f"Time of one forward, float32,{newline}over that of the fastest peer "
        f"(lower is faster)\n{machine['cpu']}, {machine['cores']} cores, "
        f"{machine['date']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def _panel(
    axes: Any,
    panel: dict[str, Any],
    order: list[str],
    engines: list[str],
    top: float,
    peak: dict[str, float],
) -> None:
    width = 0.84 / len(engines)
    for k, engine in enumerate(engines):
        places, heights = [], []
        for n, key in enumerate(order):
            row = panel.get(key, {"engines": {}})["engines"].get(engine)
            if row and row["right"]:
                places.append(n + (k - (len(engines) - 1) / 2) * width)
                heights.append(row["min"] / fastest_peer(panel[key])[1])
        axes.bar(
            *(places, [min(h, top) for h in heights], 0.92 * width),
            color=COLOURS[engine],
            edgecolor="#333333",
            linewidth=0.4,
            label=engine,
        )
        for x, h in zip(places, heights, strict=True):
            if engine == "vitpool" or h > top:
                ours = engine == "vitpool"
                axes.text(
                    *(x, 0.06 if ours else top - 0.06, f"{h:.2f}"),
                    ha="center",
                    va="bottom" if ours else "top",
                    rotation=90,
                    fontsize=8,
                    fontweight="bold" if ours else "normal",
                    color="white" if ours else "black",
                )
    for n, key in enumerate(order):
        if key in panel:
            cell = panel[key]
            limit = cell["gflop"] / peak[str(cell["threads"])]
            limit /= fastest_peer(cell)[1]
            axes.hlines(
                *(limit, n - 0.45, n + 0.45),
                colors="#111111",
                linestyles="dashed",
                linewidth=1,
                label="limit (FMA peak)" if n == 0 else None,
            )
        else:
            axes.text(n, 0.05, "not run", ha="center", fontsize=7, color="#666666")
    axes.axhline(1.0, color="#888888", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(order)), order)
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.set_ylim(0, top + 0.05)
    axes.spines[["top", "right"]].set_visible(False)


def token_chart(data: dict[str, Any], path: Path) -> bool:
    """Time by number of tokens, on logarithmic axes; False: nothing to draw."""
    parts = [
        (part, cells)
        for part in ("attention", "tokens")
        if len(cells := [cell for cell in data["cells"] if cell["part"] == part]) > 1
    ]
    if not parts:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, grid = plt.subplots(
        *(1, len(parts)),
        figsize=(max(6, 5 * len(parts)), 4),
        squeeze=False,
        layout="constrained",
    )
    markers = dict(zip(COLOURS, "osD^v", strict=True))
    for axes, (part, cells) in zip(grid[0], parts, strict=True):
        for engine, colour in COLOURS.items():
            points = [
                (cell["tokens"], 1e3 * cell["engines"][engine]["min"])
                for cell in cells
                if engine in cell["engines"]
            ]
            if points:
                axes.loglog(
                    *zip(*points, strict=True),
                    color=colour,
                    marker=markers[engine],
                    markeredgecolor="#333333",
                    label=engine,
                )
        tokens = [cell["tokens"] for cell in cells]
        axes.set_xticks(tokens, [f"{n:,}" for n in tokens])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="tokens", ylabel="ms, one picture")
        axes.set_title(f"{PARTS[part]}, {cells[0]['threads']} threads", fontsize=9)
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def write(data: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """JSON, Markdown and chart in the folder; the paths that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    paths[0].write_text(json.dumps(data, indent=1) + "\n")
    paths[1].write_text(markdown(data))
    charts = {f"{name}.png": chart, f"{name}_tokens.png": token_chart}
    try:
        paths += [folder / n for n, draw in charts.items() if draw(data, folder / n)]
    except ImportError:
        print("no chart: matplotlib is not installed")
    return paths
