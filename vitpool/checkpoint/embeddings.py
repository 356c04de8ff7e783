# SPDX-License-Identifier: Apache-2.0
"""Fits what stands before the blocks to a model: patches, positions, tables of these.

Weights come with VisionTransformer's names, whatever their class; NaFlexVit's are made
of them at the end.
"""

from __future__ import annotations

import logging
import math
from functools import partial

import numpy as np

from ..resample import FloatArray, resample_abs_pos_embed, resample_patch_embed
from ..resample_rel_pos import resize_rel_pos_bias_table
from .formats import naflexvit, radio
from .formats.beit import TABLE
from .formats.keys import Tensors
from .lazy import Array, LazyTensor
from .spec import PATCH, STEM, Spec

_log = logging.getLogger("vitpool")

Grid = tuple[int, int]


def fit_embeddings(out: Tensors, spec: Spec, layout: str) -> None:
    """Resize all of them to the model's grid, patches and channels, in place.

    layout: the format's name, which tells how its own code resizes.
    """
    naflex = spec.family == "NaFlexVit"
    if naflex:
        naflexvit.grid_positions(out, spec)
    _positions(out, spec, layout)
    _patches(out, spec, layout)
    _tables(out, spec)
    if naflex:
        naflexvit.finish(out, spec)


def adapt_input_conv(weight: FloatArray, in_chans: int) -> FloatArray:
    """A kernel (O, I, h, w) for another number of channels, as timm makes it.

    One channel gets the sum of all; more repeat the old ones, scaled by I / in_chans so
    that the response keeps its size.
    """
    channels = weight.shape[1]
    if in_chans == channels:
        return weight
    if in_chans == 1:
        return weight.sum(axis=1, keepdims=True)
    repeated = np.tile(weight, (1, math.ceil(in_chans / channels), 1, 1))[:, :in_chans]
    return repeated * np.float32(channels / in_chans)


def _filter(spec: Spec, layout: str) -> tuple[str, bool]:
    """Interpolation and antialiasing; JAX's archives are resized as FlexiViT's are."""
    if layout in ("jax", "naflex"):
        return "bilinear", layout == "naflex"
    return spec.interpolation, spec.antialias


