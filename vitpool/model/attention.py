# SPDX-License-Identifier: Apache-2.0
"""return_attn: the attention weights that a caller asks for, and the keys they get."""

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
    now: _core.VisionTransformer,
    keys: list[int | str],
    maps: list[tuple[int, int]],
    arrays: list[Float32],
) -> dict[int | str, Float32]:
    """The weights by key, of the state of the model that computed them.

    The two attentions of a ParallelThingsBlock are given as heads, one after the other;
    the pair of maps of a differential attention as its difference.
    """
    lambdas = now._lambdas()
    named: dict[int | str, Float32] = {}
    for key, (block, which), weights in zip(keys, maps, arrays, strict=True):
        if lambdas and block != POOL_MAP:
            first, second = weights[:, 0::2], weights[:, 1::2]
            weights = first - np.float32(lambdas[block][which]) * second
        if key in named and which:
            weights = np.concatenate([named[key], weights], axis=1)
        named[key] = weights
    return named
