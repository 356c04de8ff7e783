# SPDX-License-Identifier: Apache-2.0
"""Embeddings for another image or patch size: kept for each call, or made for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import _core
from ..resample import resample_abs_pos_embed, resample_patch_embed
from .parts import Float32

# Resampled position embeddings kept, one for each size of image.
_MOST_GRIDS = 16


def prefix_tokens(options: Mapping[str, Any]) -> int:
    """Class and register tokens of a model with these options."""
    return int(options["class_token"]) + int(options["reg_tokens"])


def pos_embed_for(
    cache: dict[tuple[int, tuple[int, int]], Float32],
    now: _core.VisionTransformer,
    x: Any,
) -> Float32 | None:
    """The position embedding of a snapshot on x's grid; None: the snapshot's own.

    cache: what was resampled before, by serial and grid.
    """
    options = now._options()
    if len(x.shape) != 4 or not options["pos_embed"]:
        return None
    grid = now._grid(int(x.shape[2]), int(x.shape[3]))
    old_grid = _grid(options)
    if grid == old_grid:
        return None
    key = (now._serial, grid)
    resampled = cache.get(key)
    if resampled is None:
        resampled = _resampled(now, options, grid, old_grid)
        # Other threads do this too: nothing that one of them drops is used again.
        kept = [k for k in list(cache) if k[0] == key[0]]
        for old in set(cache) - set(kept[1 - _MOST_GRIDS :]):
            cache.pop(old, None)
        cache[key] = resampled
    return resampled


def resized_weights(
    before: _core.VisionTransformer, options: Mapping[str, Any]
) -> dict[str, Float32]:
    """The embeddings that the sizes of `options` need and before's do not fit."""
    old = before._options()
    weights: dict[str, Float32] = {}
    if options["patch_size"] != old["patch_size"]:
        weights["patch_embed.proj.weight"] = resample_patch_embed(
            before.get_parameter("patch_embed.proj.weight"), options["patch_size"]
        )
    grid, old_grid = _grid(options), _grid(old)
    if options["pos_embed"] and grid != old_grid:
        weights["pos_embed"] = _resampled(before, options, grid, old_grid)
    return weights


def _resampled(
    model: _core.VisionTransformer,
    options: Mapping[str, Any],
    grid: tuple[int, int],
    old_grid: tuple[int, int],
) -> Float32:
    return resample_abs_pos_embed(
        model.get_parameter("pos_embed"),
        new_size=grid,
        old_size=old_grid,
        num_prefix_tokens=0 if options["no_embed_class"] else prefix_tokens(options),
    )


def _grid(options: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, columns) of patches; ValueError where the image is less than a patch."""
    (h, w), (ph, pw) = options["img_size"], options["patch_size"]
    grid = (h // ph, w // pw)
    if min(grid) < 1:
        raise ValueError(f"img_size {(h, w)} must be at least patch_size {(ph, pw)}")
    return grid
