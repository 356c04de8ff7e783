# SPDX-License-Identifier: Apache-2.0
"""Weights into a NaFlexVit, and a NaFlexVit's into a VisionTransformer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import published
import pytest
from golden import recipe
from published_families import DINOV3, dinov3, transformers_dinov3
from test_checkpoint_families import fitted, refused, spec_of, weights_of

from vitpool.checkpoint import Spec
from vitpool.resample import resample_abs_pos_embed, resample_grid

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
VIT = SMALL | {"img_size": 64, "num_classes": 10}
NAFLEX = SMALL | {"pos_embed_grid_size": (4, 4), "num_classes": 10}
MAP = {"class_token": False, "global_pool": "map"}
TOKEN = {"class_token": True, "global_pool": "token"}
REG = {"reg_tokens": 4, "no_embed_class": True}
RADIO = TOKEN | {"reg_tokens": 3, "final_norm": False, "num_classes": 0}


def linear(weight: np.ndarray) -> np.ndarray:
    """A convolution as NaFlexVit has it: on flat patches, the channels last."""
    return weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)


def as_naflex(state: Mapping[str, np.ndarray], grid: int = 4) -> dict[str, np.ndarray]:
    """What a VisionTransformer's weights are in a NaFlexVit, written out."""
    out = dict(state)
    out["embeds.proj.weight"] = linear(out.pop("patch_embed.proj.weight"))
    out["embeds.proj.bias"] = out.pop("patch_embed.proj.bias")
    positions = out.pop("pos_embed")
    at = 0
    rows = positions.shape[1] - grid * grid
    for name in ("cls_token", "reg_token"):
        if name in out:
            token = out.pop(name)
            if rows:
                token = token + positions[:, at : at + token.shape[1]]
                at += token.shape[1]
            out[f"embeds.{name}"] = token
    out["embeds.pos_embed"] = positions[:, rows:].reshape(1, grid, grid, -1)
    return out


FROM_VIT: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "timm, token": (TOKEN, dict),
    "timm, registers": (TOKEN | REG, dict),
    "timm, registers with positions": (TOKEN | {"reg_tokens": 4}, dict),
    "timm, map": (MAP, dict),
    "timm, avg": ({"class_token": False, "global_pool": "avg"}, dict),
    "jax": (TOKEN, partial(published.jax, heads=2)),
    "dinov2": (TOKEN | {"init_values": 1.0}, published.dinov2),
    "deit3": (
        TOKEN | {"init_values": 1.0},
        lambda state: published.deit3(state)["model"],
    ),
    "transformers vit": (TOKEN, published.transformers_vit),
    "siglip": (MAP | {"num_classes": 0}, published.siglip),
    "siglip2 naflex": (MAP | {"num_classes": 0}, published.naflex),
    "open_clip": (MAP, published.openclip_trunk),
}


@pytest.mark.parametrize("name", FROM_VIT)
def test_weights_of_a_vision_transformer_fit_a_naflexvit(name: str) -> None:
    options, publish = FROM_VIT[name]
    state = weights_of("VisionTransformer", VIT | options)
    ours = NAFLEX | {k: v for k, v in options.items() if k != "no_embed_class"}
    got = fitted(publish(state), spec_of("NaFlexVit", ours))
    want = as_naflex(state)
    assert set(got) == set(want)
    for key, value in want.items():
        if key == "head.bias" and name == "open_clip":
            value = np.zeros_like(value)
        np.testing.assert_array_equal(got[key], value, err_msg=key)


@pytest.mark.parametrize("options", [TOKEN, MAP, TOKEN | {"reg_tokens": 4}])
@pytest.mark.parametrize("prefix", ["", "model.", "visual.trunk."])
def test_own_keys_are_read_back(options: dict[str, Any], prefix: str) -> None:
    spec = spec_of("NaFlexVit", NAFLEX | options | {"num_classes": 0})
    state = recipe.weights(spec.shapes, seed=1)
    got = fitted({f"{prefix}{key}": value for key, value in state.items()}, spec)
    assert set(got) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


@pytest.mark.parametrize("options", [TOKEN | REG, MAP])
def test_a_naflexvits_weights_fit_a_vision_transformer(options: dict[str, Any]) -> None:
    state = weights_of("VisionTransformer", VIT | options)
    got = fitted(as_naflex(state), spec_of("VisionTransformer", VIT | options))
    assert set(got) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


@pytest.mark.parametrize("pool", ["map", "token"])
def test_a_naflexvits_positions_are_resized_for_a_vision_transformer(pool: str) -> None:
    """SigLIP2's, which are known by their pool, bilinear; others as timm's own."""
    options = MAP if pool == "map" else TOKEN | {"no_embed_class": True}
    state = weights_of("VisionTransformer", VIT | options)
    spec = spec_of("VisionTransformer", VIT | options | {"img_size": (48, 80)})
    got = fitted(as_naflex(state), spec)["pos_embed"]
    how = "bilinear" if pool == "map" else "bicubic"
    want = resample_abs_pos_embed(state["pos_embed"], (3, 5), (4, 4), 0, how)
    np.testing.assert_array_equal(got, want)


def test_positions_of_another_grid_are_resized_as_the_model_does() -> None:
    options = NAFLEX | MAP | {"pos_embed_interp_mode": "bilinear"}
    state = weights_of("NaFlexVit", options | {"pos_embed_grid_size": (6, 4)})
    got = fitted(state, spec_of("NaFlexVit", options | {"pos_embed_antialias": False}))
    table = state["embeds.pos_embed"][0]
    want = resample_grid(table, (4, 4), "bilinear", False)
    np.testing.assert_array_equal(got["embeds.pos_embed"][0], want)


