# SPDX-License-Identifier: Apache-2.0
"""The same as matplotlib Figures (extra `viz`), drawn without a display."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..transforms import Transform
from .colours import colours
from .layout import columns_of, lines_of, scale_labels, text_size, wrap
from .numbers import pools_of
from .rows import Cell, Row, attention_rows, pools_row, token_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = 2.4  # a cell's side
_POINTS = 72


def _figure(rows: Sequence[Row], columns: int) -> Figure:
    """Rows as a Figure, made without pyplot, so without a window."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import TextToPath
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib: pip install matplotlib; attention_grid and "
            "overlay do without"
        ) from error
    if "IPython" in sys.modules:  # a notebook learns here how to show a Figure
        import matplotlib.pyplot  # noqa: F401
    columns = columns_of(rows, columns)
    size = text_size(columns * _INCHES * _POINTS) * 0.8  # DejaVu Sans is wide
    letters = FontProperties(size=size)

    def measure(text: str) -> float:
        found = TextToPath().get_text_width_height_descent(text, letters, False)
        return float(found[0])

    # lines of pictures, and an empty one for a scale
    lines: list[tuple[Row, list[Cell]]] = []
    for row in rows:
        wide = 0.95 * _INCHES * _POINTS  # the rest is between the cells
        cells = [
            Cell("\n".join(wrap(cell.caption, wide, measure)), cell.image)
            for cell in row.cells
        ]
        lines += [(row, line) for line in lines_of(cells, columns)]
        if row.top is not None:
            lines.append((row, []))
    # in inches, without the letters and with them
    bare = [_INCHES if cells else size / 2 / _POINTS for _, cells in lines]
    most = [
        max((c.caption.count("\n") + 1 for c in cells), default=1.5)
        for _, cells in lines
    ]
    high = sum(bare) + sum(most) * size * 1.3 / _POINTS + len(lines) * 8 / _POINTS
    figure = Figure(figsize=(columns * _INCHES, high), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(lines), columns, height_ratios=bare)
    for place, (row, cells) in enumerate(lines):
        for column, cell in enumerate(cells):
            _draw(figure.add_subplot(grid[place, column]), cell, size)
        if not cells and row.top is not None:
            # below the maps, which begin beside the picture
            first = int(1 < len(row.cells) <= columns)
            last = min(len(row.cells), columns)
            axis = figure.add_subplot(grid[place, first:last])
            _draw_scale(
                axis, row.top, (last - first) * _INCHES * _POINTS, measure, size
            )
    return figure


def _draw(axis: Any, cell: Cell, size: float) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set(linewidth=0.5, color="0.75")
    axis.imshow(np.asarray(cell.image), interpolation="nearest")
    axis.set_title(cell.caption, fontsize=size, parse_math=False)


def _draw_scale(
    axis: Any, top: float, width: float, measure: Callable[[str], float], size: float
) -> None:
    """The colours from none to top, with a mark at uniform; width: about the axis'."""
    ramp = colours((np.arange(256) + 0.5) / 256)[None]
    axis.pcolormesh(np.linspace(0, top, 257), [0, 1], ramp)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    for colour, thick in (("white", 3), ("black", 1)):
        axis.axvline(1, -0.3, 1.3, color=colour, linewidth=thick, clip_on=False)
    for text, start in scale_labels(top, width, measure):
        at_end = start > 0 and start + measure(text) >= width - 1e-6
        axis.annotate(
            text, (1.0 if at_end else start / width, 0), (0, -4),
            xycoords="axes fraction", textcoords="offset points", va="top",
            ha="right" if at_end else "left", annotation_clip=False, fontsize=size,
            color="black" if text == "uniform" else "0.4",
        )  # fmt: skip


def attention_figure(
    model: Any,
    picture: Any,
    layer: int | str = "auto",
    *,
    head: int | str = "all",
    transform: Transform | None = None,
    columns: int = 4,
) -> Figure:
    """The picture and the attention of one layer: each head, one, or their mean."""
    return grid_figure(
        model, [picture], layer=layer, head=head, labels=None, transform=transform,
        columns=columns,
    )  # fmt: skip


def layers_figure(
    model: Any,
    picture: Any,
    *,
    layers: Sequence[int] | None = None,
    transform: Transform | None = None,
    columns: int = 4,
) -> Figure:
    """The attention of several blocks (default all), and of the pool, mean of heads."""
    model = copy.copy(model)  # one state of it for all that follows
    chosen: list[int | str] = list(
        range(len(model.blocks)) if layers is None else layers
    )
    if model.attn_pool is not None:
        chosen.append("pool")
    return grid_figure(
        model, [picture], layer=chosen, labels=None, transform=transform,
        columns=columns,
    )  # fmt: skip


def rollout_figure(
    model: Any, picture: Any, *, transform: Transform | None = None
) -> Figure:
    """The picture and its attention rollout."""
    return attention_figure(model, picture, "rollout", head="mean", transform=transform)


def grid_figure(
    models: Any,
    images: Any,
    *,
    layer: int | str | Sequence[int | str] | None = None,
    head: int | str = "mean",
    labels: Any = True,
    transform: Transform | None = None,
    top: float | None = None,
    columns: int = 4,
) -> Figure:
    """What `attention_grid` draws, as a Figure."""
    rows = attention_rows(
        models, images, layer=layer, head=head, labels=labels, transform=transform,
        top=top,
    )  # fmt: skip
    return _figure(list(rows), columns)


def pools_figure(
    model: Any,
    picture: Any,
    *,
    pools: Sequence[str] | None = None,
    transform: Transform | None = None,
    columns: int = 4,
) -> Figure:
    """What each pool looks at, all to one scale; see `pool_weights` for the meaning."""
    model = copy.copy(model)  # one state of it for all that follows
    names = list(pools) if pools is not None else pools_of(model)
    return _figure([pools_row(model, picture, names, transform)], columns)


def pca_figure(
    model: Any, images: Any, *, transform: Transform | None = None, columns: int = 4
) -> Figure:
    """What `token_pca` draws, as a Figure."""
    return _figure(token_rows(model, images, transform), columns)
