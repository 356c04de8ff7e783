# SPDX-License-Identifier: Apache-2.0
"""Whatever is given for "pictures", taken for what it is; and the package's samples."""

from __future__ import annotations

import glob
import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..text import natural_key
from .find import find_images
from .read import ImageError, image_name, reason_of, refuse_address

_ALLOWED = (
    "allowed are a folder, a path, bytes, a binary file, a PIL image, a uint8 array, "
    "and a list or an iterator of these but folders"
)


class Sources(NamedTuple):
    """What `sources_of` gives.

    pictures: a list where all are there at once, else an iterator that can be read
    once, and may be endless. one: was a single picture given, and no list of one?
    """

    pictures: list[Any] | Iterator[Any]
    one: bool


def sources_of(images: Any, what: str = "images") -> Sources:
    """The pictures that a caller means, each as `load_image` takes it.

    images: one picture (a path, bytes, an open binary file, a PIL image, a uint8 array
    (H, W[, 1|3|4])); a folder, for the pictures in it as `find_images` lists them; a
    pattern such as 'photos/*.jpg', for the files that fit, in natural order; a uint8
    array (N, H, W, C); a list, a tuple, an array or a column of a table, or whatever
    else can be iterated, of pictures. what: the argument's name in an error.

    No picture is opened, and of an iterator none is asked for. FileNotFoundError: a
    path or pattern of nothing, a folder without pictures; other OSErrors for a path
    that cannot be looked at. ImageError: an address, as of the web. TypeError: a dict,
    a set, a table, a tensor, an array that is not of uint8, and anything else.
    ValueError: an array of another shape.
    """
    if isinstance(images, (str, os.PathLike)):
        return _at_path(images)
    file = hasattr(images, "read")
    if file or isinstance(images, (bytes, bytearray, memoryview, Image.Image)):
        return Sources([images], True)
    if isinstance(images, np.ndarray):
        return _in_array(images, what)
    if isinstance(images, (list, tuple)):
        return Sources(list(images), False)
    _refuse_others(images, what)
    if hasattr(images, "to_pylist"):  # pyarrow's columns, whose items are no str
        return Sources(images.to_pylist(), False)
    return Sources(iter(images), False)


def _at_path(path: str | os.PathLike[str]) -> Sources:
    refuse_address(path)
    name = os.fsdecode(path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not glob.has_magic(name):
            raise
        return Sources(_matches(name), False)
    except ValueError as error:  # a NUL, or a character that no name has
        raise ImageError(image_name(path), reason_of(error)) from error
    if not stat.S_ISDIR(mode):
        return Sources([path], True)
    found = find_images(name)
    first = next(found, None)
    if first is None:
        raise FileNotFoundError(f"{name}: no pictures in this folder")
    return Sources(itertools.chain([first], found), False)


def _matches(pattern: str) -> list[str]:
    files = [f for f in glob.glob(pattern, recursive=True) if not os.path.isdir(f)]
    if not files:
        raise FileNotFoundError(f"{pattern}: no file fits this pattern")
    return sorted(files, key=lambda name: (natural_key(name), name))


def _in_array(array: np.ndarray[Any, Any], what: str) -> Sources:
    if array.dtype.kind in "OU":  # paths, or pictures of several sizes
        if array.ndim != 1:
            raise ValueError(f"{what}: shape {array.shape}, allowed of paths is (N,)")
        return Sources(array.tolist(), False)
    if array.dtype != np.uint8:
        raise TypeError(
            f"{what}: an array of {array.dtype}, allowed of pixels is uint8; what is "
            "normalised already, (B, C, H, W), is the model's own input: model(x)"
        )
    if array.ndim not in (2, 3, 4):
        raise ValueError(
            f"{what}: shape {array.shape}, allowed are (H, W), (H, W, C) and "
            "(N, H, W, C)"
        )
    return Sources(list(array), False) if array.ndim == 4 else Sources([array], True)


def _refuse_others(images: Any, what: str) -> None:
    """TypeError for what can be iterated and gives no pictures, or in no order."""
    kind = type(images).__name__
    if getattr(images, "ndim", 1) != 1 and not hasattr(images, "columns"):
        raise TypeError(
            f"{what}: {kind}; a tensor is the model's own input: model(x). Pixels come "
            "as a NumPy array of uint8, (H, W, C) or (N, H, W, C)"
        )
    if hasattr(images, "columns") or hasattr(images, "column_names"):
        raise TypeError(f"{what}: {kind}; of a table give one column, as table['path']")
    if isinstance(images, Mapping):
        raise TypeError(f"{what}: {kind}, {_ALLOWED}; list(d.values()) has its values")
    if isinstance(images, Set):
        raise TypeError(f"{what}: {kind}, which has no order: give sorted(...)")
    if not isinstance(images, Iterable):
        raise TypeError(f"{what}: {kind}, {_ALLOWED}")


def samples() -> list[Path]:
    """The sample pictures in the package: ten scanned digits, 0 to 9, for `vit_digits`.

    >>> vitpool.create_model("vit_digits", pretrained=True).classify(vitpool.samples())
    """
    folder = Path(__file__).parents[1] / "models" / "vit_digits" / "samples"
    return [Path(path) for path in find_images(folder)]
