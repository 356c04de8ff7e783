# SPDX-License-Identifier: Apache-2.0
"""Models of every dtype, for tests, and what their numbers are rounded to."""

from __future__ import annotations

import copy
from typing import Any

import ml_dtypes
import numpy as np
from models import small

from vitpool.model import matrices

# What a matrix may be kept as, but float32.
KEPT = ("bfloat16", "float16", "int8", "int8_a16")


QKV = "blocks.0.attn.qkv.weight"


def model_of(**options: Any) -> Any:
    """A model with every kind of part: registers, scales, an attention pool, a head."""
    more = {"global_pool": "map", "reg_tokens": 2, "init_values": 0.1, "depth": 2}
    return small(**more | options)


def bits(model: Any) -> dict[str, Any]:
    """Every parameter as it is kept, to the bit."""
    kept = model.state_dict()
    return {"dtypes": model._dtypes(), **{k: v.tobytes() for k, v in kept.items()}}


def in_dtype(model: Any, dtype: str) -> Any:
    """A copy of the model, every matrix of which is of this dtype."""
    other = copy.copy(model)
    names = matrices(model.param_shapes())
    other._replace(None, {}, (), dict.fromkeys(names, dtype))
    return other


def scales_of(weight: np.ndarray) -> np.ndarray:
    """The scale of each output."""
    return np.abs(weight.reshape(len(weight), -1)).max(1) / np.float32(127)


def rounded(weight: np.ndarray, dtype: str) -> np.ndarray:
    """What float32 numbers are kept as, as float32: for integers, one such answer."""
    if dtype == "bfloat16":
        return weight.astype(ml_dtypes.bfloat16).astype(np.float32)
    if dtype == "float16":
        return weight.astype(np.float16).astype(np.float32)
    scale = scales_of(weight).reshape(-1, *[1] * (weight.ndim - 1))
    return (np.rint(weight / np.where(scale > 0, scale, 1)) * scale).astype(np.float32)
