# SPDX-License-Identifier: Apache-2.0
"""What is easily got wrong in timm's other classes, each beside timm itself.

Numbered as in the list that these tests were written from; the functions here unless
another file is named, and AGREE's entries are test_a_corner_agrees's.

 1 AGREE; a k_bias other than 0: test_from_timm_families.py
 2 test_fc_norms_default_is_timms
 3 AGREE, test_dinov3_pools_normed_patches
 4 AGREE, test_perception_encoders_of_dense_features_have_no_last_norm
 5, 6, 7 AGREE; 7 also test_xy_is_another_model_and_swaps_the_reference_too
 8, 9, 10, 37, 39 test_the_tables_of_a_name_are_timms, and of ref_feat_shape AGREE
11 test_the_other_layout_is_another_model
12, 13 AGREE, test_head_h_reads_the_keys_of_its_group
14 AGREE, test_a_layer_scale_of_0_is_there_in_eva_alone
15, 34, 36, 38 files: tests/test_checkpoint_families.py
16 test_the_patches_have_no_bias_before_norm_pre
17, 18, 19 AGREE
20, 21 AGREE, test_a_distilled_model_means_its_logits
22, 23, 24 AGREE; the resized table: set_input_size in each of AGREE
25 AGREE, test_a_prefix_has_no_bias_of_relpos_mlp
26, 31 tests/test_fresh_families.py, tests/test_eva.py
27, 28, 29, 30 AGREE, test_a_linear_embedding_is_channels_last
32 bfloat16 periods are refused: test_from_timm_families.py
33 tests/timm/test_registry_live.py
35 test_a_reset_keeps_the_norms
40 test_low_precision_keeps_large_angles
"""

from __future__ import annotations

from typing import Any

import families
import numpy as np
import pytest
import reference
import torch
from family_configurations import CLASSES, timms
from golden import recipe
from test_from_timm_families import small

import vitpool
from vitpool import from_timm
from vitpool.checkpoint.live_timm import read_options

ROPE = {"use_rot_pos_emb": True}
DINOV3: dict[str, Any] = {
    **ROPE,
    "rope_type": "dinov3",
    "rope_temperature": 100.0,
    "rope_rotate_half": True,
    "use_abs_pos_emb": False,
    "dynamic_img_size": True,
    "num_reg_tokens": 4,
    "init_values": 1e-5,
    "norm_layer": ("layernorm", 1e-5),
    "use_fc_norm": False,
    "global_pool": "avg",
}
PE: dict[str, Any] = {
    **ROPE,
    "attn_type": "rope",
    "rope_grid_indexing": "xy",
    "rope_grid_offset": 1.0,
    "ref_feat_shape": (3, 5),
    "use_pre_transformer_norm": True,
    "norm_layer": ("layernorm", 1e-5),
}
GQA: dict[str, Any] = {
    **DINOV3,
    "dynamic_img_size": False,
    "attn_type": "rope",
    "qkv_fused": False,
    "qk_norm": True,
    "norm_layer": ("rmsnorm", 1e-6),
    "num_heads": 4,
    "embed_dim": 64,
    "depth": 4,
    "num_kv_heads": (None, 2, 2, None),
    "attn_only_layer_scale": True,
    "swiglu_mlp": True,
    "global_pool": "token",
}
SWIGLU = {"swiglu_mlp": True, "mlp_ratio": 2.7}
SPLIT = {"qkv_fused": False, "scale_mlp": True, **SWIGLU, **ROPE}
MAP = {"global_pool": "map", "attn_pool_num_heads": 8, "attn_pool_mlp_ratio": 1.5}
RADIO = {
    "global_pool": "token",
    "class_token": True,
    "reg_tokens": 3,
    "pos_embed_grid_size": (9, 9),
    "pos_embed_interp_mode": "bilinear",
    "pos_embed_antialias": False,
    "pos_embed_ar_preserving": True,
    "final_norm": False,
}
AGREE: list[tuple[str, str, dict[str, Any]]] = [
    ("1 fused", "Eva", {}),
    ("1 split", "Eva", {"qkv_fused": False}),
    ("1 of attn_type rope", "Eva", {"attn_type": "rope"}),
    ("3", "Eva", DINOV3),
    ("3 the class token", "Eva", DINOV3 | {"global_pool": "token"}),
    ("4", "Eva", PE | {"use_post_transformer_norm": False, "use_fc_norm": False}),
    ("5", "Eva", PE | MAP),
    ("6", "Eva", PE | MAP | {"class_token": False, "rope_grid_offset": 0.0}),
    ("7", "Eva", PE | {"img_size": (24, 40)}),
    ("8", "Eva", {**ROPE, "ref_feat_shape": 7}),
    ("10", "Eva", DINOV3 | {"img_size": (40, 24), "rope_grid_offset": 0.25}),
    ("12 and 13", "Eva", GQA),
    ("14 attention alone", "Eva", {"init_values": 0.1, "attn_only_layer_scale": True}),
    ("14 post-norm ignores it", "Eva", {"use_post_norm": True, "init_values": 0.1}),
    ("17 packed", "Eva", SWIGLU),
    ("17 apart", "Eva", SWIGLU | {"swiglu_align_to": 8}),
    ("18 and 19", "Eva", SPLIT | {"scale_attn_inner": True}),
    ("20 and 21", "VisionTransformerDistilled", {}),
    ("21 any size", "VisionTransformerDistilled", {"dynamic_img_size": True}),
    ("22 to 24", "Beit", {"use_rel_pos_bias": True, "init_values": 0.1}),
    ("24 not square", "Beit", {"use_rel_pos_bias": True, "img_size": (24, 40)}),
    (
        "23 both tables",
        "Beit",
        {"use_rel_pos_bias": True, "use_shared_rel_pos_bias": True},
    ),
    ("25 cr", "VisionTransformerRelPos", {"class_token": True}),
    ("25 swin", "VisionTransformerRelPos", {"rel_pos_type": "mlpswin"}),
    ("27", "NaFlexVit", {"pos_embed_grid_size": (2, 2)}),
    ("28 of two channels", "NaFlexVit", {"in_chans": 2}),
    ("29", "NaFlexVit", {"class_token": True, "reg_tokens": 2}),
    ("30", "NaFlexVit", RADIO),
    ("30 corners", "NaFlexVit", RADIO | {"pos_embed_align_corners": True}),
]


