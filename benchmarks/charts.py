# SPDX-License-Identifier: Apache-2.0
"""Charts of what runs measured; drawing needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .report import PARTS, fastest_peer, milli, ratio
from .specs import MODELS
from .targets import TARGETS, title

# Dark to light, so that they stay apart in grey and for every kind of eye.
COLOURS = {
    "vitpool": "#0b3c5d",
    "onnxruntime": "#c8553d",
    "litert": "#7d5ba6",
    "executorch": "#b79fd0",
    "openvino": "#e09f3e",
    "zentorch": "#4f8a76",
    "torch.compile": "#8fb8a8",
    "torch": "#c9ccd1",
}  # an engine that runs in one cell alone has a column of the table, and no bar


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
            6
            if narrow
            else max(8, columns * (0.8 + 0.16 * (1 + len(engines)) * len(order))),
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
        f"(lower is faster)\n{title(data)}: {machine['cpu']}, {machine['cores']} "
        f"cores, {machine['date']}",
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


# Of the kinds of CPU, by target.
KINDS = [name for name, target in TARGETS.items() if target.float32]
SHADES = dict(zip(KINDS, ("#c9ccd1", "#8fb8a8", "#3f7cac", "#0b3c5d"), strict=True))


def by_cpu(runs: list[dict[str, Any]], path: Path) -> bool:
    """vitpool's time over the fastest peer's for one image, a bar for each kind of CPU;
    a panel for each number of threads, one below the other. False: nothing to draw.
    """
    cells = {
        (cell["threads"], cell["model"], data["target"]): cell
        for data in runs
        for cell in data["cells"]
        if (cell["part"], cell["batch"]) == ("models", 1) and ratio(cell)
    }
    if not cells:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    threads = sorted({number for number, _, _ in cells})
    rows = {
        number: [m for m in MODELS if any(key[:2] == (number, m) for key in cells)]
        for number in threads
    }
    heights = [len(rows[number]) * (len(runs) + 0.6) for number in threads]
    figure, grid = plt.subplots(
        *(len(threads), 1),
        figsize=(5, 1.1 + 0.35 * len(threads) + 0.17 * sum(heights)),
        squeeze=False,
        sharex=True,
        layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )
    top = max(1.1, *(1.02 * (ratio(cell) or 0) for cell in cells.values()))
    for axes, number in zip(grid[:, 0], threads, strict=True):
        for k, data in enumerate(runs):
            shift, first = (k - (len(runs) - 1) / 2) / (len(runs) + 0.6), True
            for n, model in enumerate(rows[number]):
                cell = cells.get((number, model, data["target"]))
                if cell is None:
                    continue
                value = ratio(cell) or 0.0
                axes.barh(
                    *(n + shift, value, 0.92 / (len(runs) + 0.6)),
                    color=SHADES[data["target"]],
                    edgecolor="#333333",
                    linewidth=0.4,
                    label=title(data) if first else None,
                )
                first = False
                label = {"va": "center_baseline", "fontsize": 9}
                dark = data["target"] in ("avx512", "amx")
                axes.text(
                    *(0.02, n + shift, f"{value:.2f}"),
                    color="white" if dark else "black",
                    fontweight="bold",
                    **label,
                )
                peer = f"{fastest_peer(cell)[0]} {milli(fastest_peer(cell)[1])} ms"
                white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
                axes.text(
                    *(value + 0.01, n + shift, peer),
                    color="#444444",
                    bbox=white,
                    **label,
                )
        axes.axvline(1.0, color="#888888", linewidth=0.8, zorder=0)
        axes.set_yticks(range(len(rows[number])), rows[number])
        axes.set_xlim(0, top + 0.3)
        axes.set_ylim(len(rows[number]) - 0.45, -0.55)
        axes.set_title(f"{number} thread{'s' * (number > 1)}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1][0].set_xlabel("vitpool's time / the fastest peer's, which is named")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=1, loc="outside lower center", fontsize=9)
    figure.suptitle(
        "One image, float32, by kind of CPU: below 1, vitpool is faster", fontsize=10
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


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
    markers = dict(zip(COLOURS, "osD^v<>p", strict=True))
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
