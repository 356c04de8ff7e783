# SPDX-License-Identifier: Apache-2.0
"""Pictures of any shape as patches, so many at most: timm's NaFlex evaluation.

A picture keeps its shape. It is resized until its patches would be too many, and cut
into them; a batch is padded to its longest sample. Up to the normalisation the pixels
are byte for byte those of timm with torchvision.

Source: timm.data.naflex_transforms (get_image_size_for_seq, ResizeToSequence,
patchify_image) and timm.data.naflex_dataset.NaFlexCollator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..config import as_int, as_pair
from .config import IMAGENET_MEAN, IMAGENET_STD
from .read import ImageError, image_name, load_image
from .transform import (
    INTERPOLATIONS,
    MAX_RESIZED_PIXELS,
    Transform,
    imported_torch,
)

#: timm's: 24 x 24 patches.
MAX_SEQ_LEN = 576
# The scales among which one is searched, and how closely.
_LARGEST_RATIO, _CLOSE = 100.0, 1e-5


class Patches(TypedDict):
    """A batch for NaFlexVit."""

    patches: NDArray[np.float32]  # (B, N, pixels), zeros where there is none
    patch_coord: NDArray[np.int64]  # (B, N, 2), (y, x)
    patch_valid: NDArray[np.bool_]  # (B, N)


def get_image_size_for_seq(
    image_hw: tuple[int, int],
    patch_size: int | tuple[int, int] = 16,
    max_seq_len: int = 1024,
    divisible_by_patch: bool = True,
    max_ratio: float | None = None,
    eps: float = _CLOSE,
) -> tuple[float, tuple[int, int]]:
    """The largest scale at which a picture has no more than max_seq_len patches, and
    its height and width at that scale: timm's function of this name.

    image_hw: height and width of the picture in pixels. divisible_by_patch: sizes are
    rounded up to whole patches. max_ratio: no larger scale. eps: how closely the scale
    is searched. ValueError: no scale, or no size.
    """
    height, width = as_pair(image_hw, "image_hw")
    patch = as_pair(patch_size, "patch_size")
    most = as_int(max_seq_len, "max_seq_len", 1)

    def at(ratio: float) -> tuple[int, int]:
        sides = []
        for side, own in ((height * ratio, patch[0]), (width * ratio, patch[1])):
            whole = own * math.ceil(side / own) if divisible_by_patch else side
            sides.append(int(max(whole, own)))
        return sides[0], sides[1]

    low, high = eps / 10.0, _LARGEST_RATIO
    while high - low >= eps:
        middle = (low + high) / 2.0
        rows, columns = (
            side // own for side, own in zip(at(middle), patch, strict=True)
        )
        if rows * columns <= most:
            low = middle
        else:
            high = middle
    ratio = low if max_ratio is None else min(low, max_ratio)
    if ratio <= eps:
        raise ValueError(
            f"a picture of {width}x{height} pixels cannot be scaled down to "
            f"{most} patches of {patch[1]}x{patch[0]}"
        )
    return ratio, at(ratio)


def patchify(
    images: Any,
    patch_size: int | tuple[int, int] = 16,
    channels_last: bool = True,
) -> Patches:
    """Images as one batch of patches, padded to the longest sample.

    images: a list of (channels, height, width) float arrays of any heights and widths,
    or one array (B, channels, height, width). An image that patches do not fill is
    filled up with zeros, below and on the right. channels_last: the pixels of a patch
    are (rows, columns, channels), else (channels, rows, columns).

    ValueError: no image, another shape, or channels that differ.
    """
    size = as_pair(patch_size, "patch_size")
    arrays = [_core.as_float32(image, "an image") for image in images]
    if not arrays:
        raise ValueError("images must be at least one image")
    channels = arrays[0].shape[0] if arrays[0].ndim else 0
    for array in arrays:
        if array.ndim != 3 or array.shape[0] != channels or 0 in array.shape:
            raise ValueError(
                f"images must have shape ({channels or 'channels'}, height, width), "
                f"not {array.shape}"
            )
    grids = [_grid(array.shape[1:], size) for array in arrays]
    longest = max(rows * columns for rows, columns in grids)
    shape = len(arrays), longest
    batch: Patches = {
        "patches": np.zeros((*shape, size[0] * size[1] * channels), np.float32),
        "patch_coord": np.zeros((*shape, 2), np.int64),
        "patch_valid": np.zeros(shape, bool),
    }
    for i, (array, grid) in enumerate(zip(arrays, grids, strict=True)):
        count = grid[0] * grid[1]
        batch["patches"][i, :count] = _cut(array, size, grid, channels_last)
        batch["patch_coord"][i, :count] = np.indices(grid).reshape(2, count).T
        batch["patch_valid"][i, :count] = True
    return batch


def _grid(size: Sequence[int], patch: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // patch[0]), -(-size[1] // patch[1])


def _cut(
    image: NDArray[np.float32],
    patch: tuple[int, int],
    grid: tuple[int, int],
    channels_last: bool,
) -> NDArray[np.float32]:
    """The patches (N, pixels) of an image (channels, height, width), line by line."""
    full = grid[0] * patch[0], grid[1] * patch[1]
    if image.shape[1:] != full:
        whole = np.zeros((len(image), *full), np.float32)
        whole[:, : image.shape[1], : image.shape[2]] = image
        image = whole
    parts = image.reshape(len(image), grid[0], patch[0], grid[1], patch[1])
    axes = (1, 3, 2, 4, 0) if channels_last else (1, 3, 0, 2, 4)
    return parts.transpose(axes).reshape(grid[0] * grid[1], -1)


class SequenceTransform(Transform):
    """One picture to as many patches as fit; made by `create_transform(naflex=True)`.

    `transform(picture)` gives a dict of patches (N, pixels), patch_coord and
    patch_valid, or without `patchify` the image, float32 (C, H, W); `transform.pixels`
    and `transform.image` what they give in a `Transform`, of a size that depends on the
    picture. Neither crop_pct nor crop_mode counts.
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
        *,
        patch_size: int | tuple[int, int] = 16,
        max_seq_len: int = MAX_SEQ_LEN,
        patchify: bool = True,
        channels_last: bool = True,
    ) -> None:
        super().__init__(
            input_size, interpolation, mean, std, crop_pct, crop_mode, exif
        )
        self.patch_size = as_pair(patch_size, "patch_size")
        self.max_seq_len = as_int(max_seq_len, "max_seq_len", 1)
        area = self.patch_size[0] * self.patch_size[1]
        if self.max_seq_len * area > MAX_RESIZED_PIXELS:
            raise ValueError(
                f"max_seq_len: {max_seq_len} patches are more than "
                f"{MAX_RESIZED_PIXELS} pixels"
            )
        self.patchify = patchify
        self.channels_last = channels_last

    @property
    def options(self) -> dict[str, Any]:
        """What `create_transform` makes the same transform of."""
        return super().options | {
            "naflex": True,
            "patch_size": self.patch_size,
            "max_seq_len": self.max_seq_len,
            "patchify": self.patchify,
            "patchify_channels_last": self.channels_last,
        }

    def image(self, picture: Any) -> Any:
        """Decode, convert and resize; returns a PIL image."""
        image = load_image(picture, self.mode, exif=self.exif)
        wide, high = image.size
        if not (wide and high):
            raise ImageError(image_name(picture), f"empty: {wide}x{high} pixels")
        try:
            _, new = get_image_size_for_seq(
                (high, wide), self.patch_size, self.max_seq_len
            )
        except ValueError as error:
            raise ImageError(image_name(picture), str(error)) from None
        if new != (high, wide):
            image = image.resize((new[1], new[0]), INTERPOLATIONS[self.interpolation])
        return image

    def pixels(self, picture: Any) -> NDArray[np.uint8]:
        """Decode, convert and resize; returns uint8 (H, W, C)."""
        image = self.image(picture)
        pixels: NDArray[np.uint8] = np.asarray(image)
        return pixels.reshape(image.size[1], image.size[0], self.channels)

    def batch(self, pixels: Sequence[NDArray[np.uint8]]) -> Any:
        """Normalise pictures uint8 (H, W, C) to a padded dict of patches."""
        images = [self.normalize(image) for image in pixels]
        if images:
            return patchify(images, self.patch_size, self.channels_last)
        size = self.patch_size[0] * self.patch_size[1] * self.channels
        return {
            "patches": np.zeros((0, 1, size), np.float32),
            "patch_coord": np.zeros((0, 1, 2), np.int64),
            "patch_valid": np.zeros((0, 1), bool),
        }

    def __call__(self, picture: Any) -> Any:
        """Decode, convert, resize, normalise and cut."""
        image = self.normalize(self.pixels(picture))
        if not self.patchify:
            return image
        whole: Any = patchify([image], self.patch_size, self.channels_last)
        return {name: array[0] for name, array in whole.items()}


class TensorSequenceTransform(SequenceTransform):
    """A `SequenceTransform` whose call gives torch tensors."""

    def __call__(self, picture: Any) -> Any:
        """Decode, convert, resize, normalise and cut; float32 tensors."""
        made, torch = super().__call__(picture), imported_torch()
        if isinstance(made, dict):
            return {name: torch.from_numpy(array) for name, array in made.items()}
        return torch.from_numpy(made)


def sequence_transform(
    tensors: bool, *given: Any, patchify_channels_last: bool = True, **asked: Any
) -> SequenceTransform:
    """What `create_transform` makes with naflex; patchify is False there, as timm's."""
    asked.setdefault("patchify", False)
    kind = SequenceTransform
    if tensors:
        imported_torch()
        kind = TensorSequenceTransform
    return kind(*given, channels_last=patchify_channels_last, **asked)
