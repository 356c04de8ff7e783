# SPDX-License-Identifier: Apache-2.0
"""The difference by depth as a matplotlib Figure (extra `viz`), without a display."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from . import words
from .chart import allowed, along, pieces, scale_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .result import Comparison

_WORD, _NUMBER = 0.2, 0.25  # inches that a name and an index take


def figure(found: Comparison) -> Figure:
    """The largest difference of each stage, of its scale, on a log scale.

    Dashed: what is allowed. Where it was computed, each model's own float32 error is an
    area: a difference within it is nobody's fault.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plot() needs matplotlib: pip install matplotlib; table() does without"
        ) from error
    if "IPython" in sys.modules:  # a notebook learns here how to show a Figure
        import matplotlib.pyplot  # noqa: F401
    rows = found.stages
    depth = along(rows, max(6.0, 0.12 * len(rows)), _WORD, _NUMBER)
    scale = scale_of(found)
    drawn = Figure(figsize=(depth.width + 1.2, 4.5), layout="constrained")
    FigureCanvasAgg(drawn)
    axis = drawn.add_subplot()

    def each_piece(values: list[Any], draw: Any) -> None:
        for piece in pieces(values):
            at = [depth.places[i] for i in piece]
            draw(at, [scale.power(values[i]) for i in piece])

    for name, colour in (("reference", "tab:blue"), ("candidate", "tab:orange")):
        label = f"the {name}'s own float32 error"

        def area(at: Any, to: Any, colour: str = colour, label: str = label) -> None:
            axis.fill_between(
                at, scale.bottom, to, color=colour, alpha=0.25, linewidth=0, label=label
            )

        each_piece([getattr(row, f"{name}_error") for row in rows], area)
    each_piece(
        [allowed(row, found) for row in rows],
        lambda at, to: axis.plot(at, to, "--", color="tab:red", label="allowed"),
    )
    each_piece(
        [row.relative for row in rows],
        lambda at, to: axis.plot(at, to, color="0.5", linewidth=1),
    )
    for ok, colour, label in ((True, "0.3", "alike"), (False, "tab:red", "parts")):
        points = [
            (at, scale.power(row.relative))
            for at, row in zip(depth.places, rows, strict=True)
            if row.ok is ok
        ]
        if points:
            axis.plot(*zip(*points, strict=True), "o", ms=4, color=colour, label=label)
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))  # a line in pieces is one entry
    drawn.legend(
        once.values(), once.keys(), loc="outside lower center", ncols=3,
        fontsize="small", frameon=False,
    )  # fmt: skip
    axis.set_title(words.verdict(found), fontsize="medium", parse_math=False)
    axis.set_ylabel("largest difference, of the stage's scale")
    axis.set_xlabel("stage, or the index of a block")
    axis.set_xlim(0, depth.width)
    axis.set_ylim(scale.bottom, scale.top + 0.1)
    axis.set_yticks(*zip(*scale.ticks(), strict=True))
    axis.set_xticks(*_pair(depth.numbers), fontsize="small")
    axis.set_xticks([at for at, _ in depth.words], minor=True)
    axis.set_xticklabels(
        [name for _, name in depth.words], minor=True, rotation=90, fontsize="small"
    )
    axis.grid(axis="y", alpha=0.3)
    return drawn


def _pair(ticks: list[tuple[float, str]]) -> tuple[list[float], list[str]]:
    return [at for at, _ in ticks], [label for _, label in ticks]