def _patches(out: Tensors, spec: Spec, layout: str) -> None:
    """Resize the patch embedding, and change its channels."""
    key = STEM if STEM in spec.shapes else PATCH
    target = spec.convolution
    tensor = out.get(key)
    if tensor is None or target is None:
        return
    if len(tensor.shape) == 2 and layout in ("timm", "trunk"):
        # timm's of the time before convolutions: a linear layer on flat patches.
        width, inputs = tensor.shape
        side = math.isqrt(inputs // 3)
        own = inputs == math.prod(target[1:])
        tensor = tensor.reshape(width, *(target[1:] if own else (3, side, side)))
    if len(tensor.shape) != 4 or 0 in tensor.shape:
        return  # reported as a wrong shape
    width, channels, *old = tensor.shape
    size = (target[2], target[3])
    if tuple(old) != size and key == STEM:
        return  # the same
    if tuple(old) != size:
        interpolation, antialias = _filter(spec, layout)

        def resize(data: Array) -> Array:
            return resample_patch_embed(_f32(data), size, interpolation, antialias)

        tensor = tensor.map(resize, (width, channels, *size))
        _log.info("patch embedding resized from %s to %s", tuple(old), size)
    if channels != target[1]:

        def adapt(data: Array) -> Array:
            return adapt_input_conv(_f32(data), target[1])

        tensor = tensor.map(adapt, (width, target[1], *size))
        _log.info("patch embedding changed from %d to %d channels", channels, target[1])
    out[key] = tensor


def _positions(out: Tensors, spec: Spec, layout: str) -> None:
    """Resize the position embedding to the model's grid; before the patches are."""
    tensor = out.get("pos_embed")
    naflex = spec.family == "NaFlexVit"
    if tensor is None or not spec.options["pos_embed"]:
        return
    if len(tensor.shape) == 4:
        _grid(out, spec, tensor, layout)
        return
    if len(tensor.shape) != 3 or layout == "radio" or naflex:
        return
    target = spec.shapes["pos_embed"]
    prefix = spec.pos_prefix_tokens
    tokens = tensor.shape[1] - prefix
    patch = out.get(PATCH)
    old = None
    if STEM in out and STEM in spec.shapes:
        old = spec.source_grid(spec.options["patch_size"], tokens)
    if patch is not None and len(patch.shape) == 4 and 0 not in patch.shape[2:]:
        old = spec.source_grid((patch.shape[2], patch.shape[3]), tokens)
    if layout in ("jax", "naflex"):  # always of a square grid
        side = math.isqrt(max(tokens, 0))
        old = (side, side) if side * side == tokens else None
    same_count = tensor.shape[1] == target[1]
    if same_count and (old is None or old == spec.grid_size):
        return
    if old is None and (tokens < 1 or math.isqrt(tokens) ** 2 != tokens):
        return  # of a grid that nobody tells; reported as a wrong shape
    interpolation, antialias = _filter(spec, layout)
    if layout.startswith("transformers") and "reg_token" not in out:
        antialias = False  # as all of its models but DINOv2 with registers
    out["pos_embed"] = _resized(
        tensor, spec, old, prefix, (interpolation, antialias, spec.align_corners)
    )
    source = f"{old[0]}x{old[1]}" if old else f"{tokens} positions"
    _log.info("position embedding resized from %s to %dx%d", source, *spec.grid_size)


def _resized(
    tensor: LazyTensor,
    spec: Spec,
    old: Grid | None,
    prefix: int,
    how: tuple[str, bool, bool | None],
) -> LazyTensor:
    """Positions (1, prefix + N, C) of another grid, read when they are asked for."""

    def resize(data: Array) -> Array:
        return resample_abs_pos_embed(_f32(data), spec.grid_size, old, prefix, *how)

    rows = prefix + math.prod(spec.grid_size)
    return tensor.map(resize, (1, rows, tensor.shape[2]))


def _grid(out: Tensors, spec: Spec, tensor: LazyTensor, layout: str) -> None:
    """Positions (1, rows, columns, C), NaFlexVit's, on the model's grid.

    A NaFlexVit resizes them as it does itself, but for JAX's archives; another model
    has them in one row, SigLIP2's, which are known by their pool, resized bilinear.
    """
    _, rows, columns, width = tensor.shape
    flat = tensor.reshape(1, rows * columns, width)
    naflex = spec.family == "NaFlexVit"
    if (rows, columns) != spec.grid_size:
        if rows * columns == 0:
            return  # reported as a wrong shape
        how = (spec.interpolation, spec.antialias, spec.align_corners)
        if layout == "jax":
            how = ("bilinear", False, None)
        elif naflex:
            own = spec.options
            how = (own["pos_interp"], own["pos_antialias"], own["pos_align_corners"])
        elif spec.align_corners is not None:
            out["pos_embed"] = radio.grid_positions(flat, spec)
            return
        elif "attn_pool.latent" in out:
            how = ("bilinear", True, None)
        flat = _resized(flat, spec, (rows, columns), 0, how)
        _log.info(
            "position embedding resized from %dx%d to %dx%d",
            *(rows, columns, *spec.grid_size),
        )
    out["pos_embed"] = flat.reshape(1, *spec.grid_size, width) if naflex else flat


def _tables(out: Tensors, spec: Spec) -> None:
    """Resize the tables of relative positions to the model's grid.

    A stored table is of the grid of input_size where that accounts for its rows, else
    of a square one, or of the model's own.
    """
    height, width = spec.grid_size
    for key, target in spec.shapes.items():
        tensor = out.get(key)
        if not key.endswith(TABLE) or tensor is None or len(tensor.shape) != 2:
            continue
        rows = tensor.shape[0]
        extra = target[0] - (2 * height - 1) * (2 * width - 1)  # of prefix tokens
        old = spec.source_window(rows - extra)
        if tensor.shape == target and old in (None, spec.grid_size):
            continue
        side = math.isqrt(max(rows - extra, 0))
        if old is None and (side**2 != rows - extra or side % 2 == 0):
            continue  # of a grid that nobody tells; reported as a wrong shape
        resize = partial(
            resize_rel_pos_bias_table,
            new_window=spec.grid_size,
            prefix=extra > 0,
            old_window=old,
        )
        out[key] = tensor.map(resize, (target[0], tensor.shape[1]))
        _log.info("%s resized from %d to %d rows", key, rows, target[0])


def _f32(data: Array) -> FloatArray:
    return data.astype(np.float32, copy=False)
