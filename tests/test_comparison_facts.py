# SPDX-License-Identifier: Apache-2.0
"""Facts of our models, and what differs between two of them, block by block."""

from __future__ import annotations

from typing import Any

import pytest
from models import small

from vitpool.testing.comparison.facts import different, facts_of, folded

DEPTH = {"depth": 3}


def test_facts_of_a_model() -> None:
    facts = facts_of(
        small(
            depth=2, reg_tokens=3, qk_norm=True, init_values=1.0, global_pool="avg",
            norm_layer=("rmsnorm", 1e-5), act_layer="gelu_tanh", qkv_bias=False,
            img_size=(32, 48), no_embed_class=True,
        )
    )  # fmt: skip
    expected = {
        "global_pool": "avg",
        "num_classes": 10,
        "num_features": 32,
        "num_prefix_tokens": 4,
        "class_token": True,
        "reg_tokens": 3,
        "no_embed_class": True,
        "pool_include_prefix": False,
        "dynamic_img_size": False,
        "img_size": (32, 48),
        "patch_size": (16, 16),
        "in_chans": 3,
        "depth": 2,
        "blocks.1.norm1": "rmsnorm",
        "blocks.1.norm1.eps": 1e-05,
        "blocks.1.attn.num_heads": 2,
        "blocks.1.attn.scale": 0.25,
        "blocks.1.attn.q_norm": "rmsnorm",
        "blocks.1.attn.qkv.bias": False,
        "blocks.1.attn.proj.bias": True,
        "blocks.1.ls1": "layerscale",
        "blocks.1.mlp.act": "gelu_tanh",
        "fc_norm": "rmsnorm",
        "head.bias": True,
    }
    assert {name: facts.get(name) for name in expected} == expected
    assert "norm" not in facts


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"])
def test_activations_are_told_by_what_they_do(act: str) -> None:
    assert facts_of(small(act_layer=act))["blocks.0.mlp.act"] == act


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        (
            {"norm_layer": ("layernorm", 1e-5)},
            [
                ("blocks.0-2.norm1.eps", 1e-6, 1e-5),
                ("blocks.0-2.norm2.eps", 1e-6, 1e-5),
                ("norm.eps", 1e-6, 1e-5),
            ],
        ),
        (
            {"act_layer": "quick_gelu"},
            [("blocks.0-2.mlp.act", "gelu", "quick_gelu")],
        ),
        ({"qkv_bias": False}, [("blocks.0-2.attn.qkv.bias", True, False)]),
        (
            {"global_pool": "avg"},
            [
                ("global_pool", "token", "avg"),
                ("norm", "layernorm", None),
                ("fc_norm", None, "layernorm"),
            ],
        ),
        (
            {"init_values": 1.0},
            [
                ("blocks.0-2.ls1", None, "layerscale"),
                ("blocks.0-2.ls2", None, "layerscale"),
            ],
        ),
        ({"num_heads": 4}, [("blocks.0-2.attn.num_heads", 2, 4),
                            ("blocks.0-2.attn.scale", 0.25, 0.3535534)]),
        ({"class_token": False, "global_pool": "avg", "fc_norm": False},
         [("global_pool", "token", "avg"), ("num_prefix_tokens", 1, 0),
          ("class_token", True, False)]),
    ],
)  # fmt: skip
def test_what_differs_is_a_line_for_all_blocks(options: Any, expected: Any) -> None:
    found = different(facts_of(small(**DEPTH)), facts_of(small(**DEPTH | options)))
    assert folded(found) == expected


def test_another_depth_is_told_by_the_parts_too() -> None:
    found = folded(different(facts_of(small(depth=1)), facts_of(small(depth=3))))
    assert ("depth", 1, 3) in found
    assert ("blocks.1-2.norm1", None, "layernorm") in found


def test_what_a_side_does_not_tell_is_no_difference() -> None:
    """An old fork has no pool_include_prefix; its attention keeps no scale."""
    facts = facts_of(small())
    untold = ("pool_include_prefix", "blocks.0.attn.scale", "dynamic_img_size")
    fork = {name: fact for name, fact in facts.items() if name not in untold}
    assert different(facts, fork) == different(fork, facts) == ()


def test_a_part_that_one_side_has_not_is_a_difference() -> None:
    facts = facts_of(small())
    other = {name: fact for name, fact in facts.items() if name != "norm"}
    assert different(facts, other) == (("norm", "layernorm", None),)
    assert different(other, facts) == (("norm", None, "layernorm"),)


def test_facts_that_were_written_to_a_file_are_the_same() -> None:
    facts = facts_of(small())
    read = {k: list(v) if isinstance(v, tuple) else v for k, v in facts.items()}
    assert different(facts, read) == ()


def test_blocks_that_do_not_follow_each_other_are_listed() -> None:
    apart = [(f"blocks.{i}.norm1.eps", 1e-6, 1e-5) for i in (0, 1, 2, 5, 7, 8)]
    assert folded([*apart, ("blocks.3.norm1.eps", 1e-6, 0.1)]) == [
        ("blocks.0-2,5,7-8.norm1.eps", 1e-6, 1e-5),
        ("blocks.3.norm1.eps", 1e-6, 0.1),
    ]
