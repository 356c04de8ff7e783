# SPDX-License-Identifier: Apache-2.0
"""Batch norm without affine between pooled features and a linear head.

Source: torch.nn.BatchNorm1d(affine=False), as in MAE's main_linprobe.py.
"""

from __future__ import annotations

import numpy as np

from ..model import Float32

_MOMENTUM = 0.1
EPS = 1e-6  # MAE's


class BatchNorm:
    """Running statistics of features (B, C), and the features by their batch's own."""

    def __init__(self, width: int) -> None:
        self.mean = np.zeros(width)
        self.var = np.ones(width)

    def train(self, x: Float32) -> Float32:
        """x (B, C), B above 1, by its own mean and variance; these are noted."""
        rows = x.astype(np.float64)
        mean, var = rows.mean(0), rows.var(0)
        unbiased = var * (len(x) / (len(x) - 1))
        self.mean += _MOMENTUM * (mean - self.mean)
        self.var += _MOMENTUM * (unbiased - self.var)
        normed: Float32 = ((rows - mean) / np.sqrt(var + EPS)).astype(np.float32)
        return normed

    def folded(self, weight: Float32, bias: Float32) -> tuple[Float32, Float32]:
        """The head (K, C), (K,) that does to raw features what this one did to normed.

        With the running statistics, in float64, rounded once.
        """
        scaled = weight.astype(np.float64) / np.sqrt(self.var + EPS)
        offset = bias - scaled @ self.mean
        return scaled.astype(np.float32), offset.astype(np.float32)
