# SPDX-License-Identifier: Apache-2.0
"""Matrices of 8-bit integers: `NAME`, int8, and `NAME_scale`, float32, beside it.

A weight is its integer times the scale of its output: w[n] = scale[n] q[n], the scale
of shape (n,). Any file that is read may hold them so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from .lazy import Array, LazyTensor

SCALE = "_scale"

Integers = tuple[NDArray[np.int8], NDArray[np.float32]]


class IntegerTensor(LazyTensor):
    """Integers from -127 to 127 with a scale for each output; as an array, floats.

    What is made of it, by a slice or another shape, is of floats.
    """

    __slots__ = ("integers",)

    def __init__(self, weight: LazyTensor, scale: LazyTensor) -> None:
        def integers() -> Integers:
            return _checked(weight.read(), scale.read())

        super().__init__(weight.shape, lambda: dequantized(*integers()), "int8")
        self.integers: Callable[[], Integers] = integers


def dequantized(
    integers: NDArray[np.int8], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The float32 numbers (n, ...) of integers (n, ...) and a scale (n,)."""
    rows = (-1, *[1] * (integers.ndim - 1))
    return integers.astype(np.float32) * scale.reshape(rows)


def paired(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors, each that has a scale beside it as one with it.

    ValueError where a scale cannot be one. Integers without a scale stay as they are,
    and cannot be read as floats.
    """
    out = dict(tensors)
    for key, weight in tensors.items():
        scale = tensors.get(key + SCALE)
        if weight.dtype != "int8" or scale is None:
            continue
        outputs = weight.shape[0] if weight.shape else 0
        if scale.dtype != "float32" or not outputs or scale.shape != (outputs,):
            raise ValueError(
                f"tensor {key + SCALE!r:.100} is {scale.dtype or 'unknown'} of shape "
                f"{scale.shape}, where {key!r:.100}, int8 of shape {weight.shape}, "
                f"needs a float32 scale for each output ({outputs})"
            )
        out[key] = IntegerTensor(weight, scale)
        del out[key + SCALE]
    return out


def _checked(integers: Array, scale: Array) -> Integers:
    """Integers and scales as they are; ValueError where their numbers cannot be."""
    if integers.size and integers.min() < -127:
        place = _first(integers == -128)
        raise ValueError(f"-128 at {place}: integers are from -127 to 127")
    bad = (scale < 0) | (scale == np.inf)  # NaN is an output that was NaN before
    if bad.any():
        place = _first(bad)
        raise ValueError(
            f"its scale of output {place[0]} is {scale[place]}: a scale is finite and "
            "not negative, or NaN where an output was NaN"
        )
    return np.ascontiguousarray(integers), np.ascontiguousarray(scale, np.float32)


def _first(where: NDArray[np.bool_]) -> tuple[int, ...]:
    """The place of the first that is true."""
    return tuple(int(i) for i in np.unravel_index(int(where.argmax()), where.shape))
