# SPDX-License-Identifier: Apache-2.0
"""Beit without torch: its options, tables of another grid, its pools."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from concepts import options_of, small_of
from golden import recipe
from models import refused

import vitpool
from vitpool.config import resolve

BASE: dict[str, Any] = options_of("beit-absolute")[1]
X = recipe.picture((2, 3, 32, 48))
TABLES = ("beit", "beit-shared", "beit-both")


@pytest.mark.parametrize(
    ("options", "norm", "fc_norm"),
    [
        ({}, False, True),
        ({"global_pool": "token"}, True, False),
        ({"global_pool": ""}, True, False),
        ({"use_fc_norm": False}, True, False),
        ({"global_pool": "token", "use_fc_norm": True}, False, True),
        ({"final_norm": False}, False, False),
    ],
)
def test_where_the_last_norm_stands(
    options: dict[str, Any], norm: bool, fc_norm: bool
) -> None:
    keys = vitpool.Beit(**BASE | options, seed=0).param_shapes()
    assert ("norm.weight" in keys, "fc_norm.weight" in keys) == (norm, fc_norm)


def test_layer_scale_is_there_where_it_is_not_0() -> None:
    for value, there in ((None, False), (0.0, False), (0.1, True)):
        model = vitpool.Beit(**BASE | {"init_values": value}, seed=0)
        assert ("blocks.0.gamma_1" in model.param_shapes()) == there
        assert model.config.get("init_values") == (value or None)


def test_options_are_the_cores() -> None:
    core = resolve({"swiglu_mlp": True, "scale_mlp": True}, "Beit")
    assert (core["mlp_layer"], core["act_layer"]) == ("SwiGLU", "silu")
    assert core["scale_mlp_norm"]
    assert core["q_v_bias"]
    assert core["rel_pos"] == "none"
    core = resolve({"use_shared_rel_pos_bias": True}, "Beit")
    assert (core["rel_pos"], core["rel_pos_shared"], core["rel_pos_block"]) == (
        "bias",
        True,
        False,
    )


@pytest.mark.parametrize("pool", ["max", "avgmax", "map", "prr"])
def test_pools_that_the_class_has_not(pool: str) -> None:
    with refused(ValueError, "global_pool", "Beit", repr(pool)):
        vitpool.Beit(**BASE | {"global_pool": pool})
    model = small_of("beit")
    with refused(ValueError, "global_pool", "Beit", model=model, x=X):
        model.reset_classifier(5, pool, add_attn_pool=True)


@pytest.mark.parametrize("pool", ["", "avg", "token"])
def test_pools_that_it_has(pool: str) -> None:
    model = small_of("beit")
    model.reset_classifier(3, pool)
    assert model.global_pool == pool
    assert "fc_norm.weight" in model.state_dict()  # it stays
    tokens = model.forward_features(X)
    pooled = {"": tokens, "avg": tokens[:, 1:].mean(1), "token": tokens[:, 0]}[pool]
    assert np.allclose(model.pool(tokens), pooled, atol=1e-6)


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_resampled_for_another_grid(name: str) -> None:
    model = small_of(name)
    before = model.state_dict()
    model.set_input_size((64, 32))  # 4 x 2 patches, of 2 x 3
    tables = [key for key in before if "bias_table" in key]
    assert tables
    for key in tables:
        table = model.state_dict()[key]
        assert table.shape == (7 * 3 + 3, 4)
        assert table[-3:].tobytes() == before[key][-3:].tobytes()
        middle = before[key][3 * 5 // 2], table[7 * 3 // 2]  # a patch and itself
        assert np.allclose(*middle, atol=1e-6)
    assert model.untrained() == []


def test_an_image_of_another_grid_needs_set_input_size() -> None:
    model = small_of("beit")
    with refused(ValueError, "32", model=model, x=X):
        model(np.zeros((1, 3, 64, 32), np.float32))
    with refused(ValueError, "relative positions", "2 x 3"):
        model.forward_blocks(np.zeros((1, 9, 32), np.float32))
