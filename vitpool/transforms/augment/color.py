# SPDX-License-Identifier: Apache-2.0
"""torchvision's ColorJitter on Pillow: brightness, contrast, saturation and hue."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance


def brightness(image: Any, factor: float) -> Any:
    """0 is black, 1 the picture itself."""
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Any, factor: float) -> Any:
    """0 is the picture's mean grey, 1 the picture itself."""
    return ImageEnhance.Contrast(image).enhance(factor)


def saturation(image: Any, factor: float) -> Any:
    """0 is grey, 1 the picture itself."""
    return ImageEnhance.Color(image).enhance(factor)


def hue(image: Any, factor: float) -> Any:
    """Colours turned by a part of the whole circle, -0.5 to 0.5; grey stays grey."""
    if image.mode == "L":
        return image
    h, s, v = image.convert("HSV").split()
    turned = np.asarray(h) + np.int32(factor * 255).astype(np.uint8)  # modulo 256
    h = Image.fromarray(turned)
    return Image.merge("HSV", (h, s, v)).convert(image.mode)


_STEPS = (brightness, contrast, saturation, hue)


class ColorJitter:
    """Brightness, contrast, saturation and hue changed, in an order that is drawn too.

    strengths: of the first three how far a factor is from 1, each way, though not below
    0; of hue how far it is from 0. 0: left alone.
    """

    def __init__(self, strengths: tuple[float, float, float, float]) -> None:
        *factors, turn = strengths
        self.ranges = [(max(0.0, 1 - s), 1 + s) if s else None for s in factors]
        self.ranges.append((-turn, turn) if turn else None)

    def __call__(self, image: Any, rng: Random) -> Any:
        """The image with its colours changed."""
        order = list(range(4))
        rng.shuffle(order)
        factors = [r and rng.uniform(*r) for r in self.ranges]
        for step in order:
            factor = factors[step]
            if factor is not None:
                image = _STEPS[step](image, factor)
        return image
