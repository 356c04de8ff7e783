# SPDX-License-Identifier: Apache-2.0
"""The training transform itself: timm's `transforms_imagenet_train`."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...config import as_bool, as_float, as_int, plain
from ...text import did_you_mean
from ..config import IMAGENET_MEAN, IMAGENET_STD, resolve_data_config
from ..read import ImageError, image_name, load_image
from ..transform import INTERPOLATIONS, Transform
from .color import ColorJitter
from .crop import RANDOM, crop_box, resized_crop
from .erasing import MODES, erase
from .rand_augment import RandAugment

_FLIP, _FLIP_DOWN = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM


def _probability(value: Any, what: str) -> float:
    number = as_float(value, what)
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{what} must be from 0 to 1, not {value}")
    return number


def _range(value: Any, what: str, most: float) -> tuple[float, float]:
    """(low, high), above 0 and at most `most`."""
    value = plain(value)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{what} must be two numbers (low, high), not {value!r}")
    low, high = (as_float(number, what) for number in value)
    if not 0.0 < low <= high <= most:
        limit = f" and at most {most:g}" if most < float("inf") else ""
        raise ValueError(
            f"{what} must be (low, high), both above 0{limit}, not {value!r}"
        )
    return low, high


def _strengths(value: Any) -> tuple[float, float, float, float] | None:
    """Brightness, contrast, saturation and hue, from one number, three or four."""
    value = plain(value)
    if value is None:
        return None
    given = list(value) if isinstance(value, (tuple, list)) else [value] * 3
    if len(given) not in (3, 4):
        raise ValueError(
            "color_jitter must be one number, three (brightness, contrast, saturation) "
            f"or four (and hue), not {value!r}"
        )
    numbers = [as_float(number, "color_jitter") for number in given] + [0.0]
    if min(numbers) < 0 or numbers[3] > 0.5:
        raise ValueError(
            f"color_jitter must not be negative, and its hue at most 0.5, not {value!r}"
        )
    return numbers[0], numbers[1], numbers[2], numbers[3]


class Augment:
    """One picture to one model input, drawn anew each time: timm's training transform.

    `augment(picture, seed=0, epoch=0, index=0)` gives float32 (C, H, W). What is drawn
    depends on these three alone: the same picture of the same epoch is the same in any
    batch and any thread, and whatever was drawn before. `augment.image(...)` gives the
    PIL image before it is normalised. Safe to call from several threads.

    input_size: H, (H, W) or (C, H, W), C 1 (grey) or 3. mean, std: of the
    normalisation, of pixels 0 to 1. scale: the part of the picture's area that a crop
    has. ratio: its width / height. interpolation: 'random' (bilinear or bicubic) or a
    name as `create_transform` takes it. hflip, vflip: probabilities. color_jitter: the
    strength of brightness, contrast and saturation, or of the three one by one, or of
    four with hue (at most 0.5); None for none. With auto_augment it acts only with
    force_color_jitter, as timm has it. color_jitter_prob: its probability; None: 1.
    grayscale_prob: of a picture without colour. auto_augment: timm's string for
    `RandAugment`, such as 'rand-m9-mstd0.5-inc1'; what comes in at the borders has the
    mean colour. re_prob, re_mode, re_count: random erasing: its probability; 'const',
    'rand' or 'pixel'; how many boxes at most. exif: apply the EXIF orientation.

    Errors name the option, what came and what is allowed. timm's gaussian_blur_prob,
    its crop modes besides 'rrc', AutoAugment and AugMix are not here.
    Source: timm.data.transforms_factory.transforms_imagenet_train.
    """

    def __init__(
        self,
        input_size: int | Sequence[int] = 224,
        *,
        mean: float | Sequence[float] = IMAGENET_MEAN,
        std: float | Sequence[float] = IMAGENET_STD,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = "random",
        hflip: float = 0.5,
        vflip: float = 0.0,
        color_jitter: float | Sequence[float] | None = 0.4,
        color_jitter_prob: float | None = None,
        force_color_jitter: bool = False,
        grayscale_prob: float = 0.0,
        auto_augment: str | None = None,
        re_prob: float = 0.0,
        re_mode: str = "const",
        re_count: int = 1,
        exif: bool = False,
    ) -> None:
        # Size, channels and normalisation are an evaluation's.
        self._plain = Transform(input_size, "bicubic", mean, std)
        self.size, self.channels = self._plain.size, self._plain.channels
        self.mean, self.std = self._plain.mean, self._plain.std
        self.mode = self._plain.mode
        self.scale = _range(scale, "scale", 1.0)
        self.ratio = _range(ratio, "ratio", float("inf"))
        if interpolation != "random" and interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation: {interpolation!r}, allowed: 'random' and "
                f"{sorted(INTERPOLATIONS)}"
            )
        self.interpolation = interpolation
        self.hflip = _probability(hflip, "hflip")
        self.vflip = _probability(vflip, "vflip")
        self.color_jitter = _strengths(color_jitter)
        self.color_jitter_prob = color_jitter_prob
        if color_jitter_prob is not None:
            self.color_jitter_prob = _probability(
                color_jitter_prob, "color_jitter_prob"
            )
        self.force_color_jitter = as_bool(force_color_jitter, "force_color_jitter")
        self.grayscale_prob = _probability(grayscale_prob, "grayscale_prob")
        self.auto_augment = auto_augment or None
        self.re_prob = _probability(re_prob, "re_prob")
        if re_mode not in MODES:
            raise ValueError(f"re_mode: {re_mode!r}, allowed: {list(MODES)}")
        self.re_mode = re_mode
        self.re_count = as_int(re_count, "re_count", 1)
        self.exif = as_bool(exif, "exif")

        self._resample = (
            RANDOM if interpolation == "random" else (INTERPOLATIONS[interpolation],)
        )
        self._rand = None
        if self.auto_augment is not None:
            fill = tuple(min(255, round(255 * v)) for v in self.mean)
            self._rand = RandAugment(
                self.auto_augment, fill if self.channels == 3 else fill[0],
                self._resample,
            )  # fmt: skip
        jitters = self._rand is None or self.force_color_jitter
        self._jitter = None
        if self.color_jitter is not None and jitters:
            self._jitter = ColorJitter(self.color_jitter)

    @property
    def options(self) -> dict[str, Any]:
        """What `Augment` makes the same transform of."""
        names = (
            "mean", "std", "scale", "ratio", "interpolation", "hflip", "vflip",
            "color_jitter", "color_jitter_prob", "force_color_jitter",
            "grayscale_prob", "auto_augment", "re_prob", "re_mode", "re_count", "exif",
        )  # fmt: skip
        size = (self.channels, *self.size)
        return {"input_size": size, **{name: getattr(self, name) for name in names}}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options})"

    def image(
        self, picture: Any, *, seed: int = 0, epoch: int = 0, index: int = 0
    ) -> Any:
        """Decode, crop, flip and change; returns a PIL image of the input's size."""
        return self._image(picture, stream_of(seed, epoch, index))

    def __call__(
        self, picture: Any, *, seed: int = 0, epoch: int = 0, index: int = 0
    ) -> NDArray[np.float32]:
        """The same normalised, and erased in part; returns float32 (C, H, W)."""
        rng = stream_of(seed, epoch, index)
        image = self._image(picture, rng)
        pixels = np.asarray(image).reshape(*self.size, self.channels)
        array = self._plain.normalize(pixels)
        if self.re_prob > 0:
            erase(array, self.re_prob, self.re_mode, self.re_count, rng)
        return array

    def _image(self, picture: Any, rng: Random) -> Any:
        image = load_image(picture, self.mode, exif=self.exif)
        if 0 in image.size:
            wide, high = image.size
            raise ImageError(image_name(picture), f"empty: {wide}x{high} pixels")
        box = crop_box(image.size, self.scale, self.ratio, rng)
        several = len(self._resample) > 1
        resample = rng.choice(self._resample) if several else self._resample[0]
        image = resized_crop(image, box, self.size, resample)
        if self.hflip > 0 and rng.random() < self.hflip:
            image = image.transpose(_FLIP)
        if self.vflip > 0 and rng.random() < self.vflip:
            image = image.transpose(_FLIP_DOWN)
        if self._rand is not None:
            image = self._rand(image, rng)
        if self._jitter is not None:
            prob = self.color_jitter_prob
            if prob is None or rng.random() < prob:
                image = self._jitter(image, rng)
        if self.grayscale_prob > 0 and rng.random() < self.grayscale_prob:
            image = image.convert("L").convert(self.mode)
        return image


