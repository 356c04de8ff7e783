# SPDX-License-Identifier: Apache-2.0
"""The pictures of a comparison: drawn, given as arrays, or prepared from files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ... import _core
from ...transforms import image_name
from ...transforms.sources import sources_of
from ..seeded import noise
from .result import StageRow, measured
from .side import Array, Pair, Side

# How many pictures are drawn where none are given; a constant one comes after them.
_DRAWN = 2


class Pictures(NamedTuple):
    """What goes into each side, how it came to be, and what came apart on the way."""

    reference: Array
    candidate: Array
    words: str
    rows: tuple[StageRow, ...] = ()
    facts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    names: tuple[str, ...] = ()


def pictures_of(
    pair: Pair, images: Any, seed: int, tolerance: tuple[float, float]
) -> Pictures:
    """The pictures that a caller means for both sides; see `compare`.

    TypeError and ValueError: what is none, and other pictures than those of a record.
    """
    found = _pictures(pair, images, seed, tolerance)
    for side in pair:
        if side.images is not None and not np.array_equal(
            found.reference, side.images, equal_nan=True
        ):
            raise ValueError(f"{side.name} is a record, of other pictures than these")
    return found


def _pictures(
    pair: Pair, images: Any, seed: int, tolerance: tuple[float, float]
) -> Pictures:
    if images is None:
        for side in pair:
            if side.images is not None:
                return Pictures(side.images, side.images, f"those of {side.name}")
        size = pair.reference.input_size
        drawn = noise((_DRAWN, *size), seed)
        x = np.concatenate([drawn, np.ones((1, *size), np.float32)])
        return Pictures(x, x, f"{_DRAWN} of seed {seed} and a constant one, {size}")
    if _is_batch(images):
        x = _batch(images)
        return Pictures(x, x, f"{len(x)} given, {x.shape[1:]}")
    return _prepared(pair, _files(images), tolerance)


def input_of(side: Side, images: Any) -> Array:
    """The pictures that a caller means for one side: (B, C, H, W) as they are, files
    by its own preprocessing. TypeError and ValueError as `pictures_of`."""
    return named_input_of(side, images)[0]


def named_input_of(side: Side, images: Any) -> tuple[Array, tuple[str, ...]]:
    """The same, and what to call each picture: nothing where they are no files."""
    if _is_batch(images):
        return _batch(images), ()
    files = _files(images)
    return side.pixels(files)[0], _names(files)


def _names(files: Sequence[Any]) -> tuple[str, ...]:
    return tuple(map(image_name, files))


def _is_batch(images: Any) -> bool:
    """An array or a tensor of floats: what else there is are files."""
    return "float" in str(getattr(images, "dtype", "none"))


def _batch(images: Any) -> Array:
    x = _core.as_float32(images, "images")
    if x.ndim != 4 or not x.size:
        raise ValueError(f"images must be (B, C, H, W), not of shape {x.shape}")
    return x


def _files(images: Any) -> list[Any]:
    files = list(sources_of(images).pictures)
    if not files:
        raise ValueError("images must be at least one picture, not an empty list")
    return files


def _prepared(
    pair: Pair, files: Sequence[Any], tolerance: tuple[float, float]
) -> Pictures:
    """Files as each side prepares them, or as the one does that can."""
    count = f"{len(files)} file{'s' if len(files) > 1 else ''}"
    made: list[tuple[Array, dict[str, Any]]] = []
    notes = []
    for side in pair:
        try:
            made.append(side.pixels(files))
        except TypeError as error:
            notes.append(str(error))
    if not made:
        raise ValueError("; ".join(notes))
    if len(made) == 1:
        (x, _), [note] = made[0], notes
        words = f"{count}, prepared alike, since {note}"
        return Pictures(x, x, words, names=_names(files))
    (reference, facts), (candidate, others) = made
    rows = tuple(
        measured(image_name(file), ours, theirs, *tolerance)
        for file, ours, theirs in zip(files, reference, candidate, strict=True)
    )
    return Pictures(reference, candidate, count, rows, (facts, others), _names(files))
