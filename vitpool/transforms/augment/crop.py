# SPDX-License-Identifier: Apache-2.0
"""A part of a picture at another size: timm's RandomResizedCropAndInterpolation."""

from __future__ import annotations

import math
from random import Random
from typing import Any

from PIL import Image

# What interpolation='random' chooses from.
RANDOM = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
_TRIES = 10


def crop_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: Random,
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random part of a picture; size is (W, H).

    Its area is `scale` of the picture's, its width / height within `ratio`. What does
    not fit ten times in a row gives place to the largest middle part of such a shape.
    """
    wide, high = size
    for _ in range(_TRIES):
        area = rng.uniform(*scale) * (wide * high)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        # timm takes 0, of which nothing can be made
        if 0 < w <= wide and 0 < h <= high:
            top = rng.randint(0, high - h)
            left = rng.randint(0, wide - w)
            return left, top, left + w, top + h
    w, h = wide, high
    if wide / high < ratio[0]:
        h = max(1, round(w / ratio[0]))
    elif wide / high > ratio[1]:
        w = max(1, round(h * ratio[1]))
    left, top = (wide - w) // 2, (high - h) // 2
    return left, top, left + w, top + h


def resized_crop(
    image: Any, box: tuple[int, int, int, int], size: tuple[int, int], resample: Any
) -> Any:
    """The part of an image in a box, resized to size (H, W)."""
    part = image.crop(box)
    wanted = size[1], size[0]
    return part if part.size == wanted else part.resize(wanted, resample)
