# SPDX-License-Identifier: Apache-2.0
"""Pictures from a seed, the same on every machine and with every version of NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import as_int


def images(model: Any, n: int = 2, seed: int = 0) -> NDArray[np.float32]:
    """Pictures (n, C, H, W) of a model's size, as it takes them: float32 in [-2, 2).

    They are noise, in steps of 2**-22 and uniform. Each number is the upper 24 bits of
    one raw output of NumPy's PCG64 for the seed, whose stream no version of NumPy may
    change, and no rounding comes in between: the same model size and seed give the same
    bytes everywhere. The first pictures of many are those of few.

    model: a model of vitpool's, a torch module, or whatever `compare` takes.
    Raises TypeError and ValueError for a model of no known size, for n < 1 and for a
    negative seed.
    """
    size = getattr(model, "input_size", None)
    if not isinstance(size, tuple):
        size = (model.in_chans, *model.img_size)
    return noise((as_int(n, "n", 1), *size), seed)


def noise(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """The pictures of `images`, by their shape."""
    raw = np.random.PCG64(as_int(seed, "seed")).random_raw(math.prod(shape))
    return ((raw >> np.uint64(40)) * 2.0**-22 - 2.0).astype(np.float32).reshape(shape)