@pytest.mark.parametrize(
    ("kind", "options"), [a[1:] for a in AGREE], ids=[a[0] for a in AGREE]
)
def test_a_corner_agrees(kind: str, options: dict[str, Any]) -> None:
    """At the model's size, and at another that is not square."""
    model = small(kind, **options)
    ours, double = from_timm(model), families.exact(model)
    own = (32, 32) if kind == "NaFlexVit" else tuple(model.patch_embed.img_size)
    for size in (own, (48, 24)):
        if size != own and not families.takes_any_size(model):
            families.resized((model, double, ours), size)

        def call(either: Any, x: Any) -> dict[str, Any]:
            return dict(families.views(either, x))

        given = reference.versions(recipe.picture((2, model.in_chans, *size)))
        got, plain, exact = (
            reference.stacked(found)
            for found in (
                [call(ours, x) for x in given],
                [reference.plainly(model, call, x) for x in given],
                [reference.exactly(double, call, x) for x in given],
            )
        )
        reference.compare(got, exact, plain, str(size))


def apart(one: Any, other: Any, x: np.ndarray) -> float:
    """How far two models' logits are from each other, of the largest."""
    a, b = one(x), other(x)
    return float(np.abs(a - b).max() / np.abs(a).max())


def pair(kind: str, **options: Any) -> tuple[Any, Any, np.ndarray]:
    model = small(kind, **options)
    return from_timm(model), model, recipe.picture((2, model.in_chans, 32, 32))


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("pool", ["", "avg", "avgmax", "max", "token", "map"])
def test_fc_norms_default_is_timms(kind: str, pool: str) -> None:
    options = {"global_pool": pool, "class_token": True}
    if kind == "Beit":
        del options["class_token"]
    given = {"embed_dim": 32, "depth": 1, "num_heads": 2, **options}
    try:
        model = timms(kind, given)
    except AssertionError:
        with pytest.raises(ValueError, match="pool"):
            getattr(vitpool, kind)(**given)
        return
    ours = getattr(vitpool, kind)(**given)
    assert dict(ours.param_shapes()) == reference.shapes(model)


