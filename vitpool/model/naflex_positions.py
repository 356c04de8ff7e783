# SPDX-License-Identifier: Apache-2.0
"""NaFlexVit's positions: a table, resampled for each grid of patches.

Source: timm.models.naflexvit.NaFlexEmbeds, _apply_learned_pos_embed,
_apply_factorized_pos_embed and what they are for a batch of patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..resample import (
    DoubleArray,
    axis_weights,
    resample_grid,
    resample_patch_embed,
)
from .parts import Float32, grid_of

Grid = tuple[int, int]


def positions_on(now: _core.VisionTransformer, grid: Grid, cut: bool) -> Float32:
    """The positions (1, rows * columns, C) of every patch of a grid.

    cut: of patches that the caller has cut, for which pos_embed_use_grid_sample counts:
    torch's grid_sample, which is a resize without antialiasing.
    """
    options = now._options()
    table = _table(now, options)
    if isinstance(table, tuple):
        rows, columns = _lines(table, options, grid)
        full = rows[:, None] + columns[None]
    elif grid == grid_of(options):
        full = table
    else:
        size = _square(options, grid)
        full = resample_grid(table, size, *_how(options, cut))[: grid[0], : grid[1]]
    return np.ascontiguousarray(full.reshape(1, grid[0] * grid[1], -1))


def positions_at(
    now: _core.VisionTransformer, grid: Grid, coord: NDArray[np.intp]
) -> Float32:
    """The positions (1, n, C) of patches at coord (n, 2), some of a grid's: those that
    they have among all patches of the grid."""
    options = now._options()
    table = _table(now, options)
    if isinstance(table, tuple):
        rows, columns = _lines(table, options, grid)
        return (rows[coord[:, 0]] + columns[coord[:, 1]])[None]
    if grid == grid_of(options):
        return table[coord[:, 0], coord[:, 1]][None]
    size, how = _square(options, grid), _how(options, True)
    rows_of, columns_of = (
        axis_weights(old, new, *how)
        for old, new in zip(grid_of(options), size, strict=True)
    )
    out = np.empty((1, len(coord), table.shape[2]), np.float32)
    for y in np.unique(coord[:, 0]):  # a line of the grid, of which a few are read
        here = coord[:, 0] == y
        line = np.tensordot(rows_of[y], table, axes=(0, 0))
        out[0, here] = np.matmul(columns_of[coord[here, 1]], line)
    return out


def resized(
    now: _core.VisionTransformer, options: Mapping[str, Any]
) -> dict[str, Float32]:
    """The embeddings that a NaFlexVit needs for the sizes in `options`, where they are
    not its own."""
    weights: dict[str, Float32] = {}
    old, grid = now._options(), grid_of(options)
    if options["patch_size"] != old["patch_size"]:
        weights["embeds.proj.weight"] = _embedding(now, options["patch_size"])
    if options["pos_embed"] and grid != grid_of(old):
        table = _table(now, old)
        if isinstance(table, tuple):
            rows, columns = _lines(table, old, grid)
            weights["embeds.pos_embed_y"] = rows[None]
            weights["embeds.pos_embed_x"] = columns[None]
        else:
            shape = (1, *grid, table.shape[2])
            weights["embeds.pos_embed"] = positions_on(now, grid, False).reshape(shape)
    return weights


def of_patch_size(now: _core.VisionTransformer, size: Grid) -> _core.VisionTransformer:
    """A model of the same weights, whose patch embedding is resampled for patches of
    another size in pixels."""
    options = now._options()
    rows, columns = grid_of(options)
    options["patch_size"] = size
    options["img_size"] = (rows * size[0], columns * size[1])
    other = now._snapshot()
    other._replace(options, resized(now, options))
    return other


def _embedding(now: _core.VisionTransformer, size: Grid) -> Float32:
    """The patch embedding's weight, resampled. Source: timm.layers.
    PatchEmbedInterpolator."""
    options = now._options()
    how = size, options["pos_interp"]
    weight = now.get_parameter("embeds.proj.weight")
    if not options["embed_linear"]:
        return resample_patch_embed(weight, *how)
    last, channels = options["patchify_channels_last"], options["in_chans"]
    height, width = options["patch_size"]
    if last:
        kernel = weight.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    else:
        kernel = weight.reshape(-1, channels, height, width)
    kernel = resample_patch_embed(kernel, *how)
    kernel = kernel.transpose(0, 2, 3, 1) if last else kernel
    return np.ascontiguousarray(kernel.reshape(len(weight), -1))


def _table(
    now: _core.VisionTransformer, options: Mapping[str, Any]
) -> Float32 | tuple[Float32, Float32]:
    """(rows, columns, C), or the factorized tables of both, (rows, C), (columns, C)."""
    if options["pos_kind"] == "factorized":
        names = "embeds.pos_embed_y", "embeds.pos_embed_x"
        rows, columns = (now.get_parameter(name)[0] for name in names)
        return rows, columns
    table: Float32 = now.get_parameter("embeds.pos_embed")[0]
    return table


def _square(options: Mapping[str, Any], grid: Grid) -> Grid:
    """What a table is resized to, before it is cut to the grid."""
    return (max(grid),) * 2 if options["pos_ar_preserving"] else grid


def _how(options: Mapping[str, Any], cut: bool) -> tuple[str, bool, bool]:
    antialias = options["pos_antialias"] and not (cut and options["pos_grid_sample"])
    return options["pos_interp"], antialias, options["pos_align_corners"]


def _lines(
    tables: tuple[Float32, Float32], options: Mapping[str, Any], grid: Grid
) -> tuple[Float32, Float32]:
    """Both factorized tables, as long as the grid's sides."""
    rows, columns = (
        _line(table, size)[:length]
        for table, size, length in zip(
            tables, _square(options, grid), grid, strict=True
        )
    )
    return rows, columns


def _line(table: Float32, size: int) -> Float32:
    """torch's interpolate(mode='linear') of (n, C) to (size, C)."""
    if len(table) == size:
        return table
    weights: DoubleArray = axis_weights(len(table), size, "bilinear", False)
    made: Float32 = np.matmul(weights, table).astype(np.float32)
    return made
