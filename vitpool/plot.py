# SPDX-License-Identifier: Apache-2.0
"""What a model looks at: attention of blocks and pools, as numbers and as pictures.

The numbers and the plain pictures (`attention_maps`, `pool_weights`, `rollout`,
`overlay`) need NumPy and Pillow alone. The functions named `*_figure` return matplotlib
Figures (extra `viz`), drawn without a display.

A picture here is whatever `create_transform` takes; where a transform is asked for,
None stands for the model's own. A heat map is a number for each patch: (rows, columns).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .transforms import (
    Transform,
    create_transform,
    image_name,
    resolve_data_config,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Heat = NDArray[np.float32]

# Dark violet over red to pale yellow, evenly spaced: it grows in lightness, so that it
# also reads in grey and without colour vision.
_COLOURS = np.array(
    [(0, 0, 10), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10),
     (252, 255, 164)], np.float32,
)  # fmt: skip
_CELL = 224  # least side of a drawn picture, in pixels
_GAP = 8


# ----------------------------------------------------------------------------- numbers


def _grid(model: Any, x: NDArray[Any]) -> tuple[int, int]:
    """Patches down and across; with padding the last ones hang over."""
    height, width = model.patch_embed.patch_size
    return -(-x.shape[-2] // height), -(-x.shape[-1] // width)


def _query(model: Any, x: NDArray[Any], attention: NDArray[Any]) -> NDArray[Any]:
    """(..., Nq, Nk) to (..., Nk): the class token's row, else the mean over queries."""
    rows, columns = _grid(model, x)
    prefix = attention.shape[-1] - rows * columns  # none, where a pool leaves it out
    if attention.shape[-2] == 1 or (model.has_class_token and prefix > 0):
        first: NDArray[Any] = attention[..., 0, :]
        return first
    mean: NDArray[Any] = attention.mean(axis=-2)
    return mean


def _patches(model: Any, x: NDArray[Any], weights: NDArray[Any]) -> Heat:
    """(..., Nk) to (..., rows, columns): the prefix tokens' share is left out."""
    rows, columns = _grid(model, x)
    prefix = weights.shape[-1] - rows * columns
    return np.ascontiguousarray(
        weights[..., prefix:].reshape(*weights.shape[:-1], rows, columns), np.float32
    )


def _block(model: Any, layer: int) -> int:
    depth = len(model.blocks)
    if not -depth <= layer < depth:
        raise ValueError(f"layer: {layer}, allowed is {-depth} to {depth - 1}")
    return layer % depth


def _layer(model: Any, layer: int | str) -> int | str:
    """'auto', 'pool', 'rollout', a number or a number as text, to its meaning."""
    if isinstance(layer, str):
        if layer == "auto":
            return len(model.blocks) - 1 if model.attn_pool is None else "attn_pool"
        if layer in ("pool", "attn_pool"):
            if model.attn_pool is None:
                raise ValueError(
                    f"layer: the model pools by {model.global_pool!r}, which has no "
                    "attention; give a block's number"
                )
            return "attn_pool"
        if layer == "rollout":
            return layer
        try:
            layer = int(layer)
        except ValueError:
            raise ValueError(
                f"layer: {layer!r}, allowed are 'pool', 'rollout' and a block's number"
            ) from None
    return _block(model, layer)


def attention_maps(
    model: Any, x: NDArray[np.float32], layer: int | str = "auto"
) -> Heat:
    """Attention paid to each patch: (B, heads, rows, columns).

    x: model input (B, C, H, W). layer: 'pool' (map: what the latent attends to; prr), a
    block's number (-1 is the last), 'rollout', or 'auto': the pool, else the last
    block. Of a block, and of prr, it is the class token's attention, or the mean over
    all tokens where there is none. The share that goes to prefix tokens is left out, so
    that a map need not sum to 1.
    """
    key = _layer(model, layer)
    if key == "rollout":
        return rollout(model, x)[:, None]
    _, maps = model.forward(x, return_attn=[key])
    return _patches(model, x, _query(model, x, maps[key]))


def rollout(model: Any, x: NDArray[np.float32]) -> Heat:
    """Attention rollout (Abnar and Zuidema, 2020): (B, rows, columns).

    The product over the blocks of (mean over heads + identity) / 2, read at the class
    token; of an attention pool, at its own attention; else the mean over tokens.
    """
    keys: list[Any] = list(range(len(model.blocks)))
    if model.attn_pool is not None:
        keys.append("attn_pool")
    _, maps = model.forward(x, return_attn=keys)
    tokens = maps[0].shape[-1]
    flow = np.broadcast_to(np.eye(tokens), (x.shape[0], tokens, tokens))
    for block in range(len(model.blocks)):
        step = (maps[block].mean(axis=1, dtype=np.float64) + np.eye(tokens)) / 2
        flow = step @ flow
    if model.attn_pool is None:
        return _patches(model, x, _query(model, x, flow))
    pool = _query(model, x, maps["attn_pool"].mean(axis=1, dtype=np.float64))
    left_out = tokens - pool.shape[-1]
    return _patches(model, x, np.einsum("bq,bqk->bk", pool, flow[:, left_out:]))


