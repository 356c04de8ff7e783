# SPDX-License-Identifier: Apache-2.0
"""Fresh weights of timm's other classes: each of its own distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import copies
from test_initialisation import (
    assert_normal,
    assert_uniform,
    conv_bound,
    linears,
)

import vitpool

WIDE: dict[str, Any] = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 192,
    "depth": 2,
    "num_heads": 3,
    "num_classes": 100,
    "seed": 5,
}


def assert_norms(state: dict[str, np.ndarray]) -> None:
    for key, value in state.items():
        part = key.split(".")[-2] if "." in key else ""
        if part.startswith("norm") or part == "fc_norm":
            assert (value == (1 if key.endswith("weight") else 0)).all(), key


@pytest.mark.parametrize("swiglu", [False, True])
def test_a_fresh_beit_is_timms(swiglu: bool) -> None:
    model = vitpool.Beit(
        **WIDE,
        init_values=0.1,
        use_rel_pos_bias=True,
        use_shared_rel_pos_bias=True,
        swiglu_mlp=swiglu,
        scale_mlp=True,
    )
    state = copies(model)
    assert_norms(state)
    assert_normal(state["cls_token"], 0.02)
    assert_normal(state["pos_embed"], 0.02)
    assert_uniform(state["patch_embed.proj.weight"], conv_bound(state))
    for key, value in linears(state).items():
        std = 0.02 * (0.001 if key == "head.weight" else 1)
        if key.endswith((".attn.proj.weight", ".mlp.fc2.weight")):
            std /= (2.0 * (int(key.split(".")[1]) + 1)) ** 0.5
        assert_normal(value, std)
    zero = [k for k in state if k.endswith(("_bias", "bias_table", ".bias"))]
    assert len(zero) > 10
    assert not any(state[k].any() for k in zero if not k.startswith("patch_embed"))
    for key in ("gamma_1", "gamma_2"):
        assert (state[f"blocks.1.{key}"] == np.float32(0.1)).all()


def test_a_beits_head_is_scaled_only_where_it_is_asked_for() -> None:
    plain = copies(vitpool.Beit(**WIDE, head_init_scale=0.0))["head.weight"]
    half = copies(vitpool.Beit(**WIDE, head_init_scale=0.5))["head.weight"]
    assert_normal(plain, 0.02)
    np.testing.assert_array_equal(half, plain * np.float32(0.5))


def test_a_new_head_of_a_beit_is_as_its_constructors() -> None:
    model = vitpool.Beit(**WIDE, head_init_scale=0.5)
    model.reset_classifier(200)
    assert_normal(copies(model)["head.weight"], 0.01)


@pytest.mark.parametrize("kind", ["mlp", "mlpswin", "bias"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_fresh_relpos_is_torchs(kind: str, shared: bool) -> None:
    """weight_init is 'reset' there unless it is told otherwise."""
    model = vitpool.VisionTransformerRelPos(
        **WIDE, rel_pos_type=kind, rel_pos_dim=64, shared_rel_pos=shared
    )
    state = copies(model)
    assert_norms(state)
    found = 0
    for key, value in state.items():
        if key.endswith("bias_table"):
            assert_normal(value, 0.02)
            found += 1
        elif key in linears(state):
            bound = value.shape[1] ** -0.5
            assert_uniform(value, bound)
            bias = key.replace("weight", "bias")
            if bias in state:
                assert np.abs(state[bias]).max() <= bound * (1 + 1e-6), bias
                assert np.abs(state[bias]).max() > 0.5 * bound or value.shape[0] < 9
            found += "rel_pos" in key
        elif key.endswith("gamma"):
            assert (value == np.float32(1e-6)).all()
    assert found == (1 if kind == "bias" else 2) * (1 if shared else 2)


def test_a_fresh_relpos_of_other_modes_is_timms() -> None:
    options: dict[str, Any] = {"rel_pos_type": "mlp", "rel_pos_dim": 64}
    state = copies(
        vitpool.VisionTransformerRelPos(
            **WIDE, **options, weight_init="", class_token=True
        )
    )
    assert_normal(state["cls_token"], 1e-6)
    for key, value in linears(state).items():
        assert_normal(value, 0.02)
        assert not state[key.replace("weight", "bias")].any(), key
    fixed = copies(
        vitpool.VisionTransformerRelPos(
            **WIDE, **options, weight_init="", class_token=True, fix_init=True
        )
    )
    changed = {k for k in state if state[k].tobytes() != fixed[k].tobytes()}
    assert changed == {
        f"blocks.{i}.{name}.weight" for i in (0, 1) for name in ("attn.proj", "mlp.fc2")
    }
    jax = copies(vitpool.VisionTransformerRelPos(**WIDE, **options, weight_init="jax"))
    assert not jax["head.weight"].any()
    assert_uniform(jax["blocks.0.attn.rel_pos.mlp.fc1.weight"], (6 / 66) ** 0.5)
    assert_normal(jax["blocks.0.attn.rel_pos.mlp.fc1.bias"], 1e-6)


def test_a_post_norm_of_relpos_begins_small() -> None:
    state = copies(
        vitpool.VisionTransformerRelPos(
            **WIDE, block_fn="ResPostRelPosBlock", init_values=0.25
        )
    )
    for key in ("norm1", "norm2"):
        assert (state[f"blocks.0.{key}.weight"] == 0.25).all()
        assert not state[f"blocks.0.{key}.bias"].any()


def test_a_fresh_distilled_model_is_timms() -> None:
    state = copies(vitpool.VisionTransformerDistilled(**WIDE))
    assert_norms(state)
    assert_normal(state["dist_token"], 0.02)
    assert_normal(state["cls_token"], 1e-6)
    for head in ("head", "head_dist"):
        assert_normal(state[f"{head}.weight"], 0.02)
        assert not state[f"{head}.bias"].any()
    assert not np.array_equal(state["head.weight"], state["head_dist.weight"])
    jax = copies(vitpool.VisionTransformerDistilled(**WIDE, weight_init="jax_nlhb"))
    for head in ("head", "head_dist"):
        assert not jax[f"{head}.weight"].any()
        np.testing.assert_allclose(jax[f"{head}.bias"], -np.log(100), rtol=1e-6)


@pytest.mark.parametrize(
    ("family", "mode"),
    [("Eva", ""), ("NaFlexVit", ""), ("NaFlexVit", "reset"), ("NaFlexVit", "jax")],
)
def test_what_evas_blocks_are_made_with_is_in_every_class(
    family: str, mode: str
) -> None:
    """Layer scale, biases of q and v, and directions of mixed rope, whose lengths are
    one geometric series for each head."""
    options: dict[str, Any] = {**WIDE, "init_values": 0.1, "rope_type": "mixed"}
    options |= {"attn_type": "eva", "rope_temperature": 16.0}
    if family == "Eva":
        options |= {"use_rot_pos_emb": True}
    else:
        options |= {"weight_init": mode}
    state = copies(getattr(vitpool, family)(**options))
    for block in ("blocks.0", "blocks.1"):
        for key in ("gamma_1", "gamma_2"):
            assert (state[f"{block}.{key}"] == np.float32(0.1)).all()
        for key in ("q_bias", "v_bias"):
            assert not state[f"{block}.attn.{key}"].any()
    freqs = state["rope.freqs"]
    assert freqs.shape == (2, 2, 3, 32)
    lengths = np.tile(16.0 ** -(np.arange(16) / 16), 2)
    assert np.allclose(np.hypot(*freqs), lengths, rtol=1e-5)
    angles = np.arctan2(freqs[1], freqs[0])
    assert np.ptp(angles[..., 0]) > 0.5  # of each head another
    turned = np.exp(1j * (angles[..., 16:] - angles[..., :16]))
    assert np.allclose(turned, 1j, atol=1e-5)
    none = getattr(vitpool, family)(**options | {"depth": 0})
    assert none.param_shapes()["rope.freqs"] == (2, 0, 3, 32)
