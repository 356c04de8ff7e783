# SPDX-License-Identifier: Apache-2.0
"""NaFlexVit beside timm's: images and batches of patches, on the same weights."""

from __future__ import annotations

import copy
from typing import Any

import naflex_batches as batches
import numpy as np
import pytest
import reference
import torch
from golden import recipe
from timm.layers import patch_embed
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg

import vitpool

P = 4
PIXELS = P * P * 3
BASE = {
    "patch_size": P,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 3,
    "pos_embed_grid_size": (4, 4),
}
# Options, each with what it is about; all of them meet images and batches of patches.
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "gap": {
        "init_values": 1e-5,
        "global_pool": "avg",
        "reg_tokens": 4,
        "fc_norm": True,
    },
    "aspect": {"pos_embed_ar_preserving": True, "global_pool": "avg", "reg_tokens": 1},
    "factorized": {"pos_embed": "factorized", "global_pool": "avg"},
    "factorized aspect": {
        "pos_embed": "factorized",
        "pos_embed_ar_preserving": True,
        "global_pool": "avgmax",
        "reg_tokens": 2,
    },
    "no positions": {"pos_embed": "none", "global_pool": "max", "class_token": True},
    "siglip": {"act_layer": "gelu_tanh", "pos_embed_interp_mode": "bilinear"},
    "radio": {
        "class_token": True,
        "global_pool": "token",
        "final_norm": False,
        "pos_embed_grid_size": (12, 12),
        "pos_embed_interp_mode": "bilinear",
        "pos_embed_ar_preserving": True,
        "pos_embed_antialias": False,
        "pos_embed_align_corners": True,
        "reg_tokens": 7,
        "init_values": 1e-5,
    },
    "oblong grid": {"pos_embed_grid_size": (3, 5), "pos_embed_antialias": False},
    "grid of img_size": {"pos_embed_grid_size": None},
    "pool of its own": {
        "attn_pool_num_heads": 6,
        "attn_pool_mlp_ratio": 2.0,
        "class_token": True,
        "pool_include_prefix": True,
    },
    "no pool": {"global_pool": "", "class_token": True},
    "norms": {
        "pre_norm": True,
        "norm_layer": "rmsnorm",
        "embed_norm_layer": "layernorm",
        "qk_norm": True,
        "qkv_bias": False,
        "proj_bias": False,
        "scale_mlp_norm": True,
        "scale_attn_inner_norm": True,
        "global_pool": "avg",
    },
    "channels first": {"patchify_channels_last": False},
    "oblong patches": {"patch_size": (4, 2), "global_pool": "avg"},
    "key mask": {"use_key_only_attn_mask": True},
    "axial": {"rope_type": "axial", "pos_embed": "none", "class_token": True},
    "axial reference": {
        "rope_type": "axial",
        "rope_ref_feat_shape": (4, 4),
        "rope_grid_offset": 1.0,
        "rope_grid_indexing": "xy",
        "attn_type": "eva",
        "init_values": 0.1,
    },
    "mixed": {"rope_type": "mixed", "rope_temperature": 10.0, "reg_tokens": 1},
    "dinov3": {
        "rope_type": "dinov3",
        "rope_rotate_half": True,
        "rope_temperature": 100.0,
        "attn_only_layer_scale": True,
        "init_values": 0.1,
        "embed_dim": 96,
    },
    "swiglu": {"swiglu_mlp": True, "mlp_ratio": 8 / 3},
    "swiglu split": {
        "swiglu_mlp": True,
        "swiglu_align_to": 32,
        "mlp_ratio": 8 / 3,
        "scale_mlp_norm": True,
        "scale_attn_inner_norm": True,
        "qkv_fused": False,
        "global_pool": "avg",
    },
    "grouped": {
        "attn_type": "rope",
        "qkv_fused": False,
        "num_kv_heads": 1,
        "qk_norm": True,
        "depth": 3,
    },
}
IMAGES_ONLY = {"conv": {"embed_proj_type": "conv", "global_pool": "avg"}}
GRIDS = [(4, 4), (2, 6), (5, 3), (2, 6), (1, 1), (7, 4)]


def pair(options: dict[str, Any], seed: int = 0) -> tuple[Any, Any]:
    """Ours and timm's, of the same weights."""
    size = (16, 24) if options.get("pos_embed_grid_size", 0) is None else None
    given = {"img_size": size, "num_classes": 5}
    model = NaFlexVit(NaFlexVitCfg(**options), **given).eval()
    weights = reference.fill(model, seed)
    return vitpool.NaFlexVit(**options, **given, weights=weights), model