def pool_weights(model: Any, x: NDArray[np.float32], pool: str) -> Heat:
    """How much of each patch is in what a pool returns: (B, rows, columns), sum 1.

    token: the class token's attention in the last block. avg: the same for all. max:
    the share of channels that have their maximum at the patch. avgmax: half and half.
    map, prr: the attention of the model's own pool. Raises ValueError where the model
    has no such pool.
    """
    rows, columns = _grid(model, x)
    if pool == "token":
        if not model.has_class_token:
            raise ValueError("pool: 'token', but the model has no class token")
        heat = attention_maps(model, x, -1).mean(axis=1)
    elif pool in ("map", "prr"):
        if model.attn_pool is None or model.global_pool != pool:
            raise ValueError(f"pool: {pool!r}, but the model has {model.global_pool!r}")
        heat = attention_maps(model, x, "pool").mean(axis=1)
    elif pool in ("avg", "max", "avgmax"):
        heat = np.full((x.shape[0], rows, columns), 1 / (rows * columns), np.float32)
        if pool != "avg":
            features = model.forward_features(x)[:, -rows * columns :]
            best = features.argmax(axis=1)
            for image, row in enumerate(best):
                count = np.bincount(row, minlength=rows * columns) / row.size
                share = count.reshape(rows, columns)
                heat[image] = share if pool == "max" else (heat[image] + share) / 2
    else:
        raise ValueError(
            f"pool: {pool!r}, allowed are token, avg, max, avgmax, map and prr"
        )
    total: Heat = heat / heat.sum(axis=(1, 2), keepdims=True)
    return total


def pools_of(model: Any) -> list[str]:
    """The pools that `pool_weights` can show for a model."""
    own = [model.global_pool] if model.attn_pool is not None else []
    return own + (["token"] if model.has_class_token else []) + ["avg", "max", "avgmax"]


# ---------------------------------------------------------------------------- pictures


def colours(heat: Heat) -> NDArray[np.uint8]:
    """Values 0 to 1, any shape, to RGB: adds an axis of 3."""
    position = np.clip(heat, 0, 1) * (len(_COLOURS) - 1)
    low = np.minimum(position.astype(int), len(_COLOURS) - 2)
    part = (position - low)[..., None]
    return np.rint(_COLOURS[low] * (1 - part) + _COLOURS[low + 1] * part).astype("u1")


def overlay(
    picture: Image.Image,
    heat: Heat,
    *,
    alpha: float = 0.6,
    vmin: float = 0.0,
    vmax: float | None = None,
) -> Image.Image:
    """Lay a heat map over a picture, resized to it.

    vmin, vmax: the values drawn darkest and brightest; default 0 and the highest.
    """
    heat = np.clip(np.nan_to_num(np.asarray(heat, np.float32)) - vmin, 0, None)
    top = float(heat.max()) if vmax is None else vmax - vmin
    if top > 0:
        heat = heat / top
    field = Image.fromarray(heat).resize(picture.size, Image.Resampling.BICUBIC)
    warm = Image.fromarray(colours(np.asarray(field)))
    return Image.blend(picture.convert("RGB"), warm, alpha)


def view(transform: Transform, picture: Any) -> Image.Image:
    """The part of a picture that the model sees, large enough to look at."""
    height, width = transform.size
    times = max(1, round(_CELL / max(height, width)))
    enlarged = Transform(
        (transform.channels, height * times, width * times), transform.interpolation,
        transform.mean, transform.std, transform.crop_pct, transform.crop_mode,
        transform.exif,
    )  # fmt: skip
    image: Image.Image = enlarged.image(picture).convert("RGB")
    return image


def _transform(model: Any, transform: Transform | None) -> Transform:
    return transform or create_transform(**resolve_data_config(model))


def _pick(heads: Heat, head: int | str) -> list[tuple[str, Heat]]:
    """(heads, rows, columns) to what to draw: a title and a heat map each."""
    count = len(heads)
    if head == "mean":
        title = "mean of heads" if count > 1 else ""
        return [(title, heads.mean(axis=0))]
    if head == "all":
        return [(f"head {i}", heat) for i, heat in enumerate(heads)]
    try:
        index = int(head)
    except ValueError:
        index = count
    if not -count <= index < count:
        raise ValueError(
            f"head: {head!r}, allowed are 'mean', 'all' and 0 to {count - 1}"
        )
    return [(f"head {index % count}", heads[index])]


