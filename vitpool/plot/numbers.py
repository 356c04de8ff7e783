# SPDX-License-Identifier: Apache-2.0
"""Attention of blocks and pools as numbers, one for each patch: (rows, columns)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core

Heat = NDArray[np.float32]


def _patch(model: Any) -> tuple[int, int]:
    """Height and width of a patch in pixels, in every class of models."""
    size: tuple[int, int] = model._options()["patch_size"]
    return size


def _grid(model: Any, x: NDArray[Any]) -> tuple[int, int]:
    """Patches down and across; with padding the last ones hang over."""
    height, width = _patch(model)
    return -(-x.shape[-2] // height), -(-x.shape[-1] // width)


def extent_of(model: Any, x: NDArray[Any]) -> tuple[float, float]:
    """Rows and columns of patches that lie on the picture: with padding no integers."""
    height, width = _patch(model)
    return x.shape[-2] / height, x.shape[-1] / width


def query(model: Any, x: NDArray[Any], attention: NDArray[Any]) -> NDArray[Any]:
    """(..., Nq, Nk) to (..., Nk): the class token's row, else the mean over queries."""
    rows, columns = _grid(model, x)
    prefix = attention.shape[-1] - rows * columns  # 0 where a pool does not see them
    if attention.shape[-2] == 1 or (model.has_class_token and prefix > 0):
        first: NDArray[Any] = attention[..., 0, :]
        return first
    mean: NDArray[Any] = attention.mean(axis=-2)
    return mean


def patches(model: Any, x: NDArray[Any], weights: NDArray[Any]) -> Heat:
    """(..., Nk) to (..., rows, columns): the prefix tokens' share is left out."""
    rows, columns = _grid(model, x)
    prefix = weights.shape[-1] - rows * columns
    return np.ascontiguousarray(
        weights[..., prefix:].reshape(*weights.shape[:-1], rows, columns), np.float32
    )


def block_number(model: Any, layer: int) -> int:
    """A block's number counted from the first; ValueError where there is none."""
    depth = len(model.blocks)
    if not -depth <= layer < depth:
        raise ValueError(f"layer: {layer}, allowed is {-depth} to {depth - 1}")
    return layer % depth


def layer_key(model: Any, layer: int | str) -> int | str:
    """'auto', 'pool', 'rollout', a number or a number as text, to its meaning."""
    if isinstance(layer, str):
        if layer == "auto":
            return len(model.blocks) - 1 if model.attn_pool is None else "attn_pool"
        if layer in ("pool", "attn_pool"):
            if model.attn_pool is None:
                raise ValueError(
                    f"layer: the model pools by {model.global_pool!r}, which has no "
                    "attention; give a block's number"
                )
            return "attn_pool"
        if layer == "rollout":
            return layer
        try:
            layer = int(layer)
        except ValueError:
            raise ValueError(
                f"layer: {layer!r}, allowed are 'pool', 'rollout' and a block's number"
            ) from None
    return block_number(model, layer)


def attention_maps(
    model: Any, x: NDArray[np.float32], layer: int | str = "auto"
) -> Heat:
    """Attention paid to each patch: (B, heads, rows, columns).

    x: model input (B, C, H, W). layer: 'pool' (map: what the latent attends to; prr), a
    block's number (-1 is the last), 'rollout', or 'auto': the pool, else the last
    block. Of a block, and of prr, it is the class token's attention, or the mean over
    all tokens where there is none. The share that goes to prefix tokens is left out, so
    that a map need not sum to 1.
    """
    return heats_of(model, x, [layer])[1][0]


def heats_of(
    model: Any, x: NDArray[np.float32], layers: Sequence[int | str]
) -> tuple[NDArray[np.float32], list[Heat]]:
    """The model's answer, and the `attention_maps` of several layers, from one pass."""
    model = copy.copy(model)  # one state of it for all that follows
    x = _core.as_float32(x, "x")
    keys = [layer_key(model, layer) for layer in layers]
    wanted: list[Any] = [key for key in dict.fromkeys(keys) if key != "rollout"]
    if "rollout" in keys:
        wanted = list(range(len(model.blocks)))
        if model.attn_pool is not None:
            wanted.append("attn_pool")
    answer, maps = model.forward(x, return_attn=wanted)
    return answer, [
        _rollout(model, x, maps)[:, None]
        if key == "rollout"
        else patches(model, x, query(model, x, maps[key]))
        for key in keys
    ]


def rollout(model: Any, x: NDArray[np.float32]) -> Heat:
    """Attention rollout (Abnar and Zuidema, 2020): (B, rows, columns).

    The product over the blocks of (mean over heads + identity) / 2, read at the class
    token; of an attention pool, at its own attention; else the mean over tokens.
    """
    return heats_of(model, x, ["rollout"])[1][0][:, 0]


