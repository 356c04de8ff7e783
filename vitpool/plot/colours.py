# SPDX-License-Identifier: Apache-2.0
"""Attention as colour: one scale for a row of maps, and one meaning for a shade.

A map is drawn as a multiple of uniform attention, of 1 / patches. What is seen must
follow from that alone, so the picture below is grey, dark and of low contrast, every
colour is lighter than all of it, and covers it the more, the more attention there is.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .numbers import Heat

# The upper half of inferno (Smith and van der Walt, 2015) in steps of a tenth: its
# lightness grows evenly, so that it also reads in grey and without colour vision.
_INFERNO = np.array(
    [(188, 55, 84), (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70),
     (252, 255, 164)], np.float64,
)  # fmt: skip
_BASE = 38.0, 74.0  # the greys that black and white become, below every colour
_COVER = 2.5  # with it, lightness over the middle grey grows evenly from end to end
_LEAST_TOP = 4.0  # multiples: uniform attention stays in the lower quarter of a scale
_TOPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_SMOOTH_FROM = 16  # patches a side


def multiples(heat: Heat) -> Heat:
    """Shares of attention (..., rows, columns) as multiples of uniform, 1 / patches."""
    clean = np.nan_to_num(np.asarray(heat, np.float32), posinf=0, neginf=0)
    shares: Heat = clean * np.float32(clean.shape[-2] * clean.shape[-1])
    return shares


def scale_top(*heats: Heat) -> float:
    """The multiple of uniform at which a scale for all these maps ends.

    A round number, at least 4, so that a uniform map is drawn as what it is: low.
    """
    highest = max((float(multiples(heat).max()) for heat in heats), default=0.0)
    if highest <= _LEAST_TOP:
        return _LEAST_TOP
    decade = 10.0 ** math.floor(math.log10(highest))
    # a hair above a round number, as rounding leaves it, is that number
    return next(t for t in _TOPS if highest <= t * decade * (1 + 1e-6)) * decade


def _blend(grey: NDArray[np.float64], part: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Greys (...) below colours for parts of the scale (...), 0 to 1: adds RGB."""
    part = np.clip(part, 0, 1)
    place = part * (len(_INFERNO) - 1)
    low = np.minimum(place.astype(int), len(_INFERNO) - 2)
    within = (place - low)[..., None]
    colour = _INFERNO[low] * (1 - within) + _INFERNO[low + 1] * within
    shown = ((1 - part) ** _COVER)[..., None]
    return np.rint(grey[..., None] * shown + colour * (1 - shown)).astype(np.uint8)


def colours(part: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The scale: its parts, 0 to 1, any shape, to RGB over a middle grey."""
    part = np.asarray(part, np.float64)
    return _blend(np.full(part.shape, sum(_BASE) / 2), part)


def token_colours(components: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Principal components (B, rows, columns, 3) as RGB, each over its whole range.

    The range is of all pictures together, and leaves out the lowest and the highest
    hundredth: a few patches are often far from all others. A component that is the same
    everywhere is middle grey.
    """
    low, high = np.quantile(components, (0.01, 0.99), axis=(0, 1, 2))
    width = np.where(high > low, high - low, 1)
    part = np.where(high > low, (components - low) / width, 0.5)
    return np.rint(np.clip(part, 0, 1) * 255).astype(np.uint8)


def spread(
    field: NDArray[Any],
    size: tuple[int, int],
    extent: tuple[float, float] | None = None,
    smooth: bool | None = None,
) -> Image.Image:
    """A value or a colour for each patch to one for each pixel of (width, height)."""
    rows, columns = field.shape[:2]
    if smooth is None:
        smooth = min(rows, columns) >= _SMOOTH_FROM
    high, wide = extent or (rows, columns)
    # not bicubic, which goes beyond what is there
    how = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return Image.fromarray(field).resize(size, how, box=(0, 0, wide, high))


def overlay(
    picture: Image.Image,
    heat: Heat,
    *,
    top: float | None = None,
    smooth: bool | None = None,
    extent: tuple[float, float] | None = None,
) -> Image.Image:
    """Lay a map of attention over a picture, at the picture's size.

    heat: shares of attention (rows, columns). top: the multiple of uniform, which is
    1 / (rows * columns), that is drawn lightest; more is drawn the same; default
    `scale_top(heat)`. Where there is no attention the picture shows, as dark grey.
    smooth: colours run from patch to patch; default only where rows and columns are 16
    or more, since a coarse map that is smoothed looks finer than it is. extent: the
    rows and columns of heat that lie on the picture, from the top left, default all;
    the last patches of a padded picture hang over.
    """
    if np.ndim(heat) != 2 or not np.size(heat):
        raise ValueError(f"heat: shape {np.shape(heat)}, allowed is (rows, columns)")
    if top is None:
        top = scale_top(heat)
    elif not 0 < top < math.inf:
        raise ValueError(f"top: {top!r}, allowed is above 0")
    field = spread(multiples(heat) / np.float32(top), picture.size, extent, smooth)
    black, white = _BASE
    light = np.asarray(picture.convert("RGB").convert("L"), np.float64) / 255
    return Image.fromarray(_blend(black + light * (white - black), np.asarray(field)))
