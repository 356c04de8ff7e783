# SPDX-License-Identifier: Apache-2.0
"""Beit's options, resolved. Source: timm.models.beit.Beit.__init__."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checks import as_bool, as_float
from .family import Family, core_options
from .written import shared_arguments, short

#: timm's constructor defaults, and final_norm, which is False after pruning.
DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "in_chans": 3,
    "num_classes": 1000,
    "global_pool": "avg",
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "qkv_bias": True,
    "mlp_ratio": 4.0,
    "swiglu_mlp": False,
    "scale_mlp": False,
    "drop_rate": 0.0,
    "pos_drop_rate": 0.0,
    "proj_drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "norm_layer": None,
    "init_values": None,
    "use_abs_pos_emb": True,
    "use_rel_pos_bias": False,
    "use_shared_rel_pos_bias": False,
    "head_init_scale": 0.001,
    "use_fc_norm": None,
    "final_norm": True,
}


def resolve(a: dict[str, Any]) -> dict[str, Any]:
    """The core's options."""
    fc_norm = a["use_fc_norm"]
    if fc_norm is None:
        fc_norm = a["global_pool"] == "avg"
    fc_norm = as_bool(fc_norm, "use_fc_norm")
    if not a["init_values"]:  # as timm reads it
        a["init_values"] = None
    biased = a["use_rel_pos_bias"] or a["use_shared_rel_pos_bias"]
    swiglu = a["swiglu_mlp"]
    return core_options(
        a,
        family="Beit",
        block_fn="BeitBlock",
        mlp_layer="SwiGLU" if swiglu else "Mlp",
        act_layer="silu" if swiglu else "gelu",
        scale_mlp_norm=a["scale_mlp"],
        pos_embed=a["use_abs_pos_emb"],
        norm=a["final_norm"] and not fc_norm,
        fc_norm=a["final_norm"] and fc_norm,
        q_v_bias=True,
        rel_pos="bias" if biased else "none",
        rel_pos_block=a["use_rel_pos_bias"],
        rel_pos_shared=a["use_shared_rel_pos_bias"],
        head_init_scale=as_float(a["head_init_scale"], "head_init_scale"),
    )


def arguments(o: Mapping[str, Any]) -> dict[str, Any]:
    """All options that tell something of a model."""
    known = {
        **shared_arguments(o),
        "swiglu_mlp": o["mlp_layer"] == "SwiGLU",
        "scale_mlp": o["scale_mlp_norm"],
        "use_abs_pos_emb": o["pos_embed"],
        "use_rel_pos_bias": o["rel_pos_block"],
        "use_shared_rel_pos_bias": o["rel_pos_shared"],
        "head_init_scale": short(o["head_init_scale"]),
        "use_fc_norm": o["fc_norm"],
        "final_norm": o["norm"] or o["fc_norm"],
    }
    return {name: known[name] for name in DEFAULTS if name in known}


def implied(full: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's default of None stands for."""
    return {
        "use_fc_norm": full["final_norm"] and full["global_pool"] == "avg",
        "norm_layer": ("layernorm", 1e-6),
    }


FAMILY = Family(
    DEFAULTS,
    resolve,
    arguments,
    implied,
    {
        "dynamic_img_size": "its biases are of one grid: set_input_size makes another",
        "class_token": "Beit always has one",
    },
)
