# SPDX-License-Identifier: Apache-2.0
"""The accuracy measure of gradients, loss and logits.

Of each tensor the largest difference from float64, over the largest number of float64.
Of a model, and over some versions of its input, the largest of these may be twice torch
float32's, or FLOOR's where torch is luckier than that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

RATIO = 2.0
# Eight units in the last place of a tensor's largest number.
FLOOR = 1e-6
# A tensor all below this part of the model's largest gradient is nought, rounded (a
# key's bias adds the same to all scores of a query): it is compared absolutely.
NOUGHT = 1e-12


@dataclass
class Found:
    """What a training pass gives: losses (groups,), logits (B, K), gradients.

    logits: None where a door does not tell them.
    """

    losses: np.ndarray
    logits: np.ndarray | None
    grads: dict[str, np.ndarray] = field(default_factory=dict)


def errors(got: Found, exact: Found, nought: float = NOUGHT) -> dict[str, float]:
    """The largest difference of each tensor, over its largest number."""
    top = max((float(np.abs(g).max()) for g in exact.grads.values()), default=0.0)
    out = {}
    for name, value in exact.grads.items():
        found = got.grads[name]
        if found.shape != value.shape:
            raise AssertionError(f"{name}: shape {found.shape}, timm has {value.shape}")
        largest = float(np.abs(value).max())
        scale = largest if largest > nought * top else top
        off = float(np.abs(found.astype(np.float64) - value).max())
        out[name] = off / scale if scale else off
    for name in ("losses", "logits"):
        found, value = getattr(got, name), getattr(exact, name)
        if found is None or value is None:
            continue
        if np.shape(found) != np.shape(value):
            raise AssertionError(f"{name}: {np.shape(found)}, not {np.shape(value)}")
        off = float(np.abs(np.asarray(found, np.float64) - value).max())
        out[name] = off / float(np.abs(value).max())
    return out


def worst(rows: list[dict[str, float]]) -> tuple[float, str]:
    """The largest of all errors (NaN is), and the tensor that has it."""
    pairs = [(e, name) for row in rows for name, e in row.items()]
    odd = [pair for pair in pairs if not np.isfinite(pair[0])]
    return max(odd or pairs)


def passes(mine: list[dict[str, float]], torchs: list[dict[str, float]]) -> bool:
    """Are our errors small enough beside torch float32's for the same inputs?"""
    return worst(mine)[0] <= RATIO * max(worst(torchs)[0], FLOOR)
