# SPDX-License-Identifier: Apache-2.0
"""NaFlexVit by itself: what it takes, what it refuses, and what it keeps."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import naflex_batches as batches
import numpy as np
import pytest
from golden import recipe
from models import unchanged

import vitpool
from vitpool.model.naflex_positions import positions_at, positions_on
from vitpool.transforms import get_image_size_for_seq, patchify, preprocess

P, PIXELS = 4, 48
OPTIONS: dict[str, Any] = {
    "patch_size": P,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "pos_embed_grid_size": (4, 5),
    "class_token": True,
    "reg_tokens": 2,
    "num_classes": 5,
}
GRIDS = [(4, 5), (2, 6), (5, 3), (2, 6), (1, 1), (7, 4)]
X = recipe.picture((2, 3, 12, 24), 0)


def model(seed: int = 1, **options: Any) -> vitpool.NaFlexVit:
    made = vitpool.NaFlexVit(**OPTIONS | options, seed=seed)
    # so that LayerScale, tokens and positions count
    state = recipe.weights(dict(made.param_shapes()), seed)
    made.load_state_dict(state)
    return made


def given(length: int = 30, keep: float = 1.0) -> dict[str, np.ndarray]:
    return batches.batch(GRIDS, PIXELS, length, keep=keep)


@pytest.mark.parametrize("pool", ["map", "avg", "avgmax", "max", "token", ""])
def test_padding_counts_for_nothing(pool: str) -> None:
    """Whatever stands in it, and wherever it stands."""
    ours, batch = model(global_pool=pool), given()
    whole = ours(batch)
    other = {key: value.copy() for key, value in batch.items()}
    other["patches"][~batch["patch_valid"]] = np.nan
    for place in (60000, -1, 10**9):
        other["patch_coord"][~batch["patch_valid"]] = place
        assert np.array_equal(ours(other), whole)
    short = {key: value[1:2, :12] for key, value in batch.items()}
    width = ours(short).shape[1]
    assert np.allclose(ours(short)[0], whole[1][:width], rtol=1e-5, atol=1e-6)
    # the valid rows in the middle
    order = np.concatenate([np.arange(12, 20), np.arange(12), np.arange(20, 30)])
    moved = {key: value[1:2, order] for key, value in batch.items()}
    again = ours(moved)
    if pool:
        assert np.allclose(again[0], whole[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["map", "avg", "avgmax", "max", "token", ""])
@pytest.mark.parametrize("include", [False, True])
def test_the_head_of_padded_tokens_is_the_forward_pass(
    pool: str, include: bool
) -> None:
    ours, batch = model(global_pool=pool, pool_include_prefix=include), given()
    features = ours.forward_features(batch)
    assert np.allclose(ours.forward_head(**features), ours(batch), rtol=1e-4, atol=1e-5)
    valid = features["patch_valid"]
    assert not features["patches"][:, 3:][~valid].any()
    pooled = ours.pool(features["patches"], None, valid)
    assert pooled.shape == (6, 33, 48) if not pool else (6, 48)


def test_weights_of_attention_are_spread() -> None:
    ours, batch = model(), given()
    _, weights = ours(batch, return_attn=[0, "attn_pool"])
    valid = batch["patch_valid"]
    tokens = np.concatenate([np.ones((6, 3), bool), valid], 1)
    pairs = tokens[:, None, :, None] & tokens[:, None, None]
    assert weights[0].shape == (6, 3, 33, 33)
    assert not weights[0][~np.broadcast_to(pairs, weights[0].shape)].any()
    sums = weights[0].sum(-1).transpose(0, 2, 1)
    assert np.allclose(sums[tokens], 1, atol=1e-5)
    assert weights["attn_pool"].shape == (6, 3, 1, 30)
    assert np.allclose(weights["attn_pool"].sum(-1), 1, atol=1e-5)
    assert not weights["attn_pool"].transpose(0, 3, 1, 2)[~valid].any()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pos_embed_interp_mode": "bilinear", "pos_embed_align_corners": True},
        {"pos_embed_ar_preserving": True},
        {"pos_embed": "factorized"},
        {"pos_embed": "factorized", "pos_embed_ar_preserving": True},
    ],
)
@pytest.mark.parametrize("grid", [(4, 5), (3, 9), (8, 2), (1, 1)])
def test_a_place_has_the_position_that_it_has_in_the_whole_grid(
    options: dict[str, Any], grid: tuple[int, int]
) -> None:
    ours = model(**options, pos_embed_antialias=False)
    whole = positions_on(ours, grid, True)
    places = batches.places(grid)
    some = places[:: 2 if len(places) > 1 else 1]
    few = positions_at(ours, grid, some)
    assert np.allclose(few, whole[:, :: 2 if len(places) > 1 else 1], atol=1e-6)


def test_dropped_patches_see_no_others() -> None:
    """A picture of which patches are missing is one whose others are masked."""
    ours, batch = model(pos_embed_antialias=False), given(keep=0.5)
    whole = batches.batch([(7, 4)], PIXELS, seed="other")
    coord = batch["patch_coord"][5][batch["patch_valid"][5]]
    rows = coord[:, 0] * 4 + coord[:, 1]
    few = ours.forward_features(whole["patches"][:, rows], coord[None])["patches"]
    mask = np.zeros(31, bool)
    mask[[0, 1, 2, *(3 + rows)]] = True
    full = ours.forward_features(
        whole["patches"], whole["patch_coord"], None, np.broadcast_to(mask, (31, 31))
    )["patches"]
    assert np.allclose(full[:, mask], few, rtol=1e-4, atol=1e-5)


def test_patches_may_come_in_any_order() -> None:
    ours, batch = model(global_pool="avg"), batches.batch([(3, 4)], PIXELS)
    order = np.array([5, 0, 11, 7, 1, 2, 3, 4, 6, 8, 9, 10])
    moved = {key: value[:, order] for key, value in batch.items()}
    assert np.allclose(ours(moved), ours(batch), rtol=1e-4, atol=1e-5)
    tokens = ours.forward_features(batch)["patches"][:, 3:]
    again = ours.forward_features(moved)["patches"][:, 3:]
    assert np.allclose(again, tokens[:, order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 33])
def test_masks_are_cut_to_a_samples_own_tokens(rows: int) -> None:
    """A mask of the padded batch does what its part does to the sample alone."""
    ours = model()
    batch = {key: np.roll(value, 5, 1) for key, value in given().items()}
    mask = 3 * recipe.uniform((6, 3, rows, 33), "mask").astype(np.float32)
    whole = ours.forward_features(**batch, attn_mask=mask)["patches"]
    for index, valid in enumerate(batch["patch_valid"]):
        own = np.flatnonzero(np.concatenate([np.ones(3, bool), valid]))
        part = mask[index : index + 1][..., own]
        part = part if rows == 1 else part[:, :, own]
        patches = batch["patches"][index : index + 1, valid]
        coord = batch["patch_coord"][index : index + 1, valid]
        alone = ours.forward_features(patches, coord, None, part)["patches"]
        assert np.allclose(alone[0], whole[index, own], rtol=1e-4, atol=1e-5)


def test_positions_that_keep_their_aspect_are_a_squares() -> None:
    ours = model(pos_embed_ar_preserving=True)
    square = positions_on(ours, (9, 9), False).reshape(9, 9, 48)
    oblong = positions_on(ours, (3, 9), False).reshape(3, 9, 48)
    assert np.array_equal(oblong, square[:3])
    stretched = positions_on(model(), (3, 9), False).reshape(3, 9, 48)
    assert not np.allclose(stretched, oblong, atol=1e-3)


def test_far_places_cost_no_grid() -> None:
    ours = model(pos_embed_antialias=False)
    coord = np.array([[[0, 0], [65535, 3], [7, 65535]]])
    patches = recipe.uniform((1, 3, PIXELS), "far").astype(np.float32)
    assert np.isfinite(ours(patches, coord)).all()
    turned = model(rope_type="axial")
    with pytest.raises(ValueError, match=r"grid of 65536 x 65536: with rope"):
        turned(patches, coord)


@pytest.mark.parametrize("batch", [0, 1])
def test_an_empty_batch_has_its_shapes(batch: int) -> None:
    ours = model()
    few = {key: value[:batch] for key, value in given().items()}
    assert ours(few).shape == (batch, 5)
    five = few["patches"].reshape(batch, 30, 4, 4, 3)
    assert np.array_equal(ours(few | {"patches": five}), ours(few))
    assert ours.forward_features(few)["patches"].shape == (batch, 33, 48)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no coordinates": ({"patch_coord": None}, ValueError, "patch_coord must be given"),
    "another key": ({"pixels": 1}, ValueError, "a dict must have the keys 'patches'"),
    "pixels": (
        {"patches": np.zeros((6, 30, 47), np.float32)},
        ValueError,
        r"patches must have shape \(B, N, 48\) or \(B, N, 4, 4, 3\), not \(6, 30, 47\)",
    ),
    "another patch": (
        {"patches": np.zeros((6, 30, 5, 4, 3), np.float32)},
        ValueError,
        r"not \(6, 30, 5, 4, 3\)",
    ),
    "float coordinates": (
        {"patch_coord": np.zeros((6, 30, 2))},
        TypeError,
        "patch_coord must be integers, not float64",
    ),
    "coordinates' shape": (
        {"patch_coord": np.zeros((6, 29, 2), int)},
        ValueError,
        r"patch_coord must have shape \(6, 30, 2\)",
    ),
    "below": (
        {"patch_coord": np.full((6, 30, 2), -1)},
        ValueError,
        "must be from 0 to 65535, not from -1",
    ),
    "float valid": (
        {"patch_valid": np.ones((6, 30))},
        TypeError,
        "patch_valid must be bool, not float64",
    ),
    "valid's shape": (
        {"patch_valid": np.ones((6, 29), bool)},
        ValueError,
        r"patch_valid must have shape \(6, 30\)",
    ),
    "a sample of padding": (
        {"patch_valid": np.arange(6)[:, None].repeat(30, 1) > 0},
        ValueError,
        "patch_valid leaves sample 0 without a patch",
    ),
    "mask": (
        {"attn_mask": np.ones((6, 1, 30, 30), bool)},
        ValueError,
        r"attn_mask must broadcast to \(6, H, 33, 33\)",
    ),
    "heads of a mask": (
        {"attn_mask": np.ones((6, 2, 33, 33), bool)},
        ValueError,
        "attn_mask must broadcast",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused(name: str) -> None:
    changed, kind, words = BAD[name]
    ours = model()
    batch = {k: v for k, v in (given() | changed).items() if v is not None}
    with unchanged(ours), pytest.raises(kind, match=words):
        ours(batch)


def test_what_else_does_not_fit_is_refused() -> None:
    ours, batch = model(), given()
    for samples in (6, 0):
        none = {key: value[:samples, :0] for key, value in batch.items()}
        del none["patch_valid"]
        with pytest.raises(ValueError, match=f"at least one .*{samples}, 0, 48"):
            ours(none)
    with pytest.raises(ValueError, match="may be missing, not none"):
        ours({})
    with pytest.raises(ValueError, match="x must have shape"):
        ours(batch["patches"])
    with pytest.raises(ValueError, match="multiples of the patch size"):
        ours(X[:, :, :11])
    with pytest.raises(ValueError, match="'NLC' for patches"):
        ours.forward_intermediates(batch)
    with pytest.raises(ValueError, match="linear embedding"):
        model(embed_proj_type="conv")(batch)
    with pytest.raises(TypeError, match="profile takes images"):
        ours.profile(batch)
    with pytest.raises(ValueError, match="'map' needs its trained attention pool"):
        model(global_pool="avg").reset_classifier(3, "map")
    for pool in ("prr", "map "):
        with unchanged(ours), pytest.raises(ValueError, match="global_pool"):
            ours.reset_classifier(3, pool)  # type: ignore[arg-type]


OPTIONS_REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "gate": ({"attn_gated": True}, ValueError, "sigmoid gate is not computed"),
    "mrope": ({"rope_type": "mrope"}, ValueError, "rope_type must be one of"),
    "sections": ({"rope_mrope_section": (1, 2, 3)}, ValueError, "'mrope' is not"),
    "input norm": ({"input_norm_layer": "layernorm"}, ValueError, "does not use it"),
    "positions": ({"pos_embed": "learn"}, ValueError, "'learned', 'factorized', not"),
    "mode": ({"pos_embed_interp_mode": "area"}, ValueError, "'bicubic', 'bilinear'"),
    "no grid": ({"pos_embed_grid_size": None}, ValueError, "img_size must be given"),
    "a huge grid": (
        {"pos_embed_grid_size": (4, 1 << 17)},
        ValueError,
        "pos_embed_grid_size must be at most 65536, not 131072",
    ),
    "small": (
        {"pos_embed_grid_size": None, "img_size": 3},
        ValueError,
        "at least patch_size",
    ),
    "blocks": (
        {"swiglu_mlp": True, "block_fn": "ResPostBlock"},
        ValueError,
        "block_fn must be None",
    ),
    "biases": ({"swiglu_mlp": True, "proj_bias": False}, ValueError, "proj_bias must"),
    "groups": ({"num_kv_heads": 1}, ValueError, "num_kv_heads needs attn_type='rope'"),
    "half of mixed": (
        {"rope_type": "mixed", "rope_rotate_half": True},
        ValueError,
        "rope_rotate_half must be False",
    ),
    "token": (
        {"global_pool": "token", "class_token": False},
        ValueError,
        "class token",
    ),
    "unknown": ({"patch_sise": 8}, TypeError, "did you mean 'patch_size'"),
    "another class's": ({"no_embed_class": True}, TypeError, "NaFlexVit has no option"),
    "cfg": ({"cfg": 3}, TypeError, "cfg must be a NaFlexVitCfg or a mapping, not int"),
    "beside": ({"cfg": {"in_chans": 1}}, TypeError, "cfg has no option 'in_chans'"),
}


@pytest.mark.parametrize("name", OPTIONS_REFUSED)
def test_options_are_refused_by_name(name: str) -> None:
    changed, kind, words = OPTIONS_REFUSED[name]
    with pytest.raises(kind, match=words):
        vitpool.NaFlexVit(**OPTIONS | changed)


KEPT: dict[str, dict[str, Any]] = {
    "plain": {},
    "factorized": {"pos_embed": "factorized", "pos_embed_ar_preserving": True},
    "radio": {
        "pos_embed_interp_mode": "bilinear",
        "pos_embed_antialias": False,
        "pos_embed_align_corners": True,
        "final_norm": False,
    },
    "rope": {"rope_type": "axial", "rope_ref_feat_shape": (4, 4), "pos_embed": "none"},
    "mixed": {"rope_type": "mixed", "rope_temperature": 10.0},
    "swiglu": {"swiglu_mlp": True, "act_layer": "gelu_tanh"},
    "aligned": {"swiglu_mlp": True, "swiglu_align_to": 32, "qkv_fused": False},
    "grouped": {"attn_type": "rope", "qkv_fused": False, "num_kv_heads": 1},
    "scaled": {"attn_only_layer_scale": True, "init_values": 1e-5},
    "pool": {"attn_pool_num_heads": 6, "attn_pool_mlp_ratio": 1.5},
    "pixels": {"patchify_channels_last": False, "enable_patch_interpolator": True},
    "sampled": {"pos_embed_use_grid_sample": True, "dynamic_img_pad": True},
    "conv": {"embed_proj_type": "conv", "embed_norm_layer": "rmsnorm"},
    "rates": {"drop_rate": 0.1, "patch_drop_rate": 0.2},
}


@pytest.mark.parametrize("kind", KEPT)
def test_copies_pickles_and_folders_are_the_same_model(
    kind: str, tmp_path: Path
) -> None:
    ours = model(**KEPT[kind])
    copies = [copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    copies.append(vitpool.NaFlexVit(**ours.config, weights=ours.state_dict()))
    ours.save_pretrained(tmp_path)
    copies.append(vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True))
    for other in copies:
        assert type(other) is vitpool.NaFlexVit
        if kind != "rates":
            assert other.config == ours.config
        assert np.array_equal(other(X), ours(X))
        if kind != "conv":
            assert np.array_equal(other(given()), ours(given()))


def test_the_config_says_what_was_given() -> None:
    for kind in KEPT:
        made = vitpool.NaFlexVit(**OPTIONS | KEPT[kind]).config
        said = {k: v for k, v in (OPTIONS | KEPT[kind]).items() if k in made}
        said.pop("swiglu_align_to", None)  # the width is as wide without it
        for name, value in said.items():
            assert made[name] == (("rmsnorm", 1e-6) if value == "rmsnorm" else value)


def test_a_cfg_and_flat_options_make_the_same_model() -> None:
    own = {k: v for k, v in OPTIONS.items() if k != "num_classes"}
    cfg = vitpool.NaFlexVitCfg(**own)
    made = vitpool.NaFlexVit(cfg, num_classes=5, depth=1)
    assert made.config == vitpool.NaFlexVit(**OPTIONS | {"depth": 1}).config
    assert vitpool.NaFlexVit(own, 3, 5).config == vitpool.NaFlexVit(**OPTIONS).config
    assert made.get_patch_size() == (P, P)
    assert (made.has_class_token, made.num_reg_tokens) == (True, 2)
    assert made.no_weight_decay() >= {"embeds.pos_embed", "embeds.cls_token"}
    assert made.group_matcher()["stem"] == "^embeds"


def test_what_lies_in_embeds_is_there_alone() -> None:
    ours = model()
    for name in ("cls_token", "reg_token", "pos_embed"):
        assert not hasattr(ours, name)
        stored = ours.get_parameter(f"embeds.{name}")
        assert np.array_equal(getattr(ours.embeds, name), stored)
    with pytest.raises(AttributeError, match=r"embeds\.cls_token is in its place"):
        _ = ours.cls_token
    with pytest.raises(AttributeError, match="cls_token"):
        ours.cls_token = np.zeros((1, 1, 48), np.float32)
    assert not hasattr(ours, "patch_embed")


def test_resets_keep_what_is_trained() -> None:
    ours = model()
    pool = {k: v for k, v in ours.state_dict().items() if k.startswith("attn_pool")}
    ours.reset_classifier(7, "map")
    assert all(np.array_equal(ours.get_parameter(k), v) for k, v in pool.items())
    ours.reset_classifier(2, "avg")
    assert ours.attn_pool is None
    assert ours(given()).shape == (6, 2)
    ours.reset_classifier(2, "map", add_attn_pool=True)
    assert ours.attn_pool is not None
    ours.reset_classifier(0, "")
    assert ours(given()).shape == (6, 33, 48)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pos_embed": "factorized"},
        {"embed_proj_type": "conv"},
        {"pos_embed_ar_preserving": True, "patchify_channels_last": False},
    ],
)
def test_another_grid_of_its_own_gives_what_resampling_gives(
    options: dict[str, Any],
) -> None:
    ours = model(**options)
    before, x = copy.copy(ours), recipe.picture((2, 3, 12, 24), 0)
    ours.set_input_size((12, 24))
    assert ours.config["pos_embed_grid_size"] == (3, 6)
    assert np.allclose(ours(x), before(x), rtol=1e-5, atol=1e-6)
    ours.set_input_size((18, 24), 6)
    assert ours.get_patch_size() == (6, 6)
    assert ours(recipe.picture((1, 3, 12, 30), 0)).shape == (1, 5)
    with pytest.raises(ValueError, match="img_size"):
        ours.set_input_size((4, 24))
    assert ours.get_patch_size() == (6, 6)


def test_causal_tokens_see_none_behind_them() -> None:
    ours, batch = model(global_pool="avg"), batches.batch([(2, 3), (3, 1)], PIXELS)
    whole = ours.forward_features(batch, is_causal=True)["patches"]
    other = {key: value.copy() for key, value in batch.items()}
    other["patches"][0, 4:] += 1
    again = ours.forward_features(other, is_causal=True)["patches"]
    assert np.array_equal(again[0, :7], whole[0, :7])
    assert not np.allclose(again[0, 7:], whole[0, 7:])
    assert not np.allclose(ours(batch), ours(batch, is_causal=True))
    with pytest.raises(ValueError, match="one or the other"):
        ours(batch, attn_mask=np.ones((9, 9), bool), is_causal=True)


def test_low_precision_and_another_state_reach_patches_as_well() -> None:
    ours, batch = model(enable_patch_interpolator=True), given()
    plain = ours(batch)
    for dtype in ("bfloat16", "int8"):
        low = copy.copy(ours).to(dtype)
        assert np.allclose(low(batch), plain, rtol=0.2, atol=0.2 * abs(plain).max())
    larger = {**batch, "patches": recipe.uniform((6, 30, 6, 6, 3), 1).astype("f4")}
    before = ours(larger)
    table = ours.get_parameter("embeds.pos_embed")
    kernel = ours.get_parameter("embeds.proj.weight")
    ours.load_state_dict({"embeds.pos_embed": table * 2}, strict=False)
    assert not np.allclose(ours(batch), plain)
    ours.load_state_dict(
        {"embeds.pos_embed": table, "embeds.proj.weight": kernel * 2}, strict=False
    )
    assert not np.allclose(ours(larger), before)
    ours.load_state_dict({"embeds.proj.weight": kernel}, strict=False)
    assert np.array_equal(ours(larger), before)


def test_use_naflex_makes_one_of_another_classs_name() -> None:
    small = {"depth": 1, "num_classes": 3}
    ours = vitpool.create_model("test_vit", use_naflex=True, **small, seed=1)
    assert type(ours) is vitpool.NaFlexVit
    assert ours.config["pos_embed_grid_size"] == (10, 10)
    assert ours(recipe.picture((1, 3, 48, 80), 0)).shape == (1, 3)
    # where a norm stands behind the pool there, it does here
    most = vitpool.create_model("test_vit", use_naflex=True, global_pool="max", **small)
    assert "fc_norm.weight" in most.param_shapes()
    plain = vitpool.create_model("test_vit", use_naflex=False, **small)
    assert type(plain) is vitpool.VisionTransformer
    with pytest.raises(ValueError, match="use_naflex is for VisionTransformer and Eva"):
        vitpool.create_model("beit_base_patch16_224", use_naflex=True)
    with pytest.raises(TypeError, match="use_naflex must be True or False, not 'no'"):
        vitpool.create_model("test_vit", use_naflex="no")


def test_a_folder_of_timms_may_say_use_naflex(tmp_path: Path) -> None:
    own = {"depth": 1, "num_classes": 3, "embed_dim": 32, "num_heads": 2}
    ours = vitpool.create_model("vit_tiny_patch16_224", use_naflex=True, **own, seed=1)
    ours.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["architecture"] = "vit_tiny_patch16_224"
    config["model_args"] = {"use_naflex": True, **own}
    path.write_text(json.dumps(config))
    again = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(again) is vitpool.NaFlexVit
    x = recipe.picture((1, 3, 32, 48), 0)
    assert np.array_equal(again(x), ours(x))


def test_weights_of_a_vision_transformer_make_the_same(tmp_path: Path) -> None:
    own = {"depth": 1, "num_classes": 3, "embed_dim": 32, "num_heads": 2}
    plain = vitpool.create_model("vit_tiny_patch16_224", **own, seed=1)
    plain.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    ours = vitpool.create_model(
        "vit_tiny_patch16_224", use_naflex=True, checkpoint_path=path, **own
    )
    x = recipe.picture((1, 3, 224, 224), 0)
    assert type(ours) is vitpool.NaFlexVit
    assert np.allclose(ours(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_a_sample_is_the_same_alone_and_among_others(keep: float) -> None:
    """Two of a grid, of which not the same patches are there."""
    ours, batch = model(), given(keep=keep)
    whole = ours(batch)
    for index in range(6):
        alone = ours({key: value[index : index + 1] for key, value in batch.items()})
        assert np.allclose(alone[0], whole[index], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "patch", "most", "expected"),
    [
        ((480, 640), 16, 576, (336, 432)),
        ((300, 1700), 16, 256, (112, 576)),
        ((1, 1), 16, 4, (32, 32)),
        ((3000, 40), (8, 32), 99, (792, 32)),
    ],
)
def test_sizes_are_the_largest_that_fit(
    size: tuple[int, int], patch: Any, most: int, expected: tuple[int, int]
) -> None:
    ratio, found = get_image_size_for_seq(size, patch, most)
    rows, columns = (patch, patch) if isinstance(patch, int) else patch
    assert found == expected
    assert found[0] // rows * (found[1] // columns) <= most
    assert found[0] - rows < ratio * size[0] <= found[0]


def test_images_are_cut_filled_up_and_padded() -> None:
    images = [recipe.picture((3, 10, 20), 1), recipe.picture((3, 8, 4), 2)]
    batch = patchify(images, 4)
    assert batch["patches"].shape == (2, 15, PIXELS)
    assert batch["patch_valid"].sum(1).tolist() == [15, 2]
    assert batch["patch_coord"][0, 7].tolist() == [1, 2]
    first = batch["patches"][0, 7].reshape(4, 4, 3)
    assert np.array_equal(first, images[0][:, 4:8, 8:12].transpose(1, 2, 0))
    assert not batch["patches"][0, 10:, 2 * 12 :].any()  # below the picture
    assert not batch["patches"][1, 2:].any()
    last = patchify(images, 4, channels_last=False)["patches"][0, 7]
    assert np.array_equal(last.reshape(3, 4, 4), images[0][:, 4:8, 8:12])
    for bad, words in (
        ([], "at least one image"),
        ([images[0], images[1][:1]], r"must have shape \(3, height, width\)"),
        ([images[0][0]], "must have shape"),
    ):
        with pytest.raises(ValueError, match=words):
            patchify(bad, 4)


def test_preprocess_keeps_the_shapes_of_pictures() -> None:
    ours = model(patchify_channels_last=False)
    pixels = (recipe.uniform((30, 90, 3), 1) * 127 + 127).astype(np.uint8)
    batch = ours.preprocess([pixels, pixels[:, :30]], max_seq_len=60)
    grids = batch["patch_coord"].max(1) + 1
    assert grids.tolist() == [[4, 12], [7, 7]]
    transform = vitpool.create_transform(
        **vitpool.resolve_data_config(ours),
        naflex=True,
        patch_size=P,
        max_seq_len=60,
        patchify=True,
        patchify_channels_last=False,
    )
    one = transform(pixels)
    assert np.array_equal(one["patches"], batch["patches"][0, :48])
    assert ours(batch).shape == (2, 5)
    assert ours.preprocess([pixels]).shape == (1, 3, 16, 20)
    with pytest.raises(ValueError, match="patch_size goes with max_seq_len"):
        ours.preprocess([pixels], patch_size=8)
    with pytest.raises(ValueError, match="max_seq_len must be at least 1"):
        ours.preprocess([pixels], max_seq_len=0)
    with pytest.raises(ValueError, match="are more than"):
        ours.preprocess([pixels], max_seq_len=10**8)
    with pytest.raises(TypeError, match="together with a Transform"):
        preprocess([pixels], transform, max_seq_len=60)