def test_dinov3_pools_normed_patches() -> None:
    ours, _, x = pair("Eva", **DINOV3)
    tokens = ours.forward_features(x)
    pooled = ours.forward_head(tokens, pre_logits=True)
    np.testing.assert_allclose(pooled, tokens[:, 5:].mean(1), rtol=0, atol=1e-6)
    ours.reset_classifier(0, "token")
    np.testing.assert_array_equal(ours(x), ours.forward_features(x)[:, 0])


def test_perception_encoders_of_dense_features_have_no_last_norm() -> None:
    for name in ("vit_pe_lang_large_patch14_448", "vit_pe_spatial_tiny_patch16_512"):
        keys = vitpool.create_model(name, depth=1).param_shapes()
        assert not any(key.startswith(("norm.", "fc_norm.")) for key in keys)
        assert "norm_pre.weight" in keys


def test_xy_is_another_model_and_swaps_the_reference_too() -> None:
    options = {**ROPE, "ref_feat_shape": (3, 7), "img_size": (32, 32)}
    model = small("Eva", **options)
    state = reference.state(model)
    xy, ij = (
        vitpool.Eva(
            **from_timm(model).config | {"rope_grid_indexing": way}, weights=state
        )
        for way in ("xy", "ij")
    )
    x = recipe.picture((2, 3, 32, 32))
    assert apart(xy, ij, x) > 1e-3
    table = [m.rope.get_embed().reshape(4, 4, 2, -1) for m in (xy, ij)]
    # the first half of a head turns by columns, whose reference is the second number
    half = table[0].shape[-1] // 2
    np.testing.assert_array_equal(table[0][..., :half], table[1][..., half:])


def roped() -> list[str]:
    out = []
    for name in families.NAMES:
        if hasattr(families.on_meta(name, **families.small_enough(name)), "rope_mixed"):
            out.append(name)
    return out


@pytest.mark.parametrize("name", roped())
def test_the_tables_of_a_name_are_timms(name: str) -> None:
    """Of one head, on the model's own grid and, where it takes others, on another."""
    whole = families.on_meta(name, **families.small_enough(name))
    if whole.rope is None:
        return
    heads = whole.blocks[0].attn.num_heads
    options = read_options(whole) | {
        "embed_dim": whole.embed_dim // heads,
        "num_heads": 1,
        "num_kv_heads": None,
        "depth": 1,
        "attn_pool_num_heads": 1,
    }
    model = timms("Eva", options)
    families.draw(model)
    ours = from_timm(model)
    grids = [tuple(model.patch_embed.grid_size)]
    if model.dynamic_img_size:
        grids.append((5, 9))
    for grid in grids:
        theirs = model.rope.get_embed(shape=grid).detach().numpy()
        exact = families.rotations(model.rope, grid)
        found = ours.rope.get_embed(grid)
        # a rounding of each step, of angles as large as the grid is
        limit = 4 * 2.0**-24 * max(1, *grid) if whole.rope_mixed else 2e-7
        assert np.abs(found - theirs).max() <= max(limit, np.abs(theirs - exact).max())
        off = np.abs(found - exact).max()
        assert off <= 1.5 * np.abs(theirs - exact).max() + 2.0**-23


def test_the_other_layout_is_another_model() -> None:
    """A wrong one gives features that look right."""
    model = small("Eva", **ROPE)
    state, config = reference.state(model), from_timm(model).config
    half = vitpool.Eva(**config | {"rope_rotate_half": True}, weights=state)
    plain = vitpool.Eva(**config | {"rope_rotate_half": False}, weights=state)
    assert apart(half, plain, recipe.picture((2, 3, 32, 32))) > 1e-3


def test_head_h_reads_the_keys_of_its_group() -> None:
    """One that has each group's keys and values for each head is the same model."""
    model = small("Eva", **GQA)
    state, config = reference.state(model), from_timm(model).config
    for key in [k for k in state if "k_proj" in k or "v_proj" in k]:
        if len(state[key]) == 32:
            heads = state[key].reshape(2, 16, *state[key].shape[1:])
            state[key] = heads.repeat(2, 0).reshape(64, *state[key].shape[1:])
    wide = vitpool.Eva(**config | {"num_kv_heads": None}, weights=state)
    assert apart(from_timm(model), wide, recipe.picture((2, 3, 32, 32))) < 1e-5


