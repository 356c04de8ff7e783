# SPDX-License-Identifier: Apache-2.0
"""The learning rate, step by step."""

from __future__ import annotations

import math

SCHEDULES = ("cosine", "constant")


def factor(step: int, total: int, warmup: int, schedule: str) -> float:
    """By what the learning rate is multiplied in step `step`, 0 to total - 1.

    warmup: steps of a line from near 0 to 1. Then 1, or half a cosine that would be 0
    in step `total` (MAE, V-JEPA, timm's cosine with cycle_limit 1).
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
