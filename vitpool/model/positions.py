# SPDX-License-Identifier: Apache-2.0
"""Embeddings for another image or patch size: kept for each call, or made for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..resample import resample_abs_pos_embed, resample_patch_embed
from .parts import Float32

if TYPE_CHECKING:
    from .vit import VisionTransformer

# Resampled position embeddings kept, one for each size of image.
_MOST_GRIDS = 16


def pos_embed_for(model: VisionTransformer, x: Any, serial: int) -> Float32 | None:
    """The position embedding on x's grid (cached); None: the model's own."""
    if len(x.shape) != 4 or model.pos_embed is None:
        return None
    grid = model._grid(int(x.shape[2]), int(x.shape[3]))
    if grid == model.patch_embed.grid_size:
        return None
    key = (serial, grid)
    resampled = model._pos_embeds.get(key)
    if resampled is None:
        prefix = 0 if model._options()["no_embed_class"] else model.num_prefix_tokens
        resampled = resample_abs_pos_embed(
            model.pos_embed,
            new_size=grid,
            old_size=model.patch_embed.grid_size,
            num_prefix_tokens=prefix,
        )
        # Other threads do this too: nothing that one of them drops is used again.
        kept = [k for k in list(model._pos_embeds) if k[0] == serial]
        for old in set(model._pos_embeds) - set(kept[1 - _MOST_GRIDS :]):
            model._pos_embeds.pop(old, None)
        model._pos_embeds[key] = resampled
    return resampled


def resized_weights(
    model: VisionTransformer, options: Mapping[str, Any], old: Mapping[str, Any]
) -> dict[str, Float32]:
    """The embeddings for the sizes of `options` where those of `old` are others."""
    weights: dict[str, Float32] = {}
    if options["patch_size"] != old["patch_size"]:
        weights["patch_embed.proj.weight"] = resample_patch_embed(
            model.get_parameter("patch_embed.proj.weight"), options["patch_size"]
        )
    grid, old_grid = _grid(options), _grid(old)
    if options["pos_embed"] and grid != old_grid:
        weights["pos_embed"] = resample_abs_pos_embed(
            model.get_parameter("pos_embed"),
            new_size=grid,
            old_size=old_grid,
            num_prefix_tokens=0
            if options["no_embed_class"]
            else model.num_prefix_tokens,
        )
    return weights


def _grid(options: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, columns) of patches; ValueError where the image is less than a patch."""
    (h, w), (ph, pw) = options["img_size"], options["patch_size"]
    grid = (h // ph, w // pw)
    if min(grid) < 1:
        raise ValueError(f"img_size {(h, w)} must be at least patch_size {(ph, pw)}")
    return grid
