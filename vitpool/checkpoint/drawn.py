# SPDX-License-Identifier: Apache-2.0
"""Weights of a size at which each of them matters, drawn by their key.

Fresh weights hide faults: behind a scale of 1e-5, biases of zero and a head of zeros,
and where all activations are so small that one function of them is as good as another.
Of these each block adds about what is there already, and neither a softmax nor an
activation saturates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def drawn(key: str, shape: Sequence[int], seed: int = 0) -> NDArray[np.float32]:
    """Numbers of a parameter, which follow from its key, its shape and the seed."""
    digest = blake2b(f"{seed} {key} {tuple(shape)}".encode(), digest_size=16).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    last = key.rpartition(".")[2]
    around, spread = 0.0, 0.25
    if len(shape) == 1 and last.startswith(("weight", "gamma")):
        around = 1.0  # a norm's, or a scale
    elif last == "weight":
        spread = math.prod(shape[1:]) ** -0.5
    numbers = rng.standard_normal(tuple(shape), np.float32)
    return np.float32(around) + np.float32(spread) * numbers
