# SPDX-License-Identifier: Apache-2.0
"""A classifier over arrays, of the mean or the largest of each colour, for audits.

Sound as it is; who tests a fault plants it in a subclass.
"""

from __future__ import annotations

from typing import Any

import numpy as np

POOLS = ("avg", "max")


class Colours:
    """Pooled colours, scaled, times a matrix."""

    def __init__(
        self, num_classes: int = 4, global_pool: str = "avg", drop_rate: float = 0.0
    ) -> None:
        self.check(num_classes, global_pool)
        self.drop_rate = drop_rate
        self.global_pool = global_pool
        self.scale = np.ones(3, np.float32)
        self.make_head(num_classes)

    @staticmethod
    def check(num_classes: Any, global_pool: Any) -> None:
        if type(num_classes) is not int or num_classes < 0:
            raise ValueError(f"no number of classes: {num_classes!r}")
        if not isinstance(global_pool, str) or global_pool not in POOLS:
            raise ValueError(f"global_pool must be one of {POOLS}, not {global_pool!r}")

    def make_head(self, num_classes: int) -> None:
        self.num_classes = num_classes
        rng = np.random.default_rng()
        self.weight = rng.normal(0, 0.02, (num_classes, 3)).astype(np.float32)
        self.bias = np.zeros(num_classes, np.float32)

    def reset_classifier(self, num_classes: int, global_pool: Any = None) -> None:
        pool = self.global_pool if global_pool is None else global_pool
        self.check(num_classes, pool)
        self.global_pool = pool
        self.make_head(num_classes)

    def get_classifier(self) -> Any:
        return self.weight if self.num_classes else None

    def eval(self) -> Colours:
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        head = {"weight": self.weight, "bias": self.bias} if self.num_classes else {}
        return {"scale": self.scale, **head}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        if state.keys() != self.state_dict().keys():
            raise ValueError(f"other keys: {[*state]}")
        for key, value in state.items():
            setattr(self, key, np.array(value, np.float32))

    def pooled(self, x: np.ndarray) -> np.ndarray:
        pooled = x.mean((2, 3)) if self.global_pool == "avg" else x.max((2, 3))
        return np.asarray(pooled * self.scale)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        pooled = self.pooled(x)
        return pooled @ self.weight.T + self.bias if self.num_classes else pooled
