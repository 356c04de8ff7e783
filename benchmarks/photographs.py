# SPDX-License-Identifier: Apache-2.0
"""Photographs to measure errors on and to calibrate with: those that scikit-image and
scikit-learn have in their packages, which are read and not imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = {
    "skimage/data": (
        "astronaut.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def paths() -> list[Path]:
    """The files that are here; none where neither package is installed."""
    found = []
    for folder, names in NAMES.items():
        package, _, rest = folder.partition("/")
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or [] if spec else [])[:1]:
            found += [Path(place) / rest / name for name in names]
    return [path for path in found if path.exists()]


def pixels(picture: Any, size: int) -> NDArray[np.float32]:
    """A PIL picture as (3, size, size), normalised as ImageNet's."""
    from PIL import Image

    small = picture.resize((size, size), Image.Resampling.BICUBIC)
    array = (np.asarray(small, np.float32) / 255 - MEAN) / STD
    return np.ascontiguousarray(array.transpose(2, 0, 1))


def crop(picture: Any, part: float, across: float, down: float) -> Any:
    """A square of `part` of the shorter side, at these parts of what is left over."""
    side = int(min(picture.size) * part)
    left = int((picture.width - side) * across)
    top = int((picture.height - side) * down)
    return picture.crop((left, top, left + side, top + side))


def opened() -> list[Any]:
    from PIL import Image

    files = paths()
    if not files:
        raise ImportError(
            "no photographs: neither scikit-image nor scikit-learn is installed"
        )
    return [Image.open(path).convert("RGB") for path in files]


def whole(size: int, count: int | None = None) -> NDArray[np.float32]:
    """(count, 3, size, size): the middle squares, in turn; once each for None."""
    pictures = opened()
    count = len(pictures) if count is None else count
    every = [pixels(crop(p, 1, 0.5, 0.5), size) for p in pictures[:count]]
    return np.stack([every[i % len(every)] for i in range(count)])


def crops(size: int, count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, 3, size, size): random squares of a third to all of a side, half of them
    mirrored. They are of the same photographs as `whole`'s, in favour of an engine that
    calibrates on them.
    """
    pictures = opened()
    rng = np.random.default_rng(seed)
    out = np.empty((count, 3, size, size), np.float32)
    for i in range(count):
        part, across, down, mirror = rng.uniform((0.33, 0, 0, 0), 1)
        one = pixels(crop(pictures[i % len(pictures)], part, across, down), size)
        out[i] = one[..., ::-1] if mirror > 0.5 else one
    return out
