# SPDX-License-Identifier: Apache-2.0
"""Random Erasing, https://arxiv.org/abs/1708.04896, as timm.data.random_erasing has it.

It works on the normalised picture, whose mean is about 0 and whose deviation about 1.
"""

from __future__ import annotations

import math
from random import Random

import numpy as np
from numpy.typing import NDArray

MODES = ("const", "rand", "pixel")
_TRIES = 10
_AREA = (0.02, 1 / 3)  # of the picture's, all boxes together
_LOG_RATIO = (math.log(0.3), math.log(1 / 0.3))  # of height to width


def erase(
    picture: NDArray[np.float32], probability: float, mode: str, most: int, rng: Random
) -> None:
    """Erase up to `most` boxes of a normalised picture (C, H, W), in place.

    mode: what is put there: 'const' 0, which is the mean colour; 'rand' one normal
    colour a box; 'pixel' normal noise.
    """
    if rng.random() > probability:
        return
    channels, high, wide = picture.shape
    count = 1 if most == 1 else rng.randint(1, most)
    for _ in range(count):
        for _ in range(_TRIES):
            area = rng.uniform(*_AREA) * (high * wide) / count
            ratio = math.exp(rng.uniform(*_LOG_RATIO))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < high and w < wide:
                top, left = rng.randint(0, high - h), rng.randint(0, wide - w)
                box = picture[:, top : top + h, left : left + w]
                box[:] = _values(mode, (channels, h, w), rng)
                break


def _values(mode: str, shape: tuple[int, int, int], rng: Random) -> NDArray[np.float32]:
    if mode == "const":
        return np.zeros((1, 1, 1), np.float32)
    normal = np.random.default_rng(rng.getrandbits(64))
    shape = shape if mode == "pixel" else (shape[0], 1, 1)
    return normal.standard_normal(shape, np.float32)
