# SPDX-License-Identifier: Apache-2.0
"""The transform itself: resize (Pillow), crop or pad, normalise (C).

Up to the normalisation the pixels are byte for byte those of timm with torchvision,
whose rounding is repeated here number for number.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import _core
from ..config import as_int
from ..text import did_you_mean
from .config import CROP_PCT, IMAGENET_MEAN, IMAGENET_STD, as_channels, as_size
from .read import ImageError, image_name, load_image

CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}

# A resized picture larger than this is refused: a side of one pixel beside one of
# 100,000 would else ask for 20 GB. It is twice Pillow's own limit for a decoded one.
MAX_RESIZED_PIXELS = 178_956_970


def _short_side(size: tuple[int, int], target: int) -> tuple[int, int]:
    """torchvision's Resize(int): the short side becomes target; (H, W) to (H, W)."""
    height, width = size
    if width <= height:
        return int(target * height / width), target
    return target, int(target * width / height)


def _keep_ratio(
    size: tuple[int, int], target: tuple[int, int], longest: float
) -> tuple[int, int]:
    """timm's ResizeKeepRatio: fit the long (1.0) or the short (0.0) side."""
    ratios = size[0] / target[0], size[1] / target[1]
    ratio = max(ratios) * longest + min(ratios) * (1.0 - longest)
    return round(size[0] / ratio), round(size[1] / ratio)


