# SPDX-License-Identifier: Apache-2.0
"""What a new model is made of, block by block: bounds of fresh weights, widths."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import vitpool

TINY: dict[str, Any] = {"img_size": 8, "patch_size": 8, "num_heads": 2, "seed": 5}
WIDE = TINY | {"embed_dim": 96, "depth": 2, "num_classes": 40}
BLOCKS = [
    "Block",
    "ResPostBlock",
    "ParallelThingsBlock",
    "ParallelScalingBlock",
    "DiffParallelScalingBlock",
]


@pytest.mark.parametrize("block", BLOCKS)
def test_reset_draws_every_layer_within_its_fan_in(block: str) -> None:
    """torch's Linear: weight and bias are uniform within 1 / sqrt(inputs)."""
    model = vitpool.VisionTransformer(
        **WIDE, block_fn=block, global_pool="map", weight_init="reset"
    )
    state = model.state_dict()
    layers = [k for k, v in state.items() if k.endswith(".weight") and v.ndim == 2]
    assert len(layers) >= 2 * 2 + 6
    for key in layers:
        bound = 1 / math.sqrt(state[key].shape[1])
        for name in (key, key.replace("weight", "bias")):
            largest = np.abs(state[name]).max()
            assert 0.9 * bound < largest <= bound * (1 + 1e-6), name


def test_fix_init_leaves_the_attention_pool_alone() -> None:
    options = WIDE | {"global_pool": "map"}
    plain = vitpool.VisionTransformer(**options).state_dict()
    fixed = vitpool.VisionTransformer(**options, fix_init=True).state_dict()
    changed = {k for k in plain if plain[k].tobytes() != fixed[k].tobytes()}
    assert changed == {
        f"blocks.{i}.{name}.weight" for i in (0, 1) for name in ("attn.proj", "mlp.fc2")
    }


def hidden(model: Any) -> int:
    return int(model.param_shapes()["blocks.0.mlp.fc1.weight"][0])


def test_config_gives_every_hidden_width_back() -> None:
    """mlp_ratio is hidden / embed_dim, which rounds; int(embed_dim * it) must not."""
    pairs = [
        (width, wanted)
        for width, wanted in itertools.product((4, 6, 10, 14, 22, 26), range(1, 90, 3))
    ]
    for width, wanted in [*pairs, (352, 1408), (384, 1440), (416, 1414)]:
        ratio = math.nextafter(wanted / width, math.inf)
        options = TINY | {"embed_dim": width, "depth": 1, "num_classes": 0}
        model = vitpool.VisionTransformer(**options, mlp_ratio=ratio)
        assert hidden(model) == wanted
        again = vitpool.VisionTransformer(**model.config, seed=0)
        assert hidden(again) == wanted, f"{width}: {wanted} -> {hidden(again)}"
        assert again.config == model.config