def _layer_title(model: Any, layer: int | str) -> str:
    key = _layer(model, layer)
    if key == "attn_pool":
        return f"{model.global_pool} pool"
    return key if isinstance(key, str) else f"block {key}"


def _drawn(
    model: Any, shown: Image.Image, heats: Heat, layer: int | str, head: int | str
) -> list[tuple[str, Image.Image]]:
    """The overlays of one layer's heads (heads, rows, columns), with their captions."""
    # the identity in a rollout lifts all patches: its lowest is its zero
    lifted = _layer(model, layer) == "rollout"
    return [
        (
            ", ".join(filter(None, (_layer_title(model, layer), title))),
            overlay(shown, heat, vmin=float(heat.min()) if lifted else 0.0),
        )
        for title, heat in _pick(heats, head)
    ]


def _captioned(cells: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures side by side, each under its caption."""
    font = ImageFont.load_default()
    band = 18
    width = sum(cell.width for _, cell in cells) + _GAP * (len(cells) - 1)
    height = max(cell.height for _, cell in cells) + band
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    left = 0
    for caption, cell in cells:
        text = caption.encode("ascii", "replace").decode()  # all that the font has
        while text and draw.textlength(text, font=font) > cell.width:
            text = text[:-1]
        draw.text((left, 2), text, fill="black", font=font)
        canvas.paste(cell, (left, band))
        left += cell.width + _GAP
    return canvas


def attention_row(
    model: Any,
    transform: Transform | None,
    picture: Any,
    *,
    layer: int | str = "auto",
    head: int | str = "mean",
    labels: Any = None,
) -> Image.Image:
    """One picture beside what the model attends to in it, as a picture; no matplotlib.

    layer, head: as `attention_maps`; head is 'mean', a number or 'all'. labels: from
    `labels_for`, to write the most probable class over the picture.
    """
    transform = _transform(model, transform)
    x = transform(picture)[None]
    shown = view(transform, picture)
    heads = attention_maps(model, x, layer)[0]
    caption = os.path.basename(image_name(picture))
    if labels is not None and model.num_classes > 0 and model.global_pool:
        logits = model.forward(x)[0]
        exp = np.exp(logits - logits.max())
        best = int(logits.argmax())
        caption += f": {exp[best] / exp.sum():.1%} for {labels[best]}"
    return _captioned([(caption, shown), *_drawn(model, shown, heads, layer, head)])


def stack_rows(rows: Sequence[Image.Image], across: int | None = None) -> Image.Image:
    """Rows of `attention_row` on one sheet, several beside each other when many."""
    if not rows:
        raise ValueError("rows: none")
    if across is None:
        across = max(1, min(3, round((len(rows) / 2) ** 0.5)))
    wide, high = max(r.width for r in rows), max(r.height for r in rows)
    down = -(-len(rows) // across)
    size = (
        across * wide + (across - 1) * 2 * _GAP + 2 * _GAP,
        down * high + (down - 1) * _GAP + 2 * _GAP,
    )
    sheet = Image.new("RGB", size, "white")
    for index, row in enumerate(rows):
        left = _GAP + (index % across) * (wide + 2 * _GAP)
        sheet.paste(row, (left, _GAP + (index // across) * (high + _GAP)))
    return sheet


# ----------------------------------------------------------------------------- figures


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
    transform = _transform(model, transform)
    heads = attention_maps(model, transform(picture)[None], layer)[0]
    shown = view(transform, picture)
    cells = [("picture", shown), *_drawn(model, shown, heads, layer, head)]
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
    transform = _transform(model, transform)
    x, shown = transform(picture)[None], view(transform, picture)
    chosen = range(len(model.blocks)) if layers is None else layers
    keys: list[Any] = [_block(model, layer) for layer in chosen]
    if model.attn_pool is not None:
        keys.append("attn_pool")
    _, maps = model.forward(x, return_attn=keys)
    columns = min(columns, len(keys) + 1)
    figure, axes = _figure(-(-(len(keys) + 1) // columns), columns)
    _draw(axes.flat[0], shown, "picture")
    for axis, key in zip(list(axes.flat)[1:], keys, strict=False):
        heat = _patches(model, x, _query(model, x, maps[key]))[0].mean(axis=0)
        _draw(axis, overlay(shown, heat), _layer_title(model, key))
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
    transform = _transform(model, transform)
    x, shown = transform(picture)[None], view(transform, picture)
    names = list(pools) if pools is not None else pools_of(model)
    heats = [pool_weights(model, x, name)[0] for name in names]
    top = max(float(heat.max()) for heat in heats)
    figure, axes = _figure(1, len(names) + 1)
    _draw(axes[0, 0], shown, "picture")
    for axis, name, heat in zip(axes[0, 1:], names, heats, strict=True):
        _draw(axis, overlay(shown, heat, vmax=top), f"{name}, at most {heat.max():.1%}")
    return figure
