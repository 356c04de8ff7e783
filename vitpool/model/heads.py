# SPDX-License-Identifier: Apache-2.0
"""The numbers and the labels of a classifier that someone sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core
from .parts import Float32


def head_numbers(weight: Any, bias: Any, width: int) -> tuple[Float32, Float32]:
    """weight (K, width) and bias (K,), zeros where None, checked."""
    rows = _core.as_float32(weight, "weight")
    if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
        raise ValueError(
            f"weight must have shape (K, {width}), a row for each class, "
            f"not {rows.shape}"
        )
    count = len(rows)
    if bias is None:
        bias = np.zeros(count, np.float32)
    offsets = _core.as_float32(bias, "bias")
    if offsets.shape != (count,):
        raise ValueError(f"bias must have shape ({count},), not {offsets.shape}")
    return rows, offsets


def label_names(labels: Sequence[str], count: int) -> list[str]:
    """A name for each of so many classes, checked."""
    if isinstance(labels, str) or not hasattr(labels, "__iter__"):
        raise TypeError(f"labels must be a list of names, not {labels!r}")
    names = list(labels)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"labels must be strings, not {type(name).__name__}")
    if len(names) != count:
        raise ValueError(f"labels must be {count} names, one a class, not {len(names)}")
    return names