def views(
    model: Any, patches: Any, coord: Any, valid: Any, mask: Any = None
) -> dict[str, Any]:
    """What a model makes of a batch, without what it makes of the padding."""
    out = model.forward_features(patches, coord, valid, mask)
    tokens = out["patches"]
    prefix = tokens.shape[1] - valid.shape[1]
    tokens = tokens * 1
    tokens[:, prefix:][~valid] = 0
    answer = model(patches, coord, valid, mask)
    head = model.forward_head(**out, pre_logits=True)
    if answer.ndim == 3:  # no pool
        answer, head = answer * 1, head * 1
        answer[:, prefix:][~valid] = 0
        head[:, prefix:][~valid] = 0
    return {"features": tokens, "forward": answer, "pre_logits": head}


@pytest.mark.parametrize("kind", [*KINDS, *IMAGES_ONLY])
def test_images_of_any_size_agree(kind: str) -> None:
    options = BASE | (KINDS | IMAGES_ONLY)[kind]
    ours, model = pair(options)
    assert [(k, tuple(v)) for k, v in ours.param_shapes().items()] == list(
        reference.shapes(model).items()
    )
    for size in ((16, 16), (12, 40), (28, 8)):
        x = recipe.picture((2, 3, *size), size)
        reference.check(ours, model, reference.views, x, what=f"{size}")


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_several_grids_agree(kind: str) -> None:
    options = BASE | KINDS[kind]
    ours, model = pair(options)
    patch = options["patch_size"]
    pixels = PIXELS if patch == P else patch[0] * patch[1] * 3
    given = batches.batch(GRIDS, pixels, 30)
    reference.check(ours, model, views, *given.values())
    # alone, and in another order, a sample is what it is among others
    whole = ours(given)
    order = np.array([3, 0, 5, 2, 1, 4])
    mixed = ours({key: value[order] for key, value in given.items()})
    assert np.allclose(mixed, whole[order], rtol=1e-5, atol=1e-6)
    alone = ours({key: value[2:3, :15] for key, value in given.items()})
    width = alone.shape[1]
    assert np.allclose(alone[0], whole[2][:width], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["default", "gap", "channels first", "oblong patches"])
