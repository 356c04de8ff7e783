# SPDX-License-Identifier: Apache-2.0
"""What the tests of training share: pictures to tell apart, and a quiet fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from models import copies

from vitpool.train import Trainer

MAP = {"class_token": False, "global_pool": "map", "num_classes": 5, "depth": 2}
RNG = np.random.default_rng(0)
Y = np.arange(30) % 5
X = RNG.standard_normal((30, 3, 32, 32)).astype(np.float32)
X += RNG.standard_normal((5, 3, 32, 32)).astype(np.float32)[Y]
FEATURES = RNG.standard_normal((30, 32)).astype(np.float32)
FEATURES += 2 * RNG.standard_normal((5, 32)).astype(np.float32)[Y]
QUIET: dict[str, Any] = {"progress": False}


def trained(model: Any, x: Any = X, y: Any = Y, fit: Any = (), **options: Any) -> Any:
    """A quiet fit of three epochs; the model's state dict."""
    options = {"epochs": 3, "batch_size": 8, "lr": 1e-2} | options
    Trainer(model, **options).fit(x, y, **QUIET, **dict(fit))
    return copies(model)


def without_time(history: Any) -> Any:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]