def _rollout(model: Any, x: NDArray[np.float32], maps: Mapping[Any, Any]) -> Heat:
    """Of the attention of every block, and of the pool where there is one."""
    tokens = maps[0].shape[-1]
    flow = np.broadcast_to(np.eye(tokens), (x.shape[0], tokens, tokens))
    for block in range(len(model.blocks)):
        step = (maps[block].mean(axis=1, dtype=np.float64) + np.eye(tokens)) / 2
        flow = step @ flow
    if model.attn_pool is None:
        return patches(model, x, query(model, x, flow))
    pool = query(model, x, maps["attn_pool"].mean(axis=1, dtype=np.float64))
    left_out = tokens - pool.shape[-1]
    return patches(model, x, np.einsum("bq,bqk->bk", pool, flow[:, left_out:]))


def pool_weights(model: Any, x: NDArray[np.float32], pool: str) -> Heat:
    """How much of each patch is in what a pool returns: (B, rows, columns), sum 1.

    token: the class token's attention in the last block. avg: the same for all. max:
    the share of channels that have their maximum at the patch. avgmax: half and half.
    map, prr: the attention of the model's own pool. Raises ValueError where the model
    has no such pool.
    """
    model = copy.copy(model)  # one state of it for all that follows
    x = _core.as_float32(x, "x")
    if pool == "token":
        if not model.has_class_token:
            raise ValueError("pool: 'token', but the model has no class token")
        heat = attention_maps(model, x, -1).mean(axis=1)
    elif pool in ("map", "prr"):
        if model.attn_pool is None or model.global_pool != pool:
            raise ValueError(f"pool: {pool!r}, but the model has {model.global_pool!r}")
        heat = attention_maps(model, x, "pool").mean(axis=1)
    elif pool in ("avg", "max", "avgmax"):
        features = model.forward_features(x)  # 'avg' needs them to check x
        rows, columns = _grid(model, x)
        heat = np.full((x.shape[0], rows, columns), 1 / (rows * columns), np.float32)
        if pool != "avg":
            best = features[:, -rows * columns :].argmax(axis=1)
            for image, row in enumerate(best):
                count = np.bincount(row, minlength=rows * columns) / row.size
                share = count.reshape(rows, columns)
                heat[image] = share if pool == "max" else (heat[image] + share) / 2
    else:
        raise ValueError(
            f"pool: {pool!r}, allowed are token, avg, max, avgmax, map and prr"
        )
    total: Heat = heat / heat.sum(axis=(1, 2), keepdims=True)
    return total


def pools_of(model: Any) -> list[str]:
    """The pools that `pool_weights` can show for a model."""
    model = copy.copy(model)
    own = [model.global_pool] if model.attn_pool is not None else []
    return own + (["token"] if model.has_class_token else []) + ["avg", "max", "avgmax"]


def patch_tokens(model: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `forward_features` says of each patch: (B, rows, columns, D)."""
    rows, columns = _grid(model, x)
    tokens = model.forward_features(x)[:, -rows * columns :]
    grid: NDArray[np.float32] = tokens.reshape(len(x), rows, columns, tokens.shape[-1])
    return grid


def token_components(
    model: Any, x: NDArray[np.float32], count: int = 3
) -> NDArray[np.float32]:
    """Principal components of the patch tokens: (B, rows, columns, count).

    x: model input (B, C, H, W). The components are of all pictures together, so that
    one number means one thing in all of them, and in the order of their variance. Where
    tokens differ in fewer directions, the rest is 0.
    """
    model = copy.copy(model)
    x = _core.as_float32(x, "x")
    if count < 1:
        raise ValueError(f"count: {count}, allowed is 1 or more")
    return principal(patch_tokens(model, x), count)


def principal(tokens: NDArray[np.float32], count: int = 3) -> NDArray[np.float32]:
    """(..., D) to the first principal components of all vectors: (..., count)."""
    flat = tokens.reshape(-1, tokens.shape[-1]).astype(np.float64)
    out = np.zeros((len(flat), count), np.float32)
    if len(flat):
        flat -= flat.mean(axis=0)
        left, size, axes = np.linalg.svd(flat, full_matrices=False)
        # rounding alone has no direction: as in np.linalg.matrix_rank, in float32
        size[size <= size[0] * max(flat.shape) * np.finfo(np.float32).eps] = 0
        # An axis has no sign of its own: its largest part is made positive.
        largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1)
        scores = left * size * np.where(largest[:, 0] < 0, -1, 1)
        out[:, : scores.shape[1]] = scores[:, :count]
    return out.reshape(*tokens.shape[:-1], count)
