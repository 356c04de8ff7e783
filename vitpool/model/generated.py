# SPDX-License-Identifier: Apache-2.0
"""Pictures that nobody took, for measuring where none are given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .parts import Float32

if TYPE_CHECKING:
    from .base import PlainViT

_SEED = 17
_MOST_PICTURES = 4
_TOKENS = 512  # of all pictures, at most, unless one has more
_SHAPES = 60


def pictures_for(model: PlainViT) -> Float32:
    """Up to four pictures (B, in_chans, height, width) for a model, the same every
    time: plain shapes over each other, the large ones below, with mean 0 and variance
    1, about what preprocessing makes of a photograph.

    Their edges and even areas are what a photograph has and noise has not: on a real
    DINOv2 the noise of its 48 matrices on these has a correlation of 0.93 (in dB) with
    that on photographs; on clouds of every size it is 0.64, on white noise 0.36.
    """
    height, width = model.img_size
    if model.dynamic_img_size:  # it takes whole patches alone, whatever its own size
        down, across = model._options()["patch_size"]
        height, width = height // down * down, width // across * across
    rows, columns = model._snapshot()._grid(height, width)
    count = max(1, min(_MOST_PICTURES, _TOKENS // (rows * columns)))
    raw = _Raw()
    x = [_picture(raw, model.in_chans, height, width) for _ in range(count)]
    return np.stack(x)


class _Raw:
    """Uniform numbers in [-1, 1) of PCG64's raw stream, which no version of NumPy may
    change."""

    def __init__(self) -> None:
        self._bits = np.random.PCG64(_SEED)

    def __call__(self, *shape: int) -> Float32:
        raw = self._bits.random_raw(math.prod(shape))
        return ((raw >> np.uint64(40)) * 2.0**-23 - 1.0).astype("f4").reshape(shape)


def _picture(raw: _Raw, channels: int, height: int, width: int) -> Float32:
    """Discs and rectangles, from half a picture's size to a fiftieth."""
    rows = np.arange(height, dtype=np.float32)[:, None] / height
    columns = np.arange(width, dtype=np.float32)[None] / width
    x = np.zeros((channels, height, width), np.float32)
    for index in range(_SHAPES):
        down, right, tall, wide, kind = raw(5)
        radius = 0.5 / (1 + 24 * index / _SHAPES)
        y = np.abs(rows - (down + 1) / 2)
        z = np.abs(columns - (right + 1) / 2)
        if kind < 0:
            inside = y * y + z * z < radius * radius
        else:
            inside = (y < radius * (0.65 + 0.35 * tall)) & (
                z < radius * (0.65 + 0.35 * wide)
            )
        # what all channels have in common, and half as much of each one's own
        colour = raw(1) + 0.5 * raw(channels)
        x[:, inside] = colour[:, None]
    x -= x.mean()
    x /= max(float(x.std()), 1e-6)
    return x