@pytest.mark.parametrize("kind", CLASSES)
def test_a_layer_scale_of_0_is_there_in_eva_alone(kind: str) -> None:
    given = {"embed_dim": 32, "depth": 1, "num_heads": 2, "init_values": 0.0}
    keys = getattr(vitpool, kind)(**given).param_shapes()
    assert list(keys) == list(reference.shapes(timms(kind, given)))
    scaled = any("gamma" in key for key in keys)
    assert scaled == (kind == "Eva")


def test_the_patches_have_no_bias_before_norm_pre() -> None:
    for pre in (False, True):
        ours, model, _ = pair("Eva", use_pre_transformer_norm=pre)
        assert ("patch_embed.proj.bias" in ours.param_shapes()) != pre
        assert dict(ours.param_shapes()) == reference.shapes(model)


def test_a_distilled_model_means_its_logits() -> None:
    ours, _, x = pair("VisionTransformerDistilled")
    tokens = ours.forward_features(x)
    logits = (ours.head(tokens[:, 0]) + ours.head_dist(tokens[:, 1])) / 2
    np.testing.assert_allclose(ours(x), logits, rtol=0, atol=1e-5)
    features = ours.forward_head(tokens, pre_logits=True)
    np.testing.assert_allclose(features, tokens[:, :2].mean(1), rtol=0, atol=1e-6)
    assert np.abs(ours.head(features) - logits).max() > 1e-2


def test_a_prefix_has_no_bias_of_relpos_mlp() -> None:
    """A class token sees all alike: its own output does not depend on the table."""
    model = small(
        "VisionTransformerRelPos", class_token=True, global_pool="token", depth=1
    )
    ours, x = from_timm(model), recipe.picture((2, 3, 32, 32))
    before = ours(x)
    key = "blocks.0.attn.rel_pos.mlp.fc2.weight"
    ours.load_state_dict({key: -3 * ours.get_parameter(key)}, strict=False)
    np.testing.assert_array_equal(ours(x), before)
    assert not np.array_equal(
        ours.forward_features(x)[:, 1:], from_timm(model).forward_features(x)[:, 1:]
    )


def test_a_linear_embedding_is_channels_last() -> None:
    """A convolution's kernel (C, channels, rows, columns), its channels put last."""
    conv = small("NaFlexVit", embed_proj_type="conv")
    state = reference.state(conv)
    kernel = state["embeds.proj.weight"]
    state["embeds.proj.weight"] = np.ascontiguousarray(
        kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    )
    config = from_timm(conv).config
    linear = vitpool.NaFlexVit(**config | {"embed_proj_type": "linear"}, weights=state)
    assert apart(from_timm(conv), linear, recipe.picture((2, 3, 32, 32))) < 1e-5


@pytest.mark.parametrize("kind", ["Eva", "Beit"])
def test_a_reset_keeps_the_norms(kind: str) -> None:
    """The mean of normed tokens, unlike that of a model made for the mean."""
    model = small(kind, global_pool="token")
    ours = from_timm(model)
    model.reset_classifier(0, "avg")
    ours.reset_classifier(0, "avg")
    assert list(ours.param_shapes()) == list(reference.shapes(model))
    x = recipe.picture((2, 3, 32, 32))
    with torch.inference_mode():
        want = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours(x), want, rtol=0, atol=1e-5 * np.abs(want).max())
    fresh = getattr(vitpool, kind)(
        **ours.config
        | {"use_fc_norm": True}
        | ({"use_post_transformer_norm": False} if kind == "Eva" else {})
    )
    moved = {
        k.replace("norm.", "fc_norm.") if k.startswith("norm.") else k: v
        for k, v in ours.state_dict().items()
    }
    fresh.load_state_dict(moved)
    assert apart(ours, fresh, x) > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_low_precision_keeps_large_angles(dtype: Any) -> None:
    """Rotations stay float32, of places up to 31 that are not rounded."""
    options = {**ROPE, "img_size": (8, 256), "qkv_fused": False}
    model = small("Eva", **options)
    ours = from_timm(model)
    x = recipe.picture((2, 3, 8, 256))
    assert (
        np.abs(from_timm(model, dtype).rope.get_embed() - ours.rope.get_embed()).max()
        == 0
    )
    assert apart(ours, from_timm(model, dtype), x) < 0.05
