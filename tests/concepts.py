# SPDX-License-Identifier: Apache-2.0
"""One small model of each thing that timm's other classes have and ViT has not."""

from __future__ import annotations

from typing import Any

from golden import recipe

import vitpool

_BASE: dict[str, Any] = {
    "img_size": (32, 48),
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
    "mlp_ratio": 2.0,
}
_ROPE = {"use_rot_pos_emb": True}
_DINOV3 = {
    **_ROPE,
    "rope_type": "dinov3",
    "rope_temperature": 100.0,
    "rope_rotate_half": True,
    "use_abs_pos_emb": False,
}

# Name -> class and what its options are beside a small model's.
CONCEPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "eva": ("Eva", {}),
    "eva-no-bias": ("Eva", {"qkv_bias": False, "global_pool": "token"}),
    "eva-swiglu": (
        "Eva",
        {
            **_ROPE,
            "qkv_fused": False,
            "swiglu_mlp": True,
            "scale_mlp": True,
            "ref_feat_shape": 16,
        },
    ),
    "eva-packed": (
        "Eva",
        {**_ROPE, "swiglu_mlp": True, "class_token": False, "num_reg_tokens": 1},
    ),
    "eva-clip": (
        "Eva",
        {
            **_ROPE,
            "qkv_fused": False,
            "swiglu_mlp": True,
            "swiglu_align_to": 24,
            "scale_attn_inner": True,
            "global_pool": "token",
        },
    ),
    "eva-post-norm": ("Eva", {"use_post_norm": True, "global_pool": "token"}),
    "eva-pool": (
        "Eva",
        {
            **_ROPE,
            "attn_type": "rope",
            "rope_grid_indexing": "xy",
            "rope_grid_offset": 1.0,
            "use_pre_transformer_norm": True,
            "global_pool": "map",
            "attn_pool_num_heads": 8,
            "attn_pool_mlp_ratio": 3.0,
            "swiglu_mlp": True,
            "norm_layer": ("layernorm", 1e-5),
        },
    ),
    "eva-no-norm": (
        "Eva",
        {
            **_ROPE,
            "attn_type": "rope",
            "use_fc_norm": False,
            "use_post_transformer_norm": False,
            "init_values": 0.1,
        },
    ),
    "eva-mixed": (
        "Eva",
        {
            **_ROPE,
            "attn_type": "rope",
            "rope_type": "mixed",
            "rope_grid_indexing": "xy",
            "rope_temperature": 10.0,
            "global_pool": "token",
        },
    ),
    "eva-dinov3": (
        "Eva",
        {
            **_DINOV3,
            "num_reg_tokens": 4,
            "use_fc_norm": False,
            "init_values": 1e-5,
            "dynamic_img_size": True,
        },
    ),
    "eva-grouped": (
        "Eva",
        {
            **_DINOV3,
            "depth": 3,
            "attn_type": "rope",
            "qkv_fused": False,
            "num_kv_heads": (None, 2, None),
            "qk_norm": True,
            "norm_layer": "rmsnorm",
            "swiglu_mlp": True,
            "init_values": 0.1,
            "attn_only_layer_scale": True,
            "global_pool": "token",
        },
    ),
    "beit": (
        "Beit",
        {"use_rel_pos_bias": True, "use_abs_pos_emb": False, "init_values": 0.1},
    ),
    "beit-shared": (
        "Beit",
        {"use_shared_rel_pos_bias": True, "qkv_bias": False, "global_pool": "token"},
    ),
    "beit-both": (
        "Beit",
        {
            "use_rel_pos_bias": True,
            "use_shared_rel_pos_bias": True,
            "swiglu_mlp": True,
            "scale_mlp": True,
            "global_pool": "",
        },
    ),
    "beit-absolute": ("Beit", {}),
    "conv-stem": (
        "VisionTransformer",
        {"embed_layer": "ConvStem", "no_embed_class": True, "act_layer": "quick_gelu"},
    ),
    "distilled": ("VisionTransformerDistilled", {"global_pool": "token"}),
    "relpos": ("VisionTransformerRelPos", {"rel_pos_dim": 8}),
    "relpos-shared": (
        "VisionTransformerRelPos",
        {
            "rel_pos_dim": 8,
            "shared_rel_pos": True,
            "class_token": True,
            "global_pool": "token",
        },
    ),
    "relpos-swin": (
        "VisionTransformerRelPos",
        {"rel_pos_type": "mlpswin", "rel_pos_dim": 8, "qk_norm": True, "fc_norm": True},
    ),
    "relpos-table": (
        "VisionTransformerRelPos",
        {"rel_pos_type": "bias", "class_token": True, "init_values": None},
    ),
    "naflex": ("NaFlexVit", {"global_pool": "map", "enable_patch_interpolator": True}),
    "naflex-tokens": (
        "NaFlexVit",
        {
            "global_pool": "token",
            "class_token": True,
            "reg_tokens": 2,
            "pos_embed": "factorized",
            "embed_norm_layer": ("layernorm", 1e-5),
        },
    ),
    "naflex-conv": (
        "NaFlexVit",
        {"global_pool": "avg", "embed_proj_type": "conv", "pre_norm": True},
    ),
    "naflex-rope": (
        "NaFlexVit",
        {
            "global_pool": "avg",
            "rope_type": "mixed",
            "pos_embed": "none",
            "swiglu_mlp": True,
            "init_values": 0.1,
        },
    ),
    "relpos-post-norm": (
        "VisionTransformerRelPos",
        {"rel_pos_dim": 8, "block_fn": "ResPostRelPosBlock", "qkv_bias": False},
    ),
}


def options_of(name: str) -> tuple[str, dict[str, Any]]:
    """The class of a concept's model, and its constructor's options."""
    kind, options = CONCEPTS[name]
    return kind, _BASE | options


def small_of(name: str) -> Any:
    """A concept's model with the recipe's weights."""
    kind, options = options_of(name)
    model = getattr(vitpool, kind)(**options, seed=0)
    model.load_state_dict(recipe.weights(model.param_shapes()))
    return model
