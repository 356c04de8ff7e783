# SPDX-License-Identifier: Apache-2.0
"""VisionTransformerRelPos without torch: its options, its biases, its pools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from concepts import options_of, small_of
from golden import recipe
from models import refused

import vitpool
from vitpool.config import resolve

BASE: dict[str, Any] = options_of("relpos")[1]
X = recipe.picture((2, 3, 32, 48))
MLP = ["mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight"]


@pytest.mark.parametrize(
    ("options", "kind", "dim"),
    [
        ({}, "mlp", 128),
        ({"rel_pos_dim": 0}, "mlp", 128),
        ({"rel_pos_dim": 8}, "mlp", 8),
        ({"rel_pos_type": "mlpswin"}, "mlpswin", 128),
        ({"rel_pos_type": "mlp_swin", "rel_pos_dim": 16}, "mlpswin", 16),
        ({"rel_pos_type": "bias", "rel_pos_dim": 16}, "bias", 0),
    ],
)
def test_kinds_of_biases(options: dict[str, Any], kind: str, dim: int) -> None:
    core = resolve(options, "VisionTransformerRelPos")
    assert (core["rel_pos"], core["rel_pos_dim"]) == (kind, dim)
    keys = vitpool.VisionTransformerRelPos(**BASE | options, seed=0).param_shapes()
    path = "blocks.0.attn.rel_pos"
    table = f"{path}.relative_position_bias_table"
    names = {
        "mlp": [*(f"{path}.{n}" for n in MLP), f"{path}.mlp.fc2.bias"],
        "mlpswin": [f"{path}.{n}" for n in MLP],
        "bias": [table],
    }[kind]
    assert [k for k in keys if k.startswith(path)] == names


def test_one_for_all_blocks() -> None:
    shared = small_of("relpos-shared").param_shapes()
    assert not [k for k in shared if "attn.rel_pos" in k]
    assert [k for k in shared if k.startswith("shared_rel_pos.")]


@pytest.mark.parametrize(
    ("option", "value", "error", "words"),
    [
        ("rel_pos_type", "swin", ValueError, "'mlp', 'mlpswin', 'bias'"),
        ("rel_pos_type", 1, TypeError, "rel_pos_type"),
        ("rel_pos_dim", -1, ValueError, "rel_pos_dim"),
        ("block_fn", "Block", ValueError, "'RelPosBlock', 'ResPostRelPosBlock'"),
        ("global_pool", "map", ValueError, "VisionTransformerRelPos"),
        ("global_pool", "token", ValueError, "token"),
        ("fc_norm", None, TypeError, "fc_norm"),
        ("weight_init", "xavier", ValueError, "weight_init"),
    ],
)
def test_options_that_cannot_be(
    option: str, value: Any, error: type[Exception], words: str
) -> None:
    with refused(error, words):
        vitpool.VisionTransformerRelPos(**BASE | {option: value})


@pytest.mark.parametrize(
    ("options", "norm", "fc_norm"),
    [
        ({}, True, False),
        ({"fc_norm": True}, False, True),
        ({"final_norm": False}, False, False),
    ],
)
def test_the_pool_says_nothing_of_norms(
    options: dict[str, Any], norm: bool, fc_norm: bool
) -> None:
    for pool in ("avg", ""):
        keys = vitpool.VisionTransformerRelPos(
            **BASE | options | {"global_pool": pool}, seed=0
        ).param_shapes()
        assert ("norm.weight" in keys, "fc_norm.weight" in keys) == (norm, fc_norm)


def test_layer_scale() -> None:
    for options, there in (
        ({}, True),
        ({"init_values": None}, False),
        ({"init_values": 0.0}, False),
        ({"block_fn": "ResPostRelPosBlock"}, False),
    ):
        model = vitpool.VisionTransformerRelPos(**BASE | options, seed=0)
        assert ("blocks.0.ls1.gamma" in model.param_shapes()) == there


def test_pools() -> None:
    model = small_of("relpos-shared")
    for pool in ("", "avg", "token"):
        model.reset_classifier(3, pool)
        assert model.global_pool == pool
    for pool in ("max", "map", "prr", "avgmax"):
        with refused(ValueError, "VisionTransformerRelPos", model=model, x=X):
            model.reset_classifier(3, pool, add_attn_pool=True)
    without = small_of("relpos")
    assert without.num_prefix_tokens == 0
    with refused(ValueError, "token", model=without, x=X):
        without.reset_classifier(3, "token")


def test_biases_follow_the_weights_and_the_grid() -> None:
    model = small_of("relpos")
    before = model(X)
    key = "blocks.0.attn.rel_pos.mlp.fc2.weight"
    model.load_state_dict({key: 2 * model.state_dict()[key]}, strict=False)
    assert model(X).tobytes() != before.tobytes()
    model.set_input_size((64, 32))
    x = recipe.picture((1, 3, 64, 32))
    fresh = vitpool.VisionTransformerRelPos(**model.config, weights=model.state_dict())
    assert fresh(x).tobytes() == model(x).tobytes()


def test_its_weights_are_drawn_as_torch_does_unless_it_is_asked_otherwise() -> None:
    reset = vitpool.VisionTransformerRelPos(**BASE, seed=1).head.weight
    assert np.abs(reset).max() <= 32**-0.5
    drawn = vitpool.VisionTransformerRelPos(**BASE, weight_init="", seed=1).head.weight
    assert 0.01 < drawn.std() < 0.03
