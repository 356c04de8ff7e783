# SPDX-License-Identifier: Apache-2.0
"""What attention knows of where tokens lie, in float64: rotations of queries and keys,
and biases of scores.

Source: timm.layers.pos_embed_sincos, timm.layers.pos_embed_rel, timm.models.beit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .float64 import Float64

# A parameter of this name.
Read = Callable[[str], Float64]


def angles(options: Mapping[str, Any], grid: tuple[int, int], read: Read) -> Float64:
    """(N, D / 2), or (depth, H, N, D / 2) of mixed rope: what each patch's pairs of
    numbers are turned by."""
    kind, temperature = options["rope"], options["rope_temperature"]
    rows, columns = (
        _coordinates(options, count, axis) for axis, count in enumerate(grid)
    )
    at = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    if options["rope_xy"]:
        at = at[:, ::-1]
    if kind == "mixed":  # (2, depth, H, D / 2)
        freqs = read("rope.freqs")
        return at[:, :1] * freqs[0, :, :, None] + at[:, 1:] * freqs[1, :, :, None]
    bands = options["embed_dim"] // options["num_heads"] // 4
    speed = temperature ** -(np.arange(bands) / bands)
    if kind == "dinov3":
        speed = speed * 2 * math.pi
    return (at[:, :, None] * speed).reshape(len(at), -1)


def _coordinates(options: Mapping[str, Any], count: int, axis: int) -> Float64:
    """Of the places of one axis."""
    places = np.arange(count, dtype=np.float64)
    if options["rope"] == "mixed":
        return places
    places += options["rope_grid_offset"]
    if options["rope"] == "dinov3":
        return 2 * (places + 0.5) / count - 1
    wanted = options["rope_ref"][axis]
    return places / count * wanted if wanted else places


def turned(x: Float64, angle: Float64, prefix: int, half: bool) -> Float64:
    """x (B, H, N, D), but for the first `prefix` tokens with its pairs turned: a head's
    two halves, or neighbours."""
    kept, patches = x[:, :, :prefix], x[:, :, prefix:]
    cosine, sine = np.cos(angle), np.sin(angle)
    if half:
        first, second = np.split(patches, 2, -1)
    else:
        first, second = patches[..., 0::2], patches[..., 1::2]
    pair = first * cosine - second * sine, second * cosine + first * sine
    whole = np.concatenate(pair, -1) if half else np.stack(pair, -1)
    return np.concatenate([kept, whole.reshape(patches.shape)], 2)


def biases(
    options: Mapping[str, Any],
    grid: tuple[int, int],
    prefix: int,
    path: str,
    read: Read,
) -> Float64:
    """(H, N, N): what is added to the scores of queries and keys, of the table or the
    MLP at this path."""
    distances = _distances(options, grid, path, read)  # (2 h - 1, 2 w - 1, H)
    y, x = (grid_of.reshape(-1) for grid_of in np.indices(grid))
    down = y[:, None] - y + grid[0] - 1
    across = x[:, None] - x + grid[1] - 1
    patches = distances[down, across]
    count = prefix + len(y)
    bias = np.zeros((count, count, patches.shape[-1]))
    bias[prefix:, prefix:] = patches
    if options["rel_pos"] == "bias" and prefix:
        # of a prefix token to a patch, a patch to one, and between them
        ends = read(f"{path}.relative_position_bias_table")[-3:]
        bias[:prefix, prefix:], bias[prefix:, :prefix] = ends[0], ends[1]
        bias[:prefix, :prefix] = ends[2]
    return bias.transpose(2, 0, 1)


def _distances(
    options: Mapping[str, Any], grid: tuple[int, int], path: str, read: Read
) -> Float64:
    shape = 2 * grid[0] - 1, 2 * grid[1] - 1
    if options["rel_pos"] == "bias":
        table = read(f"{path}.relative_position_bias_table")
        return table[: math.prod(shape)].reshape(*shape, -1)
    swin = options["rel_pos"] == "mlpswin"
    rows, columns = (np.arange(1 - n, n, dtype=np.float64) for n in grid)
    if swin:
        rows, columns = (
            8 * each / (n - 1) for each, n in zip((rows, columns), grid, strict=True)
        )
    at = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1)
    at = np.sign(at) * np.log1p(np.abs(at)) / (math.log(8) if swin else 1)
    hidden = at @ read(f"{path}.mlp.fc1.weight").T + read(f"{path}.mlp.fc1.bias")
    out = np.maximum(hidden, 0) @ read(f"{path}.mlp.fc2.weight").T
    if swin:
        return 16 / (1 + np.exp(-out))
    return out + read(f"{path}.mlp.fc2.bias")
