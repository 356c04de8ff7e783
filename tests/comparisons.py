# SPDX-License-Identifier: Apache-2.0
"""A Comparison of drawn stages, for what is tested of its words and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vitpool.testing.comparison.parameters import ParameterDifference
from vitpool.testing.comparison.result import Comparison, StageRow, measured

RTOL = 1e-4


def names(depth: int) -> list[str]:
    blocks = [f"blocks.{i}.{kind}" for i in range(depth) for kind in ("attn", "mlp")]
    return ["patch_embed", "pos_embed", *blocks, "norm", "pool", "head"]


def row(name: str, apart: float, *, exact: bool = False) -> StageRow:
    """Numbers up to 2 in size, all of which differ by `apart` of it."""
    reference = np.linspace(-2, 2, 24, dtype=np.float64).reshape(2, 3, 4)
    both = (reference + 1e-7, reference - 3e-7) if exact else (None, None)
    return measured(name, reference, reference + 2 * apart, RTOL, 0, *both)


def comparison(
    stages: Sequence[StageRow] | None = None,
    *,
    depth: int = 2,
    parts_at: str = "",
    exact: bool = False,
    **fields: Any,
) -> Comparison:
    """Alike in all, but from `parts_at` on."""
    if stages is None:
        all_names = names(depth)
        first = all_names.index(parts_at) if parts_at else len(all_names)
        stages = [
            row(name, 3.1e-2 if i >= first else 1e-7, exact=exact)
            for i, name in enumerate(all_names)
        ]
    given: dict[str, Any] = {
        "reference": "timm:vit_tiny_patch16_224",
        "candidate": "fork.py:VisionTransformer",
        "configuration": (),
        "parameters": ParameterDifference(alike=150),
        "preprocessing": (),
        "stages": tuple(stages),
        "rtol": RTOL,
        "atol": 0.0,
        "isolate": False,
        "images": "2 drawn images",
    }
    return Comparison(**given | fields)
