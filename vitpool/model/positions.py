# SPDX-License-Identifier: Apache-2.0
"""Embeddings resampled for another image or patch size: for a call, or for good."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from .. import _core
from ..config import as_pair
from ..resample import (
    pos_embed_gradient,
    resample_abs_pos_embed,
    resample_patch_embed,
)
from ..resample_rel_pos import resize_rel_pos_bias_table
from .naflex_positions import positions_on, resized
from .parts import Float32, grid_of, prefix_tokens_of

# How many resampled position embeddings are kept, one for each size of image.
_MOST_GRIDS = 16

# By (the model's serial, grid or what it is with its grid).
Kept = dict[tuple[int, Any], Any]

T = TypeVar("T")


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
    if grid == grid_of(options) and options["pos_kind"] != "factorized":
        return None
    return kept_or_made(kept, now, grid, lambda: _resampled(now, grid))


def rope_for(now: _core.VisionTransformer, x: Float32, kept: Kept) -> Float32 | None:
    """The rotary table on the grid of images x; None: the model's own, or none.

    kept: as `pos_embed_for` has it.
    """
    if x.ndim != 4 or now._options()["rope"] == "none":
        return None
    return rope_on(now, now._grid(x.shape[2], x.shape[3]), kept)


def rope_of_tokens(
    now: _core.VisionTransformer, x: Float32, grid: Any, kept: Kept
) -> Float32 | None:
    """The rotary table of tokens x (B, N, C) on a grid of rows and columns of patches,
    None for the model's own; None where there is none or it is the model's.

    ValueError: another number of tokens than the grid has.
    """
    options = now._options()
    rows, columns = grid_of(options) if grid is None else as_pair(grid, "grid")
    prefix = prefix_tokens_of(options)
    wanted = prefix + rows * columns
    roped = options["rope"] != "none"
    if x.ndim == 3 and x.shape[1] != wanted and (roped or grid is not None):
        raise ValueError(
            f"x must have {wanted} tokens an image, {prefix} and {rows} x {columns} "
            f"patches, not {x.shape[1]}: grid says how many rows and columns there are"
        )
    return rope_on(now, (rows, columns), kept) if roped else None


def rope_on(
    now: _core.VisionTransformer, grid: tuple[int, int], kept: Kept
) -> Float32 | None:
    """The rotary table of rows and columns of patches; None: it is the model's own."""
    if grid == grid_of(now._options()):
        return None
    return kept_or_made(kept, now, ("rope", grid), lambda: now._rope(*grid))


def kept_or_made(
    kept: Kept, now: _core.VisionTransformer, key: Any, make: Callable[[], T]
) -> T:
    """What was made of this state of the model for this key, or is made now."""
    serial = now._serial
    made: T | None = kept.get((serial, key))
    if made is None:
        made = make()
        # Other threads change the dict at the same time: pop without an error.
        own = [other for other in list(kept) if other[0] == serial]
        for other in set(kept) - set(own[1 - _MOST_GRIDS :]):
            kept.pop(other, None)
        kept[serial, key] = made
    return made


def positions_gradient(
    now: _core.VisionTransformer, gradient: Float32, size: tuple[int, int]
) -> Float32:
    """A gradient by `pos_embed_for` of such images as one by the model's own."""
    options = now._options()
    return pos_embed_gradient(
        gradient,
        now._grid(*size),
        grid_of(options),
        0 if options["no_embed_class"] else prefix_tokens_of(options),
    )


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
    tokens = ("cls_token", "dist_token", "reg_token")
    names = [n for n in tokens if n in now.param_shapes()]
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
    """Embeddings and tables that a model needs for sizes in `options` that are not its.

    ValueError where the image is smaller than a patch.
    """
    weights: dict[str, Float32] = {}
    old, grid = now._options(), grid_of(options)
    if min(grid) < 1:
        raise ValueError(
            f"img_size {options['img_size']} must be at least patch_size "
            f"{options['patch_size']}"
        )
    if options["family"] == "NaFlexVit":
        return resized(now, options)
    if options["patch_size"] != old["patch_size"]:
        if options["embed_layer"] == "ConvStem":
            raise ValueError(
                f"patch_size must be {old['patch_size']} with embed_layer='ConvStem', "
                f"its strides, not {options['patch_size']}"
            )
        weights["patch_embed.proj.weight"] = resample_patch_embed(
            now.get_parameter("patch_embed.proj.weight"), options["patch_size"]
        )
    if grid == grid_of(old):
        return weights
    if options["pos_embed"]:
        weights["pos_embed"] = _resampled(now, grid)
    if options["rel_pos"] == "bias":
        prefix = prefix_tokens_of(options) > 0
        for name in now.param_shapes():
            if name.endswith("relative_position_bias_table"):
                weights[name] = resize_rel_pos_bias_table(
                    now.get_parameter(name), grid, prefix, grid_of(old)
                )
    return weights


def _resampled(now: _core.VisionTransformer, grid: tuple[int, int]) -> Float32:
    """A model's own position embedding on another grid."""
    options = now._options()
    if options["family"] == "NaFlexVit":
        return positions_on(now, grid, False)
    return resample_abs_pos_embed(
        now.get_parameter("pos_embed"),
        new_size=grid,
        old_size=grid_of(options),
        num_prefix_tokens=0 if options["no_embed_class"] else prefix_tokens_of(options),
    )
