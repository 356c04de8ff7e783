# SPDX-License-Identifier: Apache-2.0
"""Resampling of trained position and patch embeddings to another size.

What timm does with torch.nn.functional.interpolate, as one matrix an axis: a resize
of a picture is rows @ picture @ columns.T, since the filters are separable.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = np.float32
FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
# What torch would compute in.
Real = type[np.floating[Any]]

# Half-width of each filter in source pixels, before it is widened by antialiasing.
_SUPPORT = {"bilinear": 1, "bicubic": 2}


def _filter(distance: NDArray[Any], interpolation: str, a: float) -> DoubleArray:
    """Value of the triangle or of Keys' cubic kernel at `distance` in pixels."""
    x = np.abs(distance, dtype=np.float64)
    if interpolation == "bilinear":
        return np.maximum(1 - x, 0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def axis_weights(
    old: int,
    new: int,
    interpolation: str = "bicubic",
    antialias: bool = True,
    align_corners: bool = False,
    real: Real = F32,
) -> DoubleArray:
    """The (new, old) matrix which resamples `old` samples along one axis to `new`.

    Positions are computed in `real`, as torch does in the type of what it resamples: at
    a grid of 37 a position in float64 moves the weights by some 1e-6, more than the
    rounding of the sum in float32. All that follows from them is float64, so that
    nothing is added to that error.
    """
    if interpolation not in _SUPPORT:
        raise ValueError(
            f"interpolation must be 'bicubic' or 'bilinear', got {interpolation!r}"
        )
    if align_corners:
        scale = real(old - 1) / real(new - 1) if new > 1 else real(0)
    else:
        scale = real(old) / real(new)
    support = _SUPPORT[interpolation]
    target = np.arange(new, dtype=real)[:, None]

    if antialias:
        # The filter grows with the step when shrinking; past the border it is cut off
        # and the rest is normalised. torch keeps the half-pixel centres here whatever
        # align_corners says.
        widen = max(scale, real(1))
        reach = real(support) * widen
        centre = scale * (target + real(0.5))
        first = np.maximum(np.trunc(centre - reach + real(0.5)), 0)
        stop = np.minimum(np.trunc(centre + reach + real(0.5)), old)
        source = np.arange(old, dtype=real)[None, :]
        distance = (source - centre + real(0.5)) * (real(1) / widen)
        weights = _filter(distance, interpolation, a=-0.5)
        weights = np.where((source >= first) & (source < stop), weights, 0)
        normalised: DoubleArray = weights / weights.sum(axis=1, keepdims=True)
        return normalised

    # Without antialiasing 2 or 4 neighbours count, and those beyond the border are the
    # border's sample again.
    if align_corners:
        position = scale * target
    else:
        # float64 inside, so rounded once: torch's build fuses the multiply and add.
        position = (np.float64(scale) * (target + real(0.5)) - 0.5).astype(real)
        if interpolation == "bilinear":
            position = np.maximum(position, real(0))
    base = np.floor(position)
    weights = np.zeros((new, old))
    rows = np.arange(new)
    for step in range(1 - support, support + 1):
        value = _filter(position - (base + real(step)), interpolation, a=-0.75)[:, 0]
        column = np.clip(base[:, 0] + step, 0, old - 1).astype(np.intp)
        np.add.at(weights, (rows, column), value)
    return weights


def resample_grid(
    grid: NDArray[Any],
    new_size: tuple[int, int],
    interpolation: str = "bicubic",
    antialias: bool = True,
    align_corners: bool = False,
    real: Real = F32,
) -> NDArray[Any]:
    """Resample a (H, W, C) grid to (new_size[0], new_size[1], C), in `real`."""
    how = interpolation, antialias, align_corners, real
    rows, columns = (
        axis_weights(old, new, *how)
        for old, new in zip(grid.shape[:2], new_size, strict=True)
    )
    across = np.matmul(columns, grid)  # (H, new W, C)
    return np.tensordot(rows, across, axes=(1, 0)).astype(real)


def resample_abs_pos_embed(
    pos: NDArray[Any],
    new_size: tuple[int, int],
    old_size: tuple[int, int] | None = None,
    num_prefix_tokens: int = 1,
    interpolation: str = "bicubic",
    antialias: bool = True,
    align_corners: bool | None = None,
    real: Real = F32,
) -> NDArray[Any]:
    """Resample position embeddings (1, prefix + H * W, C) to the grid `new_size`.

    The first `num_prefix_tokens` rows stay as they are. Without `old_size` the old
    grid is taken to be square. Returns (1, prefix + new H * new W, C) in `real`, as
    torch would compute it in that: float32, whatever `pos` is, since timm says so.
    Raises ValueError where the tokens do not fill the old grid.
    """
    new_size = (int(new_size[0]), int(new_size[1]))
    if pos.ndim != 3 or pos.shape[0] != 1:
        raise ValueError(f"pos must have the shape (1, N, C), got {pos.shape}")
    if min(new_size) < 1:
        raise ValueError(f"new_size must be positive, got {new_size}")
    tokens = pos.shape[1] - num_prefix_tokens
    if old_size is None:
        # As timm does: the right number of tokens for a square grid needs nothing.
        if tokens == new_size[0] * new_size[1] and new_size[0] == new_size[1]:
            return pos
        side = math.isqrt(max(tokens, 0))
        old_size = (side, side)
    elif tokens == new_size[0] * new_size[1] and tuple(old_size) == new_size:
        return pos
    if tokens < 1 or old_size[0] * old_size[1] != tokens:
        raise ValueError(
            f"pos has {pos.shape[1]} rows, of which {num_prefix_tokens} are for prefix "
            f"tokens: the other {tokens} do not fill a {old_size[0]}x{old_size[1]} grid"
        )
    prefix = pos[:, :num_prefix_tokens]
    grid = pos[0, num_prefix_tokens:].astype(real).reshape(*old_size, -1)
    how = interpolation, antialias, bool(align_corners), real
    grid = resample_grid(grid, new_size, *how)
    rows = grid.reshape(1, new_size[0] * new_size[1], -1)
    return np.concatenate([prefix, rows], axis=1, dtype=real)


def pos_embed_gradient(
    gradient: FloatArray,
    new_size: tuple[int, int],
    old_size: tuple[int, int],
    num_prefix_tokens: int,
) -> FloatArray:
    """What a gradient by resampled position embeddings is by those they came from.

    The adjoint of `resample_abs_pos_embed`, with its defaults: gradient (1, prefix +
    new H * new W, C) to (1, prefix + old H * old W, C).
    """
    rows, columns = (
        axis_weights(old, new) for old, new in zip(old_size, new_size, strict=True)
    )
    grid = gradient[0, num_prefix_tokens:].reshape(*new_size, -1)
    across = np.matmul(columns.T, grid)  # (new H, old W, C)
    back = np.tensordot(rows.T, across, axes=(1, 0)).reshape(
        1, old_size[0] * old_size[1], -1
    )
    prefix = gradient[:, :num_prefix_tokens]
    return np.concatenate([prefix, back], axis=1, dtype=F32)


def resample_patch_embed(
    weight: FloatArray,
    new_size: tuple[int, int],
    interpolation: str = "bicubic",
    antialias: bool = True,
) -> FloatArray:
    """Resample a patch embedding's kernel (O, I, h, w) to (O, I, *new_size).

    FlexiViT's method: the new kernel gives on a resized patch what the old one gives
    on the patch itself, in the least-squares sense. That is the pseudo-inverse of the
    resize, and the pseudo-inverse of a Kronecker product is the product of its
    factors' pseudo-inverses: one small matrix an axis.
    """
    if weight.ndim != 4:
        raise ValueError(f"weight must have the shape (O, I, h, w), got {weight.shape}")
    new_size = (int(new_size[0]), int(new_size[1]))
    if min(new_size) < 1:
        raise ValueError(f"new_size must be positive, got {new_size}")
    if weight.shape[2:] == new_size:
        return weight
    rows, columns = (
        _pseudo_inverse(axis_weights(old, new, interpolation, antialias))
        for old, new in zip(weight.shape[2:], new_size, strict=True)
    )
    # (O, I, h, w) with (h, new h) and (w, new w)
    across = np.matmul(weight, columns)
    resampled: FloatArray = np.matmul(rows.T, across).astype(F32)
    return resampled


def _pseudo_inverse(matrix: DoubleArray) -> DoubleArray:
    """Moore-Penrose inverse of an axis's weights, which have full rank."""
    return np.linalg.pinv(matrix).astype(np.float64, copy=False)
