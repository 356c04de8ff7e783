# SPDX-License-Identifier: Apache-2.0
"""Batches of cut patches for the tests of NaFlexVit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from golden import recipe

Grid = tuple[int, int]


def cut(images: np.ndarray, patch: Grid, channels_last: bool = True) -> np.ndarray:
    """(B, channels, H, W) as patches (B, N, pixels), line by line."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch[0], width // patch[1]
    parts = images.reshape(batch, channels, rows, patch[0], columns, patch[1])
    axes = (0, 2, 4, 3, 5, 1) if channels_last else (0, 2, 4, 1, 3, 5)
    return parts.transpose(axes).reshape(batch, rows * columns, -1)


def places(grid: Grid) -> np.ndarray:
    """(N, 2), (y, x) of each patch of a grid, line by line."""
    y, x = np.indices(grid)
    return np.stack([y.ravel(), x.ravel()], 1)


def batch(
    grids: Sequence[Grid],
    pixels: int,
    length: int = 0,
    seed: Any = 0,
    keep: float = 1.0,
) -> dict[str, np.ndarray]:
    """timm's dict of one sample a grid, padded to `length` or to the largest.

    What stands in rows of padding is no zero: nothing of it may count. keep: the part
    of a sample's patches that stay; the others are dropped, but never the last one, so
    that the coordinates still span the grid.
    """
    kept = []
    for number, grid in enumerate(grids):
        coord = places(grid)
        order = np.argsort(recipe.uniform((len(coord),), f"{number} of {seed}"))
        count = max(1, round(keep * len(coord)))
        chosen = set(order[:count].tolist()) | {len(coord) - 1}
        kept.append(coord[sorted(chosen)])
    length = length or max(map(len, kept))
    shape = len(grids), length, pixels
    patches = recipe.uniform(shape, f"patches {seed}").astype(np.float32)
    coord = np.zeros((len(grids), length, 2), np.int64)
    valid = np.zeros((len(grids), length), bool)
    for number, own in enumerate(kept):
        coord[number, : len(own)] = own
        valid[number, : len(own)] = True
    return {"patches": patches, "patch_coord": coord, "patch_valid": valid}
