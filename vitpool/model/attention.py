# SPDX-License-Identifier: Apache-2.0
"""return_attn: which weights are asked for, and under which keys they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import _core
from .parts import Float32

# The block number by which _core's _run knows the attention pool.
POOL_MAP = -1


def wanted_maps(
    options: Mapping[str, Any], wanted: Sequence[int | str]
) -> tuple[list[int | str], list[tuple[int, int]]]:
    """return_attn as _run takes it: its keys, and (block, which) pairs."""
    if isinstance(wanted, (str, bytes)) or not hasattr(wanted, "__iter__"):
        raise TypeError(
            "return_attn must be a sequence of block indices and 'attn_pool', "
            f"not {wanted!r}"
        )
    depth = options["depth"]
    both = options["block_fn"] == "ParallelThingsBlock"
    keys: list[int | str] = []
    maps = []
    for key in wanted:
        if key == "attn_pool":
            keys.append(key)
            maps.append((POOL_MAP, 0))
            continue
        if isinstance(key, str):
            raise ValueError(
                f"return_attn must name blocks by index, or 'attn_pool', not {key!r}"
            )
        if isinstance(key, bool) or not hasattr(key, "__index__"):
            raise TypeError(
                f"return_attn must name blocks by index, or 'attn_pool', not {key!r}"
            )
        block = key.__index__()
        if not -depth <= block < depth:
            raise ValueError(
                f"return_attn must name blocks from {-depth} to {depth - 1}, "
                f"not {block}"
            )
        for which in range(2 if both else 1):
            keys.append(block)
            maps.append((block % depth, which))
    return keys, maps


def named_maps(
    model: _core.VisionTransformer,
    keys: list[int | str],
    maps: list[tuple[int, int]],
    arrays: list[Float32],
) -> dict[int | str, Float32]:
    """By key; the parallel attentions of one block one after the other as heads, a
    differential attention's pair as its difference."""
    named: dict[int | str, Float32] = {}
    for key, (block, which), weights in zip(keys, maps, arrays, strict=True):
        if block != POOL_MAP and weights.shape[1] != model._options()["num_heads"]:
            b, h2, n, _ = weights.shape
            pair = weights.reshape(b, h2 // 2, 2, n, n)
            weights = pair[:, :, 0] - _lambda(model, block, which) * pair[:, :, 1]
        if key in named and which:
            weights = np.concatenate([named[key], weights], axis=1)
        named[key] = weights
    return named


def _lambda(model: _core.VisionTransformer, block: int, which: int) -> np.float32:
    """timm.layers.DiffAttention's lambda of a block."""
    path = f"blocks.{block}."
    if f"{path}lambda_q1" not in model.param_shapes():
        both = f"{path}attns.0.attn.lambda_q1" in model.param_shapes()
        path += f"attns.{which}.attn." if both else "attn."
    q1, k1, q2, k2 = (
        model.get_parameter(f"{path}lambda_{n}").astype(np.float64)
        for n in ("q1", "k1", "q2", "k2")
    )
    init = 0.8 - 0.6 * np.exp(-0.3 * block)
    return np.float32(np.exp(q1 @ k1) - np.exp(q2 @ k2) + init)
