# SPDX-License-Identifier: Apache-2.0
"""Class folders of drawn pictures, for what trains on files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("circle", "cross", "square")


def draw(kind: str, seed: int) -> Image.Image:
    """A dark shape on a light ground, 48 x 48; sizes, places and colours by seed."""
    rng = np.random.default_rng((seed, CLASSES.index(kind)))
    light, dark = rng.integers(150, 255, 3), rng.integers(0, 100, 3)
    image = Image.new("RGB", (48, 48), tuple(map(int, light)))
    pen, ink = ImageDraw.Draw(image), tuple(map(int, dark))
    (x, y), size = map(int, rng.integers(4, 16, 2)), int(rng.integers(16, 28))
    box = (x, y, x + size, y + size)
    if kind == "circle":
        pen.ellipse(box, fill=ink)
    elif kind == "square":
        pen.rectangle(box, fill=ink)
    else:
        pen.line(box, fill=ink, width=4)
        pen.line((x + size, y, x, y + size), fill=ink, width=4)
    return image


def folders(root: Path, count: int = 8, first: int = 0) -> Path:
    """root/CLASS/N.png: so many of each class, from the first seed on."""
    for kind in CLASSES:
        (root / kind).mkdir(parents=True)
        for seed in range(first, first + count):
            draw(kind, seed).save(root / kind / f"{seed}.png")
    return root
