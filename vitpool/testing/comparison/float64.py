# SPDX-License-Identifier: Apache-2.0
"""timm's layers in float64, on NumPy arrays: what a sum without rounding comes near.

Slow and clear. x is (..., N, C): tokens, or rows of anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

# One call a number, so that what is exact is the C library's, to the last bit or so.
_erfc = np.frompyfunc(math.erfc, 1, 1)

BATCH_NORM_EPS = 1e-5  # of ConvStem
SUB_NORM_EPS = (
    1e-5  # of differential attention's sub_norm, whatever the model's norms have
)


def erfc(x: Float64) -> Float64:
    """1 - erf(x), with all its digits where that is nearly 0."""
    out = np.empty_like(x)
    _erfc(
        x, out=out, casting="unsafe"
    )  # from and to Python's floats, a buffer at a time
    return out


def _sigmoid(x: Float64) -> Float64:
    return 1 / (1 + np.exp(-x))


def _tanh_of_gelu(x: Float64) -> Float64:
    return np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


ACTIVATIONS: dict[str, Callable[[Float64], Float64]] = {
    "gelu": lambda x: x * erfc(x * -math.sqrt(0.5)) / 2,
    "gelu_tanh": lambda x: x * (1 + _tanh_of_gelu(x)) / 2,
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
}


def layer_norm(x: Float64, weight: Float64, bias: Float64, eps: float) -> Float64:
    """(x - mean) / sqrt(variance + eps), scaled and shifted."""
    centred = x - x.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weight + bias


def rms_norm(x: Float64, weight: Float64, eps: float) -> Float64:
    """x / sqrt(mean of squares + eps), scaled."""
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * weight


def softmax(x: Float64) -> Float64:
    """Over the last axis."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention(
    q: Float64, k: Float64, v: Float64, bias: Float64 | None = None
) -> Float64:
    """softmax(q k^T / sqrt(d) + bias) v: (B, H, N, dv) of (B, H, N, d), (B, H or fewer,
    M, d) and (B, H or fewer, M, dv), whose heads neighbours share, and bias (H, N, M).
    One (N, M) at a time.
    """
    batch, heads, tokens, width = q.shape
    group, keys = heads // v.shape[1], heads // k.shape[1]
    out = np.empty((batch, heads, tokens, v.shape[-1]))
    for image in range(batch):
        for head in range(heads):
            scores = q[image, head] @ k[image, head // keys].T * width**-0.5
            if bias is not None:
                scores = scores + bias[head]
            out[image, head] = softmax(scores) @ v[image, head // group]
    return out


def patches(images: Float64, size: tuple[int, int], grid: tuple[int, int]) -> Float64:
    """(B, rows * columns, C * height * width) of pictures (B, C, H, W).

    What a patch reaches beyond the picture is 0; what no patch reaches is left out.
    """
    (height, width), (rows, columns) = size, grid
    whole = np.zeros((*images.shape[:2], rows * height, columns * width))
    inside = images[:, :, : whole.shape[2], : whole.shape[3]]
    whole[:, :, : inside.shape[2], : inside.shape[3]] = inside
    cut = whole.reshape(*images.shape[:2], rows, height, columns, width)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(len(images), rows * columns, -1)


def heads_of(x: Float64, heads: int) -> Float64:
    """(B, N, C) as (B, heads, N, C / heads)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def rows_of(x: Float64) -> Float64:
    """The way back: (B, heads, N, d) as (B, N, heads * d)."""
    return x.transpose(0, 2, 1, 3).reshape(len(x), x.shape[2], -1)
