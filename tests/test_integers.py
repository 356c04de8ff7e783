# SPDX-License-Identifier: Apache-2.0
"""Linear layers of integers have the same bits on every CPU: hashes, written on x86-64.

What is float32 around them (norms, softmax, attention) differs in its last bits from
target to target; so a layer's input is the recipe's, not what the layer before it gave.

`python tests/test_integers.py` prints the hashes, which golden/integers.json keeps.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe
from low_precision import in_dtype, model_of

import vitpool

GOLDEN = Path(__file__).parent / "golden" / "integers.json"
DTYPES = ("int8", "int8_a16")
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
# One row, fewer than a strip, and more than a block of any micro-kernel.
ROWS = (1, 5, 197, 450)


def hash_of(array: np.ndarray) -> str:
    array = np.ascontiguousarray(array)
    return hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()


def hashes(dtype: str) -> dict[str, str]:
    """{'layer': hash of its weights, 'layer rows': of its output}."""
    wide = model_of(embed_dim=96, num_heads=3, mlp_ratio=4.5)
    wide.load_state_dict(recipe.weights(wide.param_shapes()))
    model = in_dtype(wide, dtype)
    found = {}
    for name in LAYERS:
        layer: Any = model.blocks[0]
        for part in name.split("."):
            layer = getattr(layer, part)
        weight = model.state_dict()[f"blocks.0.{name}.weight"]
        found[name] = hash_of(np.asarray(weight))
        for rows in ROWS:
            # Rows of very different ranges, some without negative numbers.
            x = recipe.uniform((1, rows, weight.shape[1]), f"{name} {rows}")
            x *= 10.0 ** (np.arange(rows) % 7 - 3.0)[:, None]
            x[:, ::3] = np.abs(x[:, ::3])
            found[f"{name} {rows}"] = hash_of(layer(x.astype(np.float32)))
    return found


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_layers_have_the_bits_that_they_have_on_x86(
    dtype: str, threads: int
) -> None:
    before = vitpool.get_num_threads()
    vitpool.set_num_threads(threads)
    try:
        assert hashes(dtype) == json.loads(GOLDEN.read_text())[dtype]
    finally:
        vitpool.set_num_threads(before)


if __name__ == "__main__":
    print(json.dumps({dtype: hashes(dtype) for dtype in DTYPES}, indent=1))
