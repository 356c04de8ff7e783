# SPDX-License-Identifier: Apache-2.0
"""One picture from wherever it is: a path, bytes, a PIL image, an array."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError


class ImageError(ValueError):
    """A picture could not be read or used; the message begins with its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def image_name(source: Any) -> str:
    """Say what a picture is in a message: its path, or its kind."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<{source.mode} image>"
    if isinstance(source, np.ndarray):
        return f"<array {source.shape}>"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    return f"<{type(source).__name__}>"


def _from_array(array: NDArray[Any]) -> Image.Image:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            "image array: a masked array, whose mask would be lost: fill it first, "
            "as by .filled(0)"
        )
    if array.dtype != np.uint8:
        raise TypeError(
            f"image array: dtype {array.dtype}, allowed is uint8 (for float input "
            "call the model on a normalised (B, C, H, W) array instead)"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ValueError(
            f"image array: shape {array.shape}, allowed are (H, W), (H, W, 1), "
            "(H, W, 3) and (H, W, 4)"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def load_image(source: Any, mode: str | None = "RGB", *, exif: bool = False) -> Any:
    """Open and decode one picture.

    source: path, bytes, PIL image or uint8 array (H, W[, 1|3|4]). mode: the Pillow
    mode to convert to, as Pillow converts (None leaves it). exif: turn the picture
    as its EXIF orientation says; timm does not, so neither does the default.

    Raises ImageError for what Pillow cannot read, FileNotFoundError and the like for
    a path that cannot be opened, TypeError for anything else.
    """
    if isinstance(source, np.ndarray):
        image = _from_array(source)
        return image if mode in (None, image.mode) else image.convert(mode)
    if isinstance(source, (bytes, bytearray, memoryview)):
        stream: Any = io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        stream = open(source, "rb")  # noqa: SIM115 - closed below, or by the caller
    elif isinstance(source, Image.Image):
        stream = None
    else:
        raise TypeError(
            f"image: {type(source).__name__}, allowed are a path, bytes, a PIL image "
            "and a uint8 array"
        )
    try:
        image = source if stream is None else Image.open(stream)
        if exif:
            image = ImageOps.exif_transpose(image)
        image.load()
        return image if mode in (None, image.mode) else image.convert(mode)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type there is
        if isinstance(error, UnidentifiedImageError):
            reason = "not a picture that Pillow can read"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(image_name(source), reason) from error
    finally:
        if stream is not None:
            stream.close()
