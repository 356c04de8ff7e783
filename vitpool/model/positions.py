# SPDX-License-Identifier: Apache-2.0
"""Embeddings resampled for another image or patch size: for a call, or for good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import _core
from ..resample import resample_abs_pos_embed, resample_patch_embed
from .parts import Float32, grid_of, prefix_tokens_of

# How many resampled position embeddings are kept, one for each size of image.
_MOST_GRIDS = 16

# By (the model's serial, grid).
Kept = dict[tuple[int, tuple[int, int]], Float32]


def pos_embed_for(
    now: _core.VisionTransformer, x: Float32, kept: Kept
) -> Float32 | None:
    """The position embedding on the grid of images x; None: the model's own, or none.

    kept: embeddings made before. Those of other states of the model are dropped.
    """
    options = now._options()
    if x.ndim != 4 or not options["pos_embed"]:
        return None
    grid = now._grid(x.shape[2], x.shape[3])
    if grid == grid_of(options):
        return None
    serial = now._serial
    resampled = kept.get((serial, grid))
    if resampled is None:
        resampled = _resampled(now, grid)
        # Other threads change the dict at the same time: pop without an error.
        own = [key for key in list(kept) if key[0] == serial]
        for key in set(kept) - set(own[1 - _MOST_GRIDS :]):
            kept.pop(key, None)
        kept[serial, grid] = resampled
    return resampled


def with_positions(now: _core.VisionTransformer, x: Any) -> Float32:
    """Tokens (B, N, C) of patches (B, patches, C), or (B, rows, columns, C) with
    dynamic_img_size: prefix tokens before them, the position embedding added.

    ValueError: another shape, or a grid that is not the model's. Source:
    timm.models.VisionTransformer._pos_embed.
    """
    options = now._options()
    patches = _core.as_float32(x, "x")
    own, width = grid_of(options), options["embed_dim"]
    dynamic = options["dynamic_img_size"]
    axes = (
        f"(B, rows, columns, {width})"
        if dynamic
        else f"(B, {own[0] * own[1]}, {width})"
    )
    grid = patches.shape[1:-1] if dynamic else own
    rows = math.prod(grid)
    if patches.ndim != (4 if dynamic else 3) or (
        patches.shape[-1] != width or patches.size != len(patches) * rows * width
    ):
        raise ValueError(f"x must have shape {axes}, not {patches.shape}")
    patches = patches.reshape(len(patches), rows, width)
    names = [n for n in ("cls_token", "reg_token") if n in now.param_shapes()]
    prefix = [np.repeat(now.get_parameter(n), len(patches), 0) for n in names]
    if not options["pos_embed"]:
        return np.concatenate([*prefix, patches], 1)
    positions = now.get_parameter("pos_embed")
    if grid != own:
        positions = _resampled(now, grid)
    if options["no_embed_class"]:
        return np.concatenate([*prefix, patches + positions], 1)
    return np.concatenate([*prefix, patches], 1) + positions


def resized_weights(
    now: _core.VisionTransformer, options: Mapping[str, Any]
) -> dict[str, Float32]:
    """The embeddings that a model needs for the sizes in `options`, where not its own.

    ValueError where the image is smaller than a patch.
    """
    weights: dict[str, Float32] = {}
    old, grid = now._options(), grid_of(options)
    if min(grid) < 1:
        raise ValueError(
            f"img_size {options['img_size']} must be at least patch_size "
            f"{options['patch_size']}"
        )
    if options["patch_size"] != old["patch_size"]:
        weights["patch_embed.proj.weight"] = resample_patch_embed(
            now.get_parameter("patch_embed.proj.weight"), options["patch_size"]
        )
    if options["pos_embed"] and grid != grid_of(old):
        weights["pos_embed"] = _resampled(now, grid)
    return weights


def _resampled(now: _core.VisionTransformer, grid: tuple[int, int]) -> Float32:
    """A model's own position embedding on another grid."""
    options = now._options()
    return resample_abs_pos_embed(
        now.get_parameter("pos_embed"),
        new_size=grid,
        old_size=grid_of(options),
        num_prefix_tokens=0 if options["no_embed_class"] else prefix_tokens_of(options),
    )
