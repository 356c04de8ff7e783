# SPDX-License-Identifier: Apache-2.0
"""What training.npz is of: a model, its data, and ten steps; read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from . import recipe

PATH = Path(__file__).parent / "training.npz"
# A map pool, and all that has gradients of its own around it.
OPTIONS: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 10,
    "global_pool": "map",
    "init_values": 0.1,
    "qk_norm": True,
    "reg_tokens": 2,
}
BATCH = 4
SMOOTHING = 0.1
STEPS = 10
ADAMW: dict[str, Any] = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.05,
}


def data() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (B, 3, 32, 32), and labels int64 (B,)."""
    pictures = recipe.picture((BATCH, 3, 32, 32))
    return pictures, np.array([3, 1, 4, 1], np.int64)


def stored() -> dict[str, np.ndarray]:
    """inputs, labels, logits, losses, grad.<timm's name>, and torch's own error."""
    with np.load(PATH) as file:
        return dict(file)