def test_an_image_and_its_patches_are_the_same(kind: str) -> None:
    options = BASE | KINDS[kind]
    ours, _ = pair(options)
    patch = options["patch_size"]
    patch = (patch, patch) if patch == P else patch
    x = recipe.picture((2, 3, 8, 20), "same")
    given = batches.cut(x, patch, options.get("patchify_channels_last", True))
    coord = np.stack([batches.places((8 // patch[0], 20 // patch[1]))] * 2)
    assert np.array_equal(ours(given, coord), ours(x))
    shape = (patch[0], patch[1], 3)
    if kind == "channels first":
        shape = (3, patch[0], patch[1])
    five = given.reshape(*given.shape[:2], *shape)
    assert np.array_equal(ours(five, coord), ours(x))


@pytest.mark.parametrize("kind", ["default", "aspect", "factorized", "radio"])
def test_dropped_patches_have_the_positions_of_their_coordinates(kind: str) -> None:
    """As timm's grid_sample has them; its other way gives them those of the first
    places of the grid, whichever patches there are."""
    options = BASE | KINDS[kind] | {"pos_embed_use_grid_sample": True}
    ours, model = pair(options)
    given = batches.batch(GRIDS, PIXELS, 30, "dropped", keep=0.6)
    got = views(ours, *given.values())
    rough = reference.plainly(model, views, *given.values())
    for name, value in rough.items():
        assert np.allclose(got[name], value, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("kind", ["default", "aspect", "factorized", "radio"])
def test_grid_sample_agrees(kind: str) -> None:
    options = BASE | KINDS[kind] | {"pos_embed_use_grid_sample": True}
    ours, model = pair(options)
    given = batches.batch(GRIDS, PIXELS, 30, "sampled")
    # in float64 by interpolate, of which grid_sample is another form
    plain = BASE | KINDS[kind] | {"pos_embed_antialias": False}
    _, other = pair(plain)
    got = views(ours, *given.values())
    exact = reference.exactly(copy.deepcopy(other).double(), views, *given.values())
    rough = reference.plainly(model, views, *given.values())
    reference.compare(got, exact, rough)


@pytest.mark.parametrize("kind", ["default", "gap", "no pool"])
def test_masks_agree(kind: str) -> None:
    options = BASE | KINDS[kind]
    ours, model = pair(options)
    given = batches.batch(GRIDS, PIXELS, 30)
    prefix = ours.num_prefix_tokens
    mask = recipe.mask("additive", (len(GRIDS), 3, prefix + 30, prefix + 30), 1)
    # timm's masks say all: padding is masked by the caller there
    full = mask.copy()
    full[:, :, :, prefix:][
        ~np.broadcast_to(
            given["patch_valid"][:, None, None], full[:, :, :, prefix:].shape
        )
    ] = -1e9
    patches, coord, valid = given.values()
    double = copy.deepcopy(model).double()
    exact = reference.exactly(double, views, patches, coord, valid, full)
    rough = reference.plainly(model, views, patches, coord, valid, full)
    reference.compare(views(ours, patches, coord, valid, mask), exact, rough)


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
def test_intermediates_agree(stop_early: bool, prefix: bool) -> None:
    ours, model = pair(BASE | KINDS["gap"] | {"fc_norm": False})
    given = batches.batch(GRIDS, PIXELS, 30)
    how = {"indices": [0, 1], "stop_early": stop_early, "output_fmt": "NLC"}
    how |= {"return_prefix_tokens": prefix, "norm": True, "output_dict": True}

    def call(either: Any, patches: Any, coord: Any, valid: Any) -> Any:
        given = {"patches": patches, "patch_coord": coord, "patch_valid": valid}
        out = either.forward_intermediates(given, **how)
        assert (out.pop("patch_valid") == valid).all()
        image = out["image_features"] * 1
        image[:, 4:][~valid] = 0
        spatial = [tokens * 1 for tokens in out["image_intermediates"]]
        for tokens in spatial:
            tokens[~valid] = 0
        return out | {"image_features": image, "image_intermediates": spatial}

    reference.check(ours, model, call, *given.values())

    def images(either: Any, x: Any) -> Any:
        return either.forward_intermediates(x, **how)

    reference.check(ours, model, images, recipe.picture((2, 3, 12, 20), 0))


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("size", [(6, 6), (3, 5), (4, 4)])
def test_patches_of_another_size_agree(
    size: tuple[int, int], last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = patch_embed.PatchEmbedResamplerFixedOrigSize
    rough = kind._get_or_create_pinv_matrix

    def pseudo_inverse(self: Any, size: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """In float64 where the rest is, which timm's default argument forgets."""
        double: bool = patch_embed.DTYPE_INTERMEDIATE is torch.float64
        if not double:
            return rough(self, size, *args, **kwargs)
        how = self.orig_size, size, self.interpolation, self.antialias
        matrix = patch_embed._compute_resize_matrix(*how, "cpu", torch.float64)
        return torch.linalg.pinv(matrix)

    monkeypatch.setattr(kind, "_get_or_create_pinv_matrix", pseudo_inverse)
    options = BASE | {"enable_patch_interpolator": True, "global_pool": "avg"}
    ours, model = pair(options | {"patchify_channels_last": last})
    given = batches.batch(GRIDS, size[0] * size[1] * 3, 30)
    shape = (*size, 3) if last else (3, *size)
    patches = given["patches"].reshape(len(GRIDS), 30, *shape)
    reference.check(
        ours, model, views, patches, given["patch_coord"], given["patch_valid"]
    )


@pytest.mark.parametrize("kind", [*KINDS, *IMAGES_ONLY])
def test_a_live_model_is_taken_over(kind: str) -> None:
    options = BASE | (KINDS | IMAGES_ONLY)[kind]
    ours, model = pair(options)
    taken = vitpool.from_timm(model)
    x = recipe.picture((2, 3, 12, 40), 0)
    assert type(taken) is vitpool.NaFlexVit
    assert taken.config == ours.config
    assert np.array_equal(taken(x), ours(x))


def test_the_cfg_of_timm_is_taken() -> None:
    options = BASE | KINDS["radio"]
    weights = reference.fill(NaFlexVit(NaFlexVitCfg(**options), num_classes=5))
    ours = vitpool.NaFlexVit(NaFlexVitCfg(**options), num_classes=5, weights=weights)
    same = vitpool.NaFlexVit(**options, num_classes=5, weights=weights)
    assert ours.config == same.config
    assert vitpool.NaFlexVitCfg().__dict__ == NaFlexVitCfg().__dict__


def test_tensors_come_out_as_tensors() -> None:
    ours, model = pair(BASE)
    given = {
        k: torch.from_numpy(v) for k, v in batches.batch(GRIDS, PIXELS, 30).items()
    }
    with torch.no_grad():
        wanted = model(given)
        got = ours(given)
        assert isinstance(got, torch.Tensor)
        assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-5)
        features = ours.forward_features(**given)
        assert isinstance(features["patches"], torch.Tensor)
        assert torch.equal(ours.forward_head(**features), got)
