# SPDX-License-Identifier: Apache-2.0
"""Mixup and CutMix of a batch with itself in reverse order.

Source: timm.data.Mixup (mode 'batch', prob 1, switch_prob 0.5, correct_lam). Papers:
mixup, arXiv 1710.09412; CutMix, arXiv 1905.04899.
"""

from __future__ import annotations

import math

import numpy as np

from ..model import Float32


def mix(
    x: Float32,
    targets: Float32,
    generator: np.random.Generator,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> tuple[Float32, Float32]:
    """A mixed copy of a batch, and of its soft targets (B, K).

    mixup, cutmix: alpha of the Beta distribution that the batch's share is drawn from;
    0: not done; where both are, one of them is drawn. x: any shape (B, ...); for
    cutmix images (B, channels, height, width).
    """
    generator.random()  # timm draws here whether to mix; prob is 1
    cut = generator.random() < 0.5 if mixup and cutmix else cutmix > 0
    alpha = cutmix if cut else mixup
    share = float(generator.beta(alpha, alpha))
    if share == 1.0:
        return x, targets
    if cut:
        top, bottom, left, right = _box(x.shape[-2], x.shape[-1], share, generator)
        share = 1 - (bottom - top) * (right - left) / float(x.shape[-2] * x.shape[-1])
        mixed = x.copy()
        mixed[:, :, top:bottom, left:right] = x[::-1, :, top:bottom, left:right]
    else:
        mixed = _blend(x, share)
    return mixed, _blend(targets, share)


def _blend(x: Float32, share: float) -> Float32:
    mixed = x * np.float32(share)
    mixed += x[::-1] * np.float32(1 - share)
    return mixed


def _box(
    height: int, width: int, share: float, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a box of 1 - share of the area, cut at borders."""
    ratio = math.sqrt(1 - share)
    high, wide = int(height * ratio), int(width * ratio)
    y, x = int(generator.integers(height)), int(generator.integers(width))
    return (
        max(y - high // 2, 0),
        min(y + (high + 1) // 2, height),
        max(x - wide // 2, 0),
        min(x + (wide + 1) // 2, width),
    )
