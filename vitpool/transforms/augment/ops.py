# SPDX-License-Identifier: Apache-2.0
"""RandAugment's operations, and what a level means to each: timm.data.auto_augment.

A level goes from 0 to 10, or further with `mmax`. Operations whose names end in
Increasing do more the higher it is; of the others Posterize and Solarize do less, and
Color, Contrast, Brightness and Sharpness go from 0.1 by 1, which is no change, to 1.9.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from .color import brightness, contrast, saturation

LEVELS = 10.0


class Op(NamedTuple):
    """An operation: `apply(image[, value][, resample, fill])`."""

    apply: Callable[..., Any]
    value: Callable[[float, Random], float] | None = None  # of a level
    warps: bool = False  # takes resample and fill


def _affine(image: Any, matrix: tuple[float, ...], resample: Any, fill: Any) -> Any:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=fill
    )


def shear_x(image: Any, factor: float, resample: Any, fill: Any) -> Any:
    """Rows moved by factor * y pixels."""
    return _affine(image, (1, factor, 0, 0, 1, 0), resample, fill)


def shear_y(image: Any, factor: float, resample: Any, fill: Any) -> Any:
    """Columns moved by factor * x pixels."""
    return _affine(image, (1, 0, 0, factor, 1, 0), resample, fill)


def translate_x(image: Any, part: float, resample: Any, fill: Any) -> Any:
    """Moved by a part of the width."""
    return _affine(image, (1, 0, part * image.size[0], 0, 1, 0), resample, fill)


def translate_y(image: Any, part: float, resample: Any, fill: Any) -> Any:
    """Moved by a part of the height."""
    return _affine(image, (1, 0, 0, 0, 1, part * image.size[1]), resample, fill)


def rotate(image: Any, degrees: float, resample: Any, fill: Any) -> Any:
    """Turned about the middle, counter-clockwise, at the same size."""
    return image.rotate(degrees, resample=resample, fillcolor=fill)


def solarize_add(image: Any, add: int) -> Any:
    """What is darker than 128 becomes lighter by `add`."""
    table = [min(255, i + add) if i < 128 else i for i in range(256)]
    return image.point(table * len(image.getbands()))


def posterize(image: Any, bits: int) -> Any:
    """The highest bits of each channel; of none, black, which Pillow 13 refuses."""
    return ImageOps.posterize(image, bits) if bits > 0 else image.point(lambda _: 0)


def sharpness(image: Any, factor: float) -> Any:
    """0 is blurred, 1 the picture itself."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def desaturate(image: Any, factor: float) -> Any:
    """0 is the picture itself, 1 grey."""
    return saturation(image, min(1.0, max(0.0, 1.0 - factor)))


def gaussian_blur(image: Any, radius: float) -> Any:
    """Blurred; radius in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius=radius))


def _either_way(value: float, rng: Random) -> float:
    return -value if rng.random() > 0.5 else value


def _up_to(most: float) -> Callable[[float, Random], float]:
    """0 to `most`, either way."""
    return lambda level, rng: _either_way(level / LEVELS * most, rng)


def _enhanced(level: float, _: Random) -> float:
    return level / LEVELS * 1.8 + 0.1


def _enhanced_more(level: float, rng: Random) -> float:
    return max(0.1, 1.0 + _either_way(level / LEVELS * 0.9, rng))


def _bits(level: float, _: Random) -> int:
    return int(level / LEVELS * 4)


def _fewer_bits(level: float, rng: Random) -> int:
    return 4 - _bits(level, rng)


def _threshold(level: float, _: Random) -> int:
    return min(256, int(level / LEVELS * 256))


def _lower_threshold(level: float, rng: Random) -> int:
    return 256 - _threshold(level, rng)


def _added(level: float, _: Random) -> int:
    return min(128, int(level / LEVELS * 110))


def _between(low: float, high: float) -> Callable[[float, Random], float]:
    return lambda level, _: max(low, min(high, low + (high - low) * (level / LEVELS)))


OPS = {
    "AutoContrast": Op(ImageOps.autocontrast),
    "Equalize": Op(ImageOps.equalize),
    "Invert": Op(ImageOps.invert),
    "Rotate": Op(rotate, _up_to(30.0), warps=True),
    "Posterize": Op(posterize, _bits),
    "PosterizeIncreasing": Op(posterize, _fewer_bits),
    "Solarize": Op(ImageOps.solarize, _threshold),
    "SolarizeIncreasing": Op(ImageOps.solarize, _lower_threshold),
    "SolarizeAdd": Op(solarize_add, _added),
    "Color": Op(saturation, _enhanced),
    "ColorIncreasing": Op(saturation, _enhanced_more),
    "Contrast": Op(contrast, _enhanced),
    "ContrastIncreasing": Op(contrast, _enhanced_more),
    "Brightness": Op(brightness, _enhanced),
    "BrightnessIncreasing": Op(brightness, _enhanced_more),
    "Sharpness": Op(sharpness, _enhanced),
    "SharpnessIncreasing": Op(sharpness, _enhanced_more),
    "ShearX": Op(shear_x, _up_to(0.3), warps=True),
    "ShearY": Op(shear_y, _up_to(0.3), warps=True),
    "TranslateXRel": Op(translate_x, _up_to(0.45), warps=True),
    "TranslateYRel": Op(translate_y, _up_to(0.45), warps=True),
    "Desaturate": Op(desaturate, _between(0.5, 1.0)),
    "GaussianBlur": Op(gaussian_blur, _between(0.1, 2.0)),
}
