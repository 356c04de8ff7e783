# SPDX-License-Identifier: Apache-2.0
"""One picture from wherever it is: a path, bytes, a file, a PIL image, an array."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

HEIF_SUFFIXES = (".heic", ".heif")


@functools.cache
def reads_heif() -> bool:
    """Whether Pillow reads HEIC: by the package pillow-heif, once it is registered."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


class ImageError(ValueError):
    """A picture could not be read or used; the message begins with its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class ImageWarning(UserWarning):
    """Pictures could not be read, and the caller wanted the others all the same."""


def reason_of(error: BaseException) -> str:
    """Why a picture could not be read, in one line without its name."""
    if isinstance(error, ImageError):
        return error.reason
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can read"
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def image_name(source: Any) -> str:
    """Say what a picture is in a message: its path, or its kind."""
    if hasattr(source, "read") and isinstance(getattr(source, "name", None), str):
        return str(source.name)
    if isinstance(source, (str, os.PathLike)):
        with contextlib.suppress(Exception):  # of a __fspath__ that fails
            return os.fsdecode(source)
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<{source.mode} image>"
    if isinstance(source, np.ndarray):
        return f"<array {source.shape}>"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    return f"<{type(source).__name__}>"


# Two letters or more: the C of C:\\ is a drive.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)


def refuse_address(source: Any) -> None:
    """ImageError for what begins as an address does and names no file."""
    name = image_name(source)
    if _ADDRESS.match(name) and not os.path.exists(name):
        raise ImageError(
            name if len(name) <= 120 else f"{name[:120]}...",
            "an address, and nothing is downloaded here: fetch it first, and give its "
            "bytes or a path",
        )


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


# 0 on Windows, whose pipes have no writer that may come later.
_NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)


def _open(path: Any) -> Any:
    """A file to read; of a pipe the content, for Pillow goes back and forth in it.

    To open a pipe that nobody writes to would wait for ever: that is an error.
    """
    file = open(  # noqa: SIM115 - the caller's to close
        path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK)
    )
    if file.seekable():
        return file
    if not _NONBLOCK:
        with file:
            return io.BytesIO(file.read())
    with file:
        try:
            first = os.read(file.fileno(), 1)
        except BlockingIOError:  # somebody will write
            first = None
        if first == b"":
            raise ImageError(image_name(path), "a pipe that nobody writes to")
        os.set_blocking(file.fileno(), True)
        return io.BytesIO((first or b"") + file.read())


def load_image(source: Any, mode: str | None = "RGB", *, exif: bool = False) -> Any:
    """Open and decode one picture.

    source: path, bytes, open binary file, PIL image or uint8 array (H, W[, 1|3|4]).
    mode: the Pillow mode to convert to, as Pillow converts (None leaves it). exif: turn
    the picture as its EXIF orientation says; timm does not, so neither does the
    default. A picture of several frames is its first one, a PIL image the frame it is
    at.

    Raises ImageError for what Pillow cannot read and for an address, FileNotFoundError
    and the like for a path that cannot be opened, TypeError for anything else.
    """
    if isinstance(source, np.ndarray):
        image = _from_array(source)
        return image if mode in (None, image.mode) else image.convert(mode)
    own: Any = None  # a file that is ours to close
    heif = False  # whether the decoder for its suffix is not there
    if isinstance(source, (bytes, bytearray, memoryview)):
        own = io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        refuse_address(source)
        heif = os.fsdecode(source).lower().endswith(HEIF_SUFFIXES) and not reads_heif()
        try:
            own = _open(source)
        except ValueError as error:  # a NUL, or a character that no name has
            raise ImageError(image_name(source), reason_of(error)) from error
    elif not isinstance(source, Image.Image) and not hasattr(source, "read"):
        raise TypeError(
            f"image: {type(source).__name__}, allowed are a path, bytes, a binary "
            "file, a PIL image and a uint8 array"
        )
    elif isinstance(source, io.TextIOBase):
        raise TypeError(f"{image_name(source)}: opened as text; open it as 'rb'")
    try:
        opened = isinstance(source, Image.Image)
        image = source if opened else Image.open(own or source)
        if exif:
            image = ImageOps.exif_transpose(image)
        image.load()
        return image if mode in (None, image.mode) else image.convert(mode)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type there is
        if heif and isinstance(error, UnidentifiedImageError):
            reason = "no decoder: pip install pillow-heif"
            raise ImageError(image_name(source), reason) from error
        raise ImageError(image_name(source), reason_of(error)) from error
    finally:
        if own is not None:
            own.close()