@pytest.mark.parametrize(
    "change", [{"patch_size": 8}, {"in_chans": 1}, {"in_chans": 5, "patch_size": 8}]
)
def test_patches_and_channels_are_those_of_a_vision_transformer(
    change: dict[str, Any],
) -> None:
    """Which is what the linear layer is, of each patch."""
    state = weights_of("VisionTransformer", VIT | MAP)
    plain = spec_of("VisionTransformer", VIT | MAP | change | {"img_size": 32})
    want = linear(fitted(state, plain)["patch_embed.proj.weight"])
    spec = spec_of("NaFlexVit", NAFLEX | MAP | change)
    for content in (state, as_naflex(state)):
        got = fitted(content, spec)["embeds.proj.weight"]
        np.testing.assert_array_equal(got, want)


def test_other_orders_of_the_patch_embedding() -> None:
    state = weights_of("VisionTransformer", VIT | MAP)
    patch = state["patch_embed.proj.weight"]
    conv = fitted(
        state, spec_of("NaFlexVit", NAFLEX | MAP | {"embed_proj_type": "conv"})
    )
    np.testing.assert_array_equal(conv["embeds.proj.weight"], patch)
    first = NAFLEX | MAP | {"patchify_channels_last": False}
    flat = fitted(state, spec_of("NaFlexVit", first))["embeds.proj.weight"]
    np.testing.assert_array_equal(flat, patch.reshape(len(patch), -1))


def test_radio_keeps_its_grid() -> None:
    """Which its model resizes for each picture; in a VisionTransformer it is cut."""
    vit = VIT | RADIO | {"no_embed_class": True, "img_size": 96}
    state = weights_of("VisionTransformer", vit)
    options = NAFLEX | RADIO | {"pos_embed_grid_size": (6, 6)}
    got = fitted(published.radio(state), spec_of("NaFlexVit", options))
    want = as_naflex(state, grid=6)
    want["embeds.proj.bias"] = np.zeros_like(want["embeds.proj.bias"])
    assert set(got) == set(want)
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


@pytest.mark.parametrize("size", [48, (48, 80)])
def test_radio_of_a_naflexvit_is_cut_as_radios_own(size: Any) -> None:
    options = VIT | RADIO | {"no_embed_class": True}
    state = weights_of("VisionTransformer", options | {"img_size": 96})
    variant = "vit_base_patch16_radio_v3"
    spec = Spec.from_options(options | {"img_size": size}, variant=variant)
    want = fitted(published.radio(state), spec)
    got = fitted(as_naflex(state, grid=6), spec)
    np.testing.assert_array_equal(got["pos_embed"], want["pos_embed"])


@pytest.mark.parametrize("publish", [published.naflex, partial(published.jax, heads=2)])
def test_as_many_positions_of_a_square_are_no_other_grids(publish: Any) -> None:
    """4x4 of them are resized to 2x8: their number alone would fit."""
    options = VIT | MAP | {"num_classes": 0}
    if publish is not published.naflex:
        options |= {"global_pool": "avg"}
    state = weights_of("VisionTransformer", options)
    spec = spec_of("VisionTransformer", options | {"img_size": (32, 128)})
    got = fitted(publish(state), spec)["pos_embed"]
    smooth = publish is published.naflex
    want = resample_abs_pos_embed(
        state["pos_embed"], (2, 8), (4, 4), 0, "bilinear", smooth
    )
    np.testing.assert_array_equal(got, want)
    assert not np.array_equal(got, state["pos_embed"])


@pytest.mark.parametrize("publish", [dict, dinov3, transformers_dinov3])
def test_weights_of_eva_fit_a_naflexvit_of_its_blocks(publish: Any) -> None:
    state = weights_of("Eva", DINOV3)
    options = NAFLEX | {
        **{"num_classes": 0, "class_token": True, "reg_tokens": 4, "fc_norm": False},
        **{"global_pool": "avg", "pos_embed": "none", "init_values": 1e-5},
        **{"attn_type": "eva", "rope_type": "dinov3", "rope_rotate_half": True},
    }
    got = fitted(publish(state), spec_of("NaFlexVit", options))
    patch = linear(state.pop("patch_embed.proj.weight"))
    np.testing.assert_array_equal(got.pop("embeds.proj.weight"), patch)
    before = ("cls_token", "reg_token")
    want = {f"embeds.{k}" if k in before else k: v for k, v in state.items()}
    want["embeds.proj.bias"] = want.pop("patch_embed.proj.bias")
    assert set(got) == set(want)
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value, err_msg=key)


def test_factorized_positions_are_read_and_fit_no_vision_transformer() -> None:
    options = NAFLEX | MAP | {"pos_embed": "factorized"}
    state = weights_of("NaFlexVit", options)
    got = fitted(state, spec_of("NaFlexVit", options))
    assert set(got) == set(state)
    message = refused(state, spec_of("VisionTransformer", VIT | MAP))
    assert "looks like a checkpoint of NaFlexVit" in message


def test_positions_of_a_grid_that_nobody_tells_are_a_wrong_shape() -> None:
    state = weights_of("VisionTransformer", VIT | MAP | {"img_size": (48, 80)})
    message = refused(state, spec_of("NaFlexVit", NAFLEX | MAP))
    assert "embeds.pos_embed is (1, 15, 32), not (1, 4, 4, 32)" in message


def test_a_tensor_too_many_or_too_few_is_named() -> None:
    spec = spec_of("NaFlexVit", NAFLEX | MAP)
    state = weights_of("VisionTransformer", VIT | MAP)
    more = state | {"patch_embed.extra": np.ones(3, np.float32)}
    assert "unexpected are 1: embeds.extra" in refused(more, spec)
    less = published.without(state, "patch_embed.proj.bias")
    assert "missing are 1: embeds.proj.bias" in refused(less, spec)
