# SPDX-License-Identifier: Apache-2.0
"""What a live timm model keeps of relative positions beside its weights.

These are buffers, in no state dict: ours come from the size alone, so a module whose
buffers are others computes something else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reader import refuse


def _index(grid: tuple[int, int], prefix: int) -> NDArray[np.int64]:
    """Row of the table for each [query token][key token]; a prefix has the last three.

    They are: token to patch, patch to token, token to token.
    """
    y, x = (axis.ravel() for axis in np.indices(grid))
    rows = y[:, None] - y + grid[0] - 1, x[:, None] - x + grid[1] - 1
    index = rows[0] * (2 * grid[1] - 1) + rows[1]
    if not prefix:
        return np.asarray(index, np.int64)
    count = (2 * grid[0] - 1) * (2 * grid[1] - 1)
    out = np.empty((len(y) + 1,) * 2, np.int64)
    out[1:, 1:], out[0, :], out[:, 0], out[0, 0] = index, count, count + 1, count + 2
    return out


def check_index(path: str, tensor: Any, grid: tuple[int, int], prefix: int) -> None:
    """Refuse an index other than timm's for this grid of patches."""
    if tensor.is_meta:
        return
    want = _index(grid, prefix)
    got = tensor.detach().cpu().numpy().reshape(-1)
    if not np.array_equal(got, want.reshape(-1)):
        refuse(
            path,
            "relative_position_index is not timm's for "
            f"{grid[0]} x {grid[1]} patches; call its init_non_persistent_buffers()",
        )


def _coordinates(grid: tuple[int, int], swin: bool) -> NDArray[np.float64]:
    axes = [np.arange(1.0 - n, n) for n in grid]
    if swin:
        axes = [8 * axis / max(n - 1, 1) for axis, n in zip(axes, grid, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    logs = np.log2(1 + np.abs(at)) / 3 if swin else np.log1p(np.abs(at))
    return np.asarray(np.sign(at) * logs)


def check_coordinates(
    path: str, tensor: Any, grid: tuple[int, int], swin: bool
) -> None:
    """Refuse coordinates other than RelPosMlp's of this mode for this grid."""
    import torch

    if tensor.is_meta:
        return
    got = tensor.detach().cpu().double().numpy()
    want = _coordinates(grid, swin)
    rounding = 8 * max(1.0, float(np.abs(want).max())) * torch.finfo(tensor.dtype).eps
    if got.shape != want.shape or not np.abs(got - want).max() <= max(rounding, 1e-6):
        refuse(
            path,
            "rel_coords_log is not timm's for "
            f"{grid[0]} x {grid[1]} patches; call its init_non_persistent_buffers()",
        )