def stream_of(seed: int, epoch: int, index: int) -> Random:
    """The random numbers of one picture in one epoch."""
    told = [
        as_int(value, name)
        for name, value in (("seed", seed), ("epoch", epoch), ("index", index))
    ]
    # Text goes through SHA-512, so that neighbours have nothing in common.
    return Random(" ".join(map(str, told)))


# Where a model says what else its pictures should be.
_CONFIG = ("input_size", "img_size", "in_chans", "mean", "std")


def create_augment(model: Any = None, **options: Any) -> Augment:
    """An `Augment` for a model: its input size, channels, mean and standard deviation.

    model: as the first argument of `resolve_data_config`: a model, a configuration, a
    mapping of what is to be otherwise. options: those of `Augment`, and img_size and
    in_chans. interpolation is 'random' unless it is given, whatever the model's is, as
    in timm's training. TypeError: an unknown option.
    """
    known = Augment.__init__.__kwdefaults__ or {}
    for name in options:
        if name not in known and name not in _CONFIG:
            raise TypeError(
                f"unknown option {name!r}{did_you_mean(name, [*known, *_CONFIG])} "
                f"(options: {', '.join([*_CONFIG[:3], *known])})"
            )
    told = {name: options.pop(name) for name in _CONFIG if name in options}
    config = resolve_data_config(model, **told)
    return Augment(
        config["input_size"], mean=config["mean"], std=config["std"], **options
    )
