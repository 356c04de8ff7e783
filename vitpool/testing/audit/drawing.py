# SPDX-License-Identifier: Apache-2.0
"""Weights and pictures drawn by key: the same in each process, in any order."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def generator(key: str, seed: int) -> np.random.Generator:
    """The random numbers of a key; neither the process nor the order matters."""
    return np.random.default_rng([seed, zlib.crc32(key.encode())])


@functools.lru_cache(maxsize=8192)
def drawn(key: str, shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    """Numbers that matter for a parameter of this key and shape; not to be written to.

    Products keep the scale of what goes through them; scales of norms and layers lie
    about 1, and biases and embeddings far enough from 0 that one forgotten is seen.
    They are kept: an audit fills hundreds of models, most of them alike.
    """
    numbers = generator(key, seed).standard_normal(shape)
    if key.endswith("running_var"):
        numbers = 0.5 + np.abs(numbers)
    elif len(shape) >= 2 and key.endswith("weight"):
        fan_in = numbers.size // max(shape[0], 1)
        numbers = numbers / np.sqrt(max(fan_in, 1))
    elif key.endswith(("weight", "gamma")):
        numbers = 1 + 0.2 * numbers
    else:
        numbers = 0.3 * numbers
    array = np.asarray(numbers, dtype)
    array.flags.writeable = False
    return array


def filled(state: Mapping[str, Array], keys: set[str], seed: int) -> dict[str, Array]:
    """The state with drawn numbers under `keys` and in BatchNorm's running ones."""
    return {
        key: drawn(key, value.shape, value.dtype.str, seed)
        if value.dtype.kind == "f"
        and (key in keys or key.endswith(("running_mean", "running_var")))
        else value
        for key, value in state.items()
    }


def pictures(n: int, shape: tuple[int, int, int], seed: int = 0) -> Array:
    """n float32 pictures of (channels, height, width), about as normalised ones are."""
    rng = generator("images", seed)
    return rng.standard_normal((n, *shape)).astype(np.float32)
