# SPDX-License-Identifier: Apache-2.0
"""Attention as pictures, with NumPy and Pillow alone: overlays, rows, sheets."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..transforms import Transform, create_transform, image_name, resolve_data_config
from .numbers import Heat, attention_maps, layer_key

# Dark violet over red to pale yellow, evenly spaced: it grows in lightness, so that it
# also reads in grey and without colour vision.
_COLOURS = np.array(
    [(0, 0, 10), (66, 10, 104), (147, 38, 103), (221, 81, 58), (252, 165, 10),
     (252, 255, 164)], np.float32,
)  # fmt: skip
_CELL = 224  # least side of a drawn picture, in pixels
_GAP = 8


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


def transform_for(model: Any, transform: Transform | None) -> Transform:
    """The transform that was given, else the model's own."""
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


def layer_title(model: Any, layer: int | str) -> str:
    """What to write over a picture of this layer's attention."""
    key = layer_key(model, layer)
    if key == "attn_pool":
        return f"{model.global_pool} pool"
    return key if isinstance(key, str) else f"block {key}"


def drawn(
    model: Any, shown: Image.Image, heats: Heat, layer: int | str, head: int | str
) -> list[tuple[str, Image.Image]]:
    """The overlays of one layer's heads (heads, rows, columns), with their captions."""
    # A rollout adds the identity, which lifts every patch: its lowest is drawn as zero.
    lifted = layer_key(model, layer) == "rollout"
    return [
        (
            ", ".join(filter(None, (layer_title(model, layer), title))),
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
        text = caption.encode("ascii", "replace").decode()  # the font has ASCII alone
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
    model = copy.copy(model)  # one state of it for all that follows
    transform = transform_for(model, transform)
    x = transform(picture)[None]
    shown = view(transform, picture)
    heads = attention_maps(model, x, layer)[0]
    caption = os.path.basename(image_name(picture))
    if labels is not None and model.num_classes > 0 and model.global_pool:
        logits = model.forward(x)[0]
        from ..labels import probabilities

        best = int(logits.argmax())
        caption += f": {probabilities(logits)[best]:.1%} for {labels[best]}"
    return _captioned([(caption, shown), *drawn(model, shown, heads, layer, head)])


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
