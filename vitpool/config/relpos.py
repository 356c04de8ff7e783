# SPDX-License-Identifier: Apache-2.0
"""VisionTransformerRelPos's options, resolved.

Source: timm.models.vision_transformer_relpos.VisionTransformerRelPos.__init__.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checks import as_int
from .family import Family, act_of, core_options, name_of
from .names import REL_POS_BLOCKS
from .written import shared_arguments

_BLOCKS = {name.lower(): name for name in REL_POS_BLOCKS}
# timm reads 'swin' anywhere behind 'mlp', and takes all else for a table: 'bias' here.
_TYPES = {"mlp": "mlp", "mlpswin": "mlpswin", "mlp_swin": "mlpswin", "bias": "bias"}
_DIM = 128  # RelPosMlp's own default

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
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "qk_norm": False,
    "init_values": 1e-6,
    "class_token": False,
    "fc_norm": False,
    "rel_pos_type": "mlp",
    "rel_pos_dim": None,
    "shared_rel_pos": False,
    "drop_rate": 0.0,
    "proj_drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "weight_init": "reset",
    "fix_init": False,
    "norm_layer": None,
    "act_layer": None,
    "block_fn": "RelPosBlock",
    "final_norm": True,
}


def resolve(a: dict[str, Any]) -> dict[str, Any]:
    """The core's options."""
    kind = name_of(a["rel_pos_type"], "rel_pos_type", _TYPES, "mlp")
    dim = 0 if a["rel_pos_dim"] is None else as_int(a["rel_pos_dim"], "rel_pos_dim")
    fc_norm, shared = a["fc_norm"], a["shared_rel_pos"]
    block = name_of(a["block_fn"], "block_fn", _BLOCKS, "RelPosBlock")
    if block == "RelPosBlock" and not a["init_values"]:  # as timm reads it
        a["init_values"] = None
    return core_options(
        a,
        family="VisionTransformerRelPos",
        block_fn=block,
        act_layer=act_of(a["act_layer"], "act_layer"),
        qk_norm=a["qk_norm"],
        class_token=a["class_token"],
        pos_embed=False,
        norm=a["final_norm"] and not fc_norm,
        fc_norm=a["final_norm"] and fc_norm,
        rel_pos=kind,
        rel_pos_block=not shared,
        rel_pos_shared=shared,
        rel_pos_dim=0 if kind == "bias" else dim or _DIM,
    )


def arguments(o: Mapping[str, Any]) -> dict[str, Any]:
    """All options that tell something of a model."""
    known = {
        **shared_arguments(o),
        "qk_norm": o["qk_norm"],
        "class_token": o["class_token"],
        "fc_norm": o["fc_norm"],
        "rel_pos_type": o["rel_pos"],
        **({"rel_pos_dim": o["rel_pos_dim"]} if o["rel_pos"] != "bias" else {}),
        "shared_rel_pos": o["rel_pos_shared"],
        "act_layer": o["act_layer"],
        "block_fn": o["block_fn"],
        "final_norm": o["norm"] or o["fc_norm"],
    }
    return {name: known[name] for name in DEFAULTS if name in known}


def implied(full: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's default of None stands for."""
    return {
        "rel_pos_dim": _DIM,
        "norm_layer": ("layernorm", 1e-6),
        "act_layer": "gelu",
    }


FAMILY = Family(
    DEFAULTS,
    resolve,
    arguments,
    implied,
    {
        "embed_layer": "a class that embeds patches in another way cannot be given",
        "dynamic_img_size": "its biases are of one grid: set_input_size makes another",
    },
)
