# SPDX-License-Identifier: Apache-2.0
"""use_naflex: VisionTransformer's or Eva's options as NaFlexVit's of these weights.

What the weights were trained to compute stays, also where timm's own conversion changes
it: the attention pool of an Eva sees all tokens, and rope_type counts for nothing
without use_rot_pos_emb.

Source: timm.models.naflexvit._create_naflexvit_from_classic and
_create_naflexvit_from_eva, timm.models.vision_transformer._create_vision_transformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checkpoint import resize_rule

# Eva's option -> NaFlexVit's.
_EVA_NAMES = {
    "use_pre_transformer_norm": "pre_norm",
    "num_reg_tokens": "reg_tokens",
    "ref_feat_shape": "rope_ref_feat_shape",
    "scale_mlp": "scale_mlp_norm",
    "scale_attn_inner": "scale_attn_inner_norm",
}


def naflex_options(
    family: str, options: Mapping[str, Any], variant: str
) -> dict[str, Any]:
    """NaFlexVit's options for a model of another class.

    variant: timm's name of the model; RADIO's keep their whole grid of positions.
    ValueError: a class that has no such form, or Eva's options that have none.
    """
    given = dict(options)
    if family == "NaFlexVit":
        return given
    if "radio" in variant:
        given = _radio(variant) | given
    if family == "VisionTransformer":
        return _of_classic(given)
    if family == "Eva":
        return _of_eva(given)
    raise ValueError(f"use_naflex is for VisionTransformer and Eva, not for {family}")


def _of_classic(given: dict[str, Any]) -> dict[str, Any]:
    given.pop("no_embed_class", None)
    given.pop("dynamic_img_size", None)
    given.pop("fix_init", None)  # of fresh weights alone, as NaFlexVit does it
    if given.get("embed_layer", "PatchEmbed") == "PatchEmbed":
        given.pop("embed_layer", None)
    pool = given.pop("global_pool", "token")
    fc_norm = given.pop("fc_norm", None)
    if given.get("pos_embed") == "learn":
        given["pos_embed"] = "learned"
    if "scale_attn_norm" in given:
        given["scale_attn_inner_norm"] = given.pop("scale_attn_norm")
    return {
        **_own_grid(given),
        "class_token": True,
        "global_pool": pool,
        "fc_norm": pool in ("avg", "avgmax", "max") if fc_norm is None else fc_norm,
        **given,
    }


def _of_eva(given: dict[str, Any]) -> dict[str, Any]:
    given.pop("no_embed_class", None)
    given.pop("dynamic_img_size", None)
    pool = given.pop("global_pool", "avg")
    norm = given.pop("use_post_transformer_norm", None)
    fc_norm = given.pop("use_fc_norm", None)
    fc_norm = given.pop("fc_norm", fc_norm)
    fc_norm = pool == "avg" if fc_norm is None else fc_norm
    norm = not fc_norm if norm is None else norm
    if norm and fc_norm:
        raise ValueError(
            "use_naflex is not for an Eva with a norm before and one behind the pool"
        )
    rope = given.pop("rope_type", None) or "cat"
    rotary = given.pop("use_rot_pos_emb", False)
    absolute = given.pop("use_abs_pos_emb", True)
    given.pop("head_init_scale", None)  # of fresh weights alone
    for old, new in _EVA_NAMES.items():
        if old in given:
            given[new] = given.pop(old)
    return {
        **_own_grid(given),
        "class_token": True,
        "global_pool": pool,
        # Eva's attention pool was trained on all tokens. timm leaves the prefix out.
        "pool_include_prefix": pool == "map",
        "final_norm": norm or fc_norm,
        "fc_norm": fc_norm,
        "pos_embed": "learned" if absolute else "none",
        "rope_type": {"cat": "axial"}.get(rope, rope) if rotary else "none",
        "attn_type": "eva",
        **given,
    }


def _own_grid(given: Mapping[str, Any]) -> dict[str, Any]:
    """The positions' grid is that of img_size, as long as there is one."""
    return {} if given.get("img_size") is None else {"pos_embed_grid_size": None}


def _radio(variant: str) -> dict[str, Any]:
    rule = resize_rule(variant)
    return {
        "pos_embed_grid_size": (128, 128),
        "pos_embed_interp_mode": rule["interpolation"],
        "pos_embed_ar_preserving": True,
        "pos_embed_antialias": rule["antialias"],
        "pos_embed_align_corners": rule["align_corners"],
    }
