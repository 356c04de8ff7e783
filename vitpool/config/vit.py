# SPDX-License-Identifier: Apache-2.0
"""VisionTransformer's options, resolved.

What is a Python class in timm (embed_layer, norm_layer, act_layer, mlp_layer, block_fn,
attn_layer) is a name here. Source: timm.models.vision_transformer.VisionTransformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checks import as_bool, as_int, as_pair
from .family import Family, act_of, core_options, mlp_of, name_of, norm_of
from .names import ATTNS, BLOCKS, EMBEDS, POS_EMBEDS
from .written import shared_arguments, short

BLOCKS_BY_NAME = {name.lower(): name for name in BLOCKS}
_ATTNS: dict[str, str] = {
    **{name: name for name in ATTNS},
    "": "attn",
    "attention": "attn",
    "diffattention": "diff",
}
_EMBEDS: dict[str, str] = {name.lower(): name for name in EMBEDS}
# The pools that a norm follows where none is asked for.
_FC_NORM = ("avg", "avgmax", "max")

#: timm's constructor defaults; drop rates do nothing at inference.
DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "in_chans": 3,
    "num_classes": 1000,
    "global_pool": "token",
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "qk_norm": False,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
    "proj_bias": True,
    "init_values": None,
    "class_token": True,
    "pos_embed": "learn",
    "no_embed_class": False,
    "reg_tokens": 0,
    "pre_norm": False,
    "final_norm": True,
    "fc_norm": None,
    "pool_include_prefix": False,
    "dynamic_img_size": False,
    "dynamic_img_pad": False,
    "drop_rate": 0.0,
    "pos_drop_rate": 0.0,
    "patch_drop_rate": 0.0,
    "proj_drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "weight_init": "",
    "fix_init": False,
    "embed_layer": "PatchEmbed",
    "embed_norm_layer": None,
    "norm_layer": None,
    "act_layer": None,
    "block_fn": "Block",
    "mlp_layer": "Mlp",
    "attn_layer": "attn",
}


def resolve(a: dict[str, Any]) -> dict[str, Any]:
    """The core's options."""
    pos_embed = a["pos_embed"]
    if not isinstance(pos_embed, str):
        raise TypeError(
            "pos_embed must be a str ('learn', 'none' or ''), "
            f"not {type(pos_embed).__name__}"
        )
    if pos_embed not in POS_EMBEDS:
        raise ValueError(f"pos_embed must be 'learn', 'none' or '', not {pos_embed!r}")
    fc_norm = a["fc_norm"]
    if fc_norm is None:
        fc_norm = a["global_pool"] in _FC_NORM
    fc_norm = as_bool(fc_norm, "fc_norm")
    embed_norm, embed_eps = "identity", 0.0
    if a["embed_norm_layer"] is not None:
        embed_norm, embed_eps = norm_of(a["embed_norm_layer"], "embed_norm_layer")
    embed = name_of(a["embed_layer"], "embed_layer", _EMBEDS, "PatchEmbed")
    if embed == "ConvStem" and as_pair(a["patch_size"], "patch_size") == (1, 1):
        a["patch_size"] = 16  # of timm's, one pixel of what the stem gives
    return core_options(
        a,
        reg_tokens=as_int(a["reg_tokens"], "reg_tokens"),
        block_fn=name_of(a["block_fn"], "block_fn", BLOCKS_BY_NAME, "Block"),
        mlp_layer=mlp_of(a["mlp_layer"], "mlp_layer"),
        attn_layer=name_of(a["attn_layer"], "attn_layer", _ATTNS, "attn"),
        act_layer=act_of(a["act_layer"], "act_layer"),
        embed_layer=embed,
        embed_norm_layer=embed_norm,
        embed_norm_eps=embed_eps,
        qk_norm=a["qk_norm"],
        scale_attn_norm=a["scale_attn_norm"],
        scale_mlp_norm=a["scale_mlp_norm"],
        proj_bias=a["proj_bias"],
        class_token=a["class_token"],
        pos_embed=pos_embed == "learn",
        no_embed_class=a["no_embed_class"],
        pre_norm=a["pre_norm"],
        norm=a["final_norm"] and not fc_norm,
        fc_norm=a["final_norm"] and fc_norm,
        pool_include_prefix=a["pool_include_prefix"],
        dynamic_img_size=a["dynamic_img_size"],
        dynamic_img_pad=a["dynamic_img_pad"],
    )


def arguments(o: Mapping[str, Any]) -> dict[str, Any]:
    """All options that tell something of a model."""
    embed_norm: Any = None
    if o["embed_norm_layer"] != "identity":
        embed_norm = (o["embed_norm_layer"], short(o["embed_norm_eps"]))
    known = {
        **o,
        **shared_arguments(o),
        "pos_embed": "learn" if o["pos_embed"] else "none",
        "final_norm": o["norm"] or o["fc_norm"],
        "embed_norm_layer": embed_norm,
    }
    return {name: known[name] for name in DEFAULTS if name in known}


def implied(full: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's default of None stands for."""
    return {
        "fc_norm": full["final_norm"] and full["global_pool"] in _FC_NORM,
        "norm_layer": ("layernorm", 1e-6),
        "act_layer": "gelu",
    }


FAMILY = Family(DEFAULTS, resolve, arguments, implied)
