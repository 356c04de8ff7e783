# SPDX-License-Identifier: Apache-2.0
"""What is drawn, before it is laid out: a row of captioned cells for each picture."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..labels import labels_for, probabilities
from ..text import printable
from ..transforms import (
    ImageError,
    Transform,
    create_transform,
    image_name,
    load_image,
    resolve_data_config,
    sources_of,
)
from .colours import multiples, overlay, scale_top, spread, token_colours
from .numbers import (
    Heat,
    extent_of,
    heats_of,
    layer_key,
    patch_tokens,
    pool_weights,
    principal,
)

_CELL = 224  # the longer side of a drawn picture, in pixels


class Cell(NamedTuple):
    """A picture under its caption, which may have several lines."""

    caption: str
    image: Image.Image


class Row(NamedTuple):
    """What belongs to one picture.

    top: where the scale of its maps ends, in multiples of uniform; None for no maps.
    """

    cells: list[Cell]
    top: float | None


class _Named(NamedTuple):
    """A model, what to call it among others, and what it is asked."""

    title: str
    model: Any
    transform: Transform
    layers: list[int | str]
    labels: Any


def view(transform: Transform, picture: Any) -> Image.Image:
    """The part of a picture that the model sees, at a size to look at.

    The longer side has 224 pixels, whatever the model's input has.
    """
    height, width = transform.size
    times = _CELL / max(height, width)
    sized = Transform(
        (transform.channels, *(max(1, round(side * times)) for side in transform.size)),
        transform.interpolation, transform.mean, transform.std, transform.crop_pct,
        transform.crop_mode, transform.exif,
    )  # fmt: skip
    image: Image.Image = sized.image(picture).convert("RGB")
    return image


def transform_for(model: Any, transform: Transform | None) -> Transform:
    """The transform that was given, else the model's own."""
    return transform or create_transform(**resolve_data_config(model))


def attention_rows(
    models: Any,
    images: Any,
    *,
    layer: int | str | Sequence[int | str] | None = None,
    head: int | str = "mean",
    labels: Any = True,
    transform: Transform | None = None,
    top: float | None = None,
) -> Iterator[Row]:
    """One row for each picture, when it is asked for; see `attention_grid`.

    `sheet` lays rows out: for pictures without end, take as many as a sheet shall have.
    """
    asked = [
        _asked(title, model, transform, layer, labels)
        for title, model in _titled(models)
    ]
    if top is not None and not 1 <= top < math.inf:  # uniform is on every scale
        raise ValueError(f"top: {top!r}, allowed is 1 or more")
    return (_row(asked, picture, head, top) for picture in sources_of(images).pictures)


def _titled(models: Any) -> list[tuple[str, Any]]:
    """Names for models: a dict's keys, else their architectures, numbered if alike."""
    if isinstance(models, Mapping):
        named = [(str(title), model) for title, model in models.items()]
    elif isinstance(models, (list, tuple)):
        names = [
            str((model.pretrained_cfg or {}).get("architecture") or "model")
            for model in models
        ]
        if len(set(names)) < len(names):
            names = [f"{name} {number}" for number, name in enumerate(names, 1)]
        named = list(zip(names, models, strict=True))
    else:
        return [("", models)]
    if not named:
        raise ValueError("models: none")
    return named if len(named) > 1 else [("", named[0][1])]


def _asked(
    title: str, model: Any, transform: Transform | None, layer: Any, labels: Any
) -> _Named:
    model = copy.copy(model)  # one state of it for all that follows
    if layer is None:
        layer = (-1,) if model.attn_pool is None else (-1, "pool")
    layers: list[int | str] = [layer] if isinstance(layer, (int, str)) else list(layer)
    if not layers:
        raise ValueError("layer: none")
    for item in layers:
        layer_key(model, item)  # before anything is computed
    if labels is True and model.untrained():
        labels = None  # a guess of random weights means nothing
    elif labels is True:
        labels = labels_for(model.pretrained_cfg or {}, max(model.num_classes, 0))
    if model.num_classes < 1 or not model.global_pool:
        labels = None
    return _Named(title, model, transform_for(model, transform), layers, labels or None)


def _seen(
    picture: Any, transforms: Sequence[Transform]
) -> tuple[str, list[tuple[NDArray[np.float32], Image.Image]]]:
    """A picture's name, and by each transform the input (1, C, H, W) and the view.

    It is decoded once: a file can be read only once, a large picture takes its time.
    """
    opened = load_image(picture, None)
    try:
        seen = [(own(opened)[None], view(own, opened)) for own in transforms]
    except ImageError as error:  # what is decoded has no name
        raise ImageError(image_name(picture), error.reason) from error
    return printable(os.path.basename(image_name(picture))), seen


def _row(
    asked: Sequence[_Named], picture: Any, head: int | str, top: float | None
) -> Row:
    name, seen = _seen(picture, [one.transform for one in asked])
    caption = [name]
    drawn: list[tuple[str, Image.Image, Heat, tuple[float, float]]] = []
    for one, (x, shown) in zip(asked, seen, strict=True):
        answer, maps = heats_of(one.model, x, one.layers)
        if one.labels is not None:
            chances = probabilities(answer[0])
            best = int(chances.argmax())
            guess = f"{one.labels[best]} ({chances[best]:.1%})"
            caption.append(printable(f"{one.title}: {guess}" if one.title else guess))
        extent = extent_of(one.model, x)
        for layer, heads in zip(one.layers, maps, strict=True):
            for which, heat in _pick(heads[0], head):
                what = ", ".join(filter(None, (layer_title(one.model, layer), which)))
                words = f"{one.title}: {what}" if one.title else what
                drawn.append((words, shown, heat, extent))
    if top is None:
        top = scale_top(*(heat for _, _, heat, _ in drawn))
    cells = [Cell("\n".join(caption), seen[0][1])]
    for words, shown, heat, extent in drawn:
        cells.append(Cell(words, overlay(shown, heat, top=top, extent=extent)))
    return Row(cells, top)


def _pick(heads: Heat, head: int | str) -> list[tuple[str, Heat]]:
    """(heads, rows, columns) to what to draw: a title and a map each."""
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


def pools_row(
    model: Any, picture: Any, pools: Sequence[str], transform: Transform | None
) -> Row:
    """What each pool looks at, all to one scale."""
    model = copy.copy(model)
    transform = transform_for(model, transform)
    name, [(x, shown)] = _seen(picture, [transform])
    heats = [pool_weights(model, x, pool)[0] for pool in pools]
    top, extent = scale_top(*heats), extent_of(model, x)
    cells = [Cell(name, shown)]
    for pool, heat in zip(pools, heats, strict=True):
        words = f"{pool}, at most {multiples(heat).max():.1f}x"
        cells.append(Cell(words, overlay(shown, heat, top=top, extent=extent)))
    return Row(cells, top)


def token_rows(model: Any, images: Any, transform: Transform | None) -> list[Row]:
    """Each picture beside the principal components of its patch tokens, as RGB."""
    model = copy.copy(model)
    transform = transform_for(model, transform)
    tokens, shown, extents = [], [], []
    for picture in sources_of(images).pictures:
        name, [(x, image)] = _seen(picture, [transform])
        tokens.append(patch_tokens(model, x))
        extents.append(extent_of(model, x))
        shown.append(Cell(name, image))
    if not tokens:
        raise ValueError("images: none")
    fields = token_colours(principal(np.concatenate(tokens)))
    return [
        Row([cell, Cell("patch tokens", spread(field, cell.image.size, extent))], None)
        for cell, field, extent in zip(shown, fields, extents, strict=True)
    ]
