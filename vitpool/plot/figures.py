# SPDX-License-Identifier: Apache-2.0
"""Attention as matplotlib Figures (extra `viz`), drawn without a display."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..transforms import Transform
from .numbers import (
    attention_maps,
    block_number,
    patches,
    pool_weights,
    pools_of,
    query,
)
from .pictures import drawn, layer_title, overlay, transform_for, view

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure(rows: int, columns: int) -> tuple[Figure, Any]:
    """A Figure with a grid of bare axes, made without pyplot, so without a window."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib: pip install 'vitpool[viz]'; attention_row and "
            "overlay do without"
        ) from error
    if "IPython" in sys.modules:  # a notebook learns here how to show a Figure
        import matplotlib.pyplot  # noqa: F401
    figure = Figure(figsize=(2.4 * columns, 2.65 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _draw(axis: Any, image: Image.Image, title: str) -> None:
    axis.imshow(np.asarray(image))
    axis.set_title(title, fontsize=9)


def attention_figure(
    model: Any,
    picture: Any,
    layer: int | str = "auto",
    *,
    head: int | str = "all",
    transform: Transform | None = None,
    columns: int = 5,
) -> Figure:
    """The picture and the attention of one layer: each head, one, or their mean."""
    model = copy.copy(model)  # one state of it for all that follows
    transform = transform_for(model, transform)
    heads = attention_maps(model, transform(picture)[None], layer)[0]
    shown = view(transform, picture)
    cells = [("picture", shown), *drawn(model, shown, heads, layer, head)]
    columns = min(columns, len(cells))
    figure, axes = _figure(-(-len(cells) // columns), columns)
    for axis, (title, image) in zip(axes.flat, cells, strict=False):
        _draw(axis, image, title)
    return figure


def layers_figure(
    model: Any,
    picture: Any,
    *,
    layers: Sequence[int] | None = None,
    transform: Transform | None = None,
    columns: int = 5,
) -> Figure:
    """The attention of several blocks (default all), and of the pool, mean of heads."""
    model = copy.copy(model)  # one state of it for all that follows
    transform = transform_for(model, transform)
    x, shown = transform(picture)[None], view(transform, picture)
    chosen = range(len(model.blocks)) if layers is None else layers
    keys: list[Any] = [block_number(model, layer) for layer in chosen]
    if model.attn_pool is not None:
        keys.append("attn_pool")
    _, maps = model.forward(x, return_attn=keys)
    columns = min(columns, len(keys) + 1)
    figure, axes = _figure(-(-(len(keys) + 1) // columns), columns)
    _draw(axes.flat[0], shown, "picture")
    for axis, key in zip(list(axes.flat)[1:], keys, strict=False):
        heat = patches(model, x, query(model, x, maps[key]))[0].mean(axis=0)
        _draw(axis, overlay(shown, heat), layer_title(model, key))
    return figure


def rollout_figure(
    model: Any, picture: Any, *, transform: Transform | None = None
) -> Figure:
    """The picture and its attention rollout."""
    return attention_figure(model, picture, "rollout", head="mean", transform=transform)


def pools_figure(
    model: Any,
    picture: Any,
    *,
    pools: Sequence[str] | None = None,
    transform: Transform | None = None,
) -> Figure:
    """What each pool looks at, all to one scale; see `pool_weights` for the meaning."""
    model = copy.copy(model)  # one state of it for all that follows
    transform = transform_for(model, transform)
    x, shown = transform(picture)[None], view(transform, picture)
    names = list(pools) if pools is not None else pools_of(model)
    heats = [pool_weights(model, x, name)[0] for name in names]
    top = max(float(heat.max()) for heat in heats)
    figure, axes = _figure(1, len(names) + 1)
    _draw(axes[0, 0], shown, "picture")
    for axis, name, heat in zip(axes[0, 1:], names, heats, strict=True):
        _draw(axis, overlay(shown, heat, vmax=top), f"{name}, at most {heat.max():.1%}")
    return figure