def _centre(image: Any, size: tuple[int, int], fill: tuple[int, ...]) -> Any:
    """Pad what is too small, then cut the middle out: size is (H, W)."""
    (height, width), (w, h) = size, image.size
    pad_w, pad_h = max(width - w, 0), max(height - h, 0)
    if pad_w or pad_h:
        canvas = Image.new(image.mode, (w + pad_w, h + pad_h), fill)
        canvas.paste(image, (pad_w // 2, pad_h // 2))
        image = canvas
        w, h = image.size
    top, left = round((h - height) / 2.0), round((w - width) / 2.0)
    return image.crop((left, top, left + width, top + height))


class Transform:
    """One picture to one model input; made by `create_transform`.

    `transform(picture)` gives float32 (C, H, W); `transform.pixels(picture)` the uint8
    (H, W, C) before normalisation; `transform.image(picture)` the same as a PIL image.
    Safe to call from several threads.
    """

    def __init__(
        self,
        input_size: int | Sequence[int] = 224,
        interpolation: str = "bilinear",
        mean: float | Sequence[float] = IMAGENET_MEAN,
        std: float | Sequence[float] = IMAGENET_STD,
        crop_pct: float | None = None,
        crop_mode: str | None = None,
        exif: bool = False,
    ) -> None:
        self.size = as_size(input_size, "input_size")
        self.channels = 3
        given: Any = input_size
        if hasattr(given, "__len__") and len(given) == 3:
            self.channels = as_int(given[0], "input_size")
        if self.channels not in (1, 3):
            raise ValueError(
                f"input_size: {self.channels} channels, but pictures give 1 or 3; call "
                "the model on your own (B, C, H, W) array instead"
            )
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation: {interpolation!r}, allowed: {sorted(INTERPOLATIONS)}"
            )
        self.crop_mode = crop_mode or "center"
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode: {crop_mode!r}, allowed: {list(CROP_MODES)}")
        self.crop_pct = float(CROP_PCT if crop_pct is None else crop_pct)
        if not 0.0 < self.crop_pct <= 16.0:
            raise ValueError(f"crop_pct: {crop_pct!r}, allowed is above 0, at most 16")
        self.interpolation = interpolation
        self.mean = as_channels(mean, self.channels, "mean")
        self.std = as_channels(std, self.channels, "std")
        if any(not v > 0 for v in self.std):
            raise ValueError(f"std: {std!r}, allowed is above 0")
        self.exif = exif

    @property
    def options(self) -> dict[str, Any]:
        """What `create_transform` makes the same transform of."""
        names = ("interpolation", "mean", "std", "crop_pct", "crop_mode", "exif")
        size = (self.channels, *self.size)
        return {"input_size": size, **{name: getattr(self, name) for name in names}}

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{type(self).__name__}({options})"

    @property
    def mode(self) -> str:
        """The Pillow mode pictures are converted to."""
        return "RGB" if self.channels == 3 else "L"

    def image(self, picture: Any) -> Any:
        """Decode, convert, resize and crop; returns a PIL image."""
        image = load_image(picture, self.mode, exif=self.exif)
        high, wide = self.size
        scale = math.floor(high / self.crop_pct), math.floor(wide / self.crop_pct)
        size = image.size[1], image.size[0]
        fill: tuple[int, ...] = (0,) * self.channels
        if 0 in size:
            raise ImageError(image_name(picture), f"empty: {size[1]}x{size[0]} pixels")
        if self.crop_mode == "squash":
            new = scale
        elif self.crop_mode == "border":
            new = _keep_ratio(size, scale, longest=1.0)
            fill = tuple(round(255 * v) for v in self.mean)
        elif scale[0] == scale[1]:
            new = _short_side(size, scale[0])
        else:
            new = _keep_ratio(size, scale, longest=0.0)
        if min(new) < 1 or new[0] * new[1] > MAX_RESIZED_PIXELS:
            raise ImageError(
                image_name(picture),
                f"{size[1]}x{size[0]} pixels would be resized to {new[1]}x{new[0]}",
            )
        if new != size:
            image = image.resize((new[1], new[0]), INTERPOLATIONS[self.interpolation])
        fill_value: Any = fill if self.channels == 3 else fill[0]
        return _centre(image, self.size, fill_value)

    def pixels(self, picture: Any) -> NDArray[np.uint8]:
        """Decode, convert, resize and crop; returns uint8 (H, W, C)."""
        return np.asarray(self.image(picture)).reshape(*self.size, self.channels)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (H, W, C) or (B, H, W, C) to float32 (C, H, W) or (B, C, H, W)."""
        if pixels.ndim == 3:
            one: NDArray[np.float32] = _core.normalize_u8(pixels, self.mean, self.std)
            return one
        out = np.empty((len(pixels), self.channels, *pixels.shape[1:3]), np.float32)
        for index, image in enumerate(pixels):
            out[index] = _core.normalize_u8(image, self.mean, self.std)
        return out

    def batch(self, pixels: Sequence[NDArray[np.uint8]]) -> Any:
        """Normalise pictures uint8 (H, W, C) to float32 (B, C, H, W); B may be 0."""
        out = np.empty((len(pixels), self.channels, *self.size), np.float32)
        for index, image in enumerate(pixels):
            out[index] = self.normalize(image)
        return out

    def __call__(self, picture: Any) -> NDArray[np.float32]:
        """Decode, convert, resize, crop and normalise; returns float32 (C, H, W)."""
        return self.normalize(self.pixels(picture))


class TensorTransform(Transform):
    """A `Transform` whose call gives torch tensors; torch is imported by the caller."""

    def __call__(self, picture: Any) -> Any:
        """Decode, convert, resize, crop and normalise; a float32 tensor (C, H, W)."""
        return imported_torch().from_numpy(super().__call__(picture))


def imported_torch() -> Any:
    """torch, which the caller has imported; else ImportError."""
    if "torch" not in sys.modules:
        raise ImportError("tensors are torch's, and vitpool does not import it: do so")
    return sys.modules["torch"]


# What timm's create_transform takes for training alone: an evaluation ignores it, there
# as here.
_FOR_TRAINING = {
    "no_aug", "train_crop_mode", "scale", "ratio", "hflip", "vflip", "color_jitter",
    "color_jitter_prob", "grayscale_prob", "gaussian_blur_prob", "auto_augment",
    "re_prob", "re_mode", "re_count", "re_num_splits",
}  # fmt: skip
# What it takes for another evaluation, with the value that asks for none, and what to
# do in place of it.
_REFUSED: dict[str, tuple[Any, str]] = {
    "is_training": (False, "vitpool computes inference only"),
    "use_prefetcher": (False, "transform.pixels(picture) gives uint8 (H, W, C)"),
    "normalize": (True, "transform.pixels(picture) / 255 is not normalised"),
    "separate": (False, "it is for training"),
    "crop_border_pixels": (None, "crop_pct says what is cut off"),
    "tf_preprocessing": (False, "there are the steps of torchvision alone"),
    "patchify_flatten": (True, "reshape its patches to (N, rows, columns, channels)"),
}
# What it takes for pictures of any shape, of so many patches.
_SEQUENCE = {"patch_size", "max_seq_len", "patchify", "patchify_channels_last"}


def create_transform(
    input_size: int | Sequence[int] = 224,
    interpolation: str = "bilinear",
    mean: float | Sequence[float] = IMAGENET_MEAN,
    std: float | Sequence[float] = IMAGENET_STD,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    *,
    exif: bool = False,
    tensors: bool = False,
    naflex: bool = False,
    **options: Any,
) -> Transform:
    """timm's evaluation transform: `create_transform(**resolve_data_config(model))`.

    input_size: H, (H, W) or (C, H, W), C 1 (grey) or 3. interpolation: nearest,
    bilinear, bicubic, box, hamming, lanczos. crop_pct: the part of the resized picture
    that is kept (default 0.875). crop_mode: center (short side resized, middle kept),
    squash (both sides resized, shape lost), border (long side resized, the rest filled
    with the mean colour). exif: apply the EXIF orientation (timm does not). tensors:
    give torch tensors, which is ImportError unless you have imported torch.

    naflex: pictures keep their shape and are resized to at most max_seq_len patches
    (576) of patch_size (16), as `SequenceTransform` says; patchify: give the patches,
    of pixels (rows, columns, channels), or with patchify_channels_last=False
    (channels, rows, columns), and not the image. Without naflex these have no effect,
    as in timm.

    options: timm's other arguments. Those of training are ignored, as timm does in
    evaluation. ValueError: is_training=True, and others that ask for another
    evaluation. TypeError: an unknown one.
    """
    for name, value in options.items():
        if name in _REFUSED:
            plain, instead = _REFUSED[name]
            if value is not None and value != plain:
                raise ValueError(
                    f"create_transform does not take {name}={value!r}: {instead}"
                )
        elif name not in _FOR_TRAINING and name not in _SEQUENCE:
            known = {*_FOR_TRAINING, *_REFUSED, *_SEQUENCE}
            known |= {"crop_pct", "crop_mode", "mean", "std", "naflex"}
            raise TypeError(f"unknown option {name!r}{did_you_mean(name, known)}")
    if naflex:
        from .sequence import sequence_transform

        asked = {k: v for k, v in options.items() if k in _SEQUENCE and v is not None}
        given = input_size, interpolation, mean, std, crop_pct, crop_mode, exif
        return sequence_transform(tensors, *given, **asked)
    if options.get("patchify"):
        raise ValueError(
            "create_transform does not take patchify=True: naflex=True with it cuts "
            "pictures into patches"
        )
    kind = Transform
    if tensors:
        imported_torch()
        kind = TensorTransform
    return kind(input_size, interpolation, mean, std, crop_pct, crop_mode, exif)
