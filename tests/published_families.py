# SPDX-License-Identifier: Apache-2.0
"""Eva's, Beit's and DeiT's weights as others publish them, and small models of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from published import (
    TRANSFORMERS_BLOCKS,
    State,
    blocks,
    renamed,
    split_qkv,
    transformers_vit,
    with_classifier,
    without,
)

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "img_size": 64,
    "num_classes": 10,
}
NONE = {"num_classes": 0}
ROPE = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}
EVA = TINY | {"mlp_ratio": 3}
EVA02 = TINY | ROPE | {"swiglu_mlp": True, "mlp_ratio": 4 * 2 / 3}
EVA02_SPLIT = EVA02 | {"qkv_fused": False, "scale_mlp": True}
EVA02_CLIP = EVA02_SPLIT | {"scale_attn_inner": True, "global_pool": "token"}
POST = TINY | {"use_post_norm": True, "global_pool": "token"}
MIXED = TINY | {
    "attn_type": "rope",
    "use_rot_pos_emb": True,
    "rope_type": "mixed",
    "global_pool": "token",
}
DINOV3 = (
    TINY
    | NONE
    | {
        "use_rot_pos_emb": True,
        "use_abs_pos_emb": False,
        "rope_type": "dinov3",
        "rope_temperature": 100,
        "rope_rotate_half": True,
        "num_reg_tokens": 4,
        "init_values": 1e-5,
        "use_fc_norm": False,
        "norm_layer": ("layernorm", 1e-5),
    }
)
DINOV3_PLUS = DINOV3 | {"swiglu_mlp": True, "swiglu_align_to": 8, "qkv_bias": False}
SAPIENS2 = DINOV3 | {
    "depth": 3,
    "num_kv_heads": (2, 1, 2),
    "attn_type": "rope",
    "qkv_fused": False,
    "qk_norm": True,
    "swiglu_mlp": True,
    "attn_only_layer_scale": True,
    "num_reg_tokens": 8,
    "norm_layer": ("rmsnorm", 1e-6),
}
PE = (
    TINY
    | ROPE
    | {
        "attn_type": "rope",
        "use_pre_transformer_norm": True,
        "rope_grid_offset": 1.0,
        "rope_grid_indexing": "xy",
        "norm_layer": ("layernorm", 1e-5),
    }
)
PE_CORE = PE | {
    "global_pool": "map",
    "attn_pool_num_heads": 4,
    "attn_pool_mlp_ratio": 2.0,
}
PE_GIANT = PE_CORE | {"class_token": False, "rope_grid_offset": 0.0}
PE_LANG = (
    PE
    | NONE
    | {"use_post_transformer_norm": False, "use_fc_norm": False, "init_values": 0.1}
)
BEIT = TINY | {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.1}
BEIT_MIM = BEIT | NONE | {"global_pool": "token"}
BEIT_SHARED = BEIT | {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}


def extra(*shape: int) -> np.ndarray:
    """What a file holds beside the model."""
    return np.full(shape, 0.5, np.float32)


# EVA


def eva(state: Mapping[str, np.ndarray]) -> State:
    """EVA's names of the MLP, of inner norms, and of the biases of q and v."""
    split = "blocks.0.attn.q_proj.weight" in state
    packed = ("w12", "w3") if "blocks.0.mlp.fc1_g.weight" not in state else ("w1", "w3")
    rules = [
        (r"\.mlp\.norm\.", ".mlp.ffn_ln."),
        (r"\.attn\.norm\.", ".attn.inner_attn_ln."),
        (r"\.mlp\.fc1_g\.", ".mlp.w1."),
        (r"\.mlp\.fc1_x\.", ".mlp.w2."),
    ]
    if packed[0] == "w1" or _gated(state):
        rules += [
            (r"\.mlp\.fc1\.", f".mlp.{packed[0]}."),
            (r"\.mlp\.fc2\.", f".mlp.{packed[1]}."),
        ]
    if split:
        rules.append((r"\.attn\.([qv])_proj\.bias$", r".attn.\1_bias"))
    out = renamed(state, *rules)
    out["rope.freqs_cos"] = out["rope.freqs_sin"] = extra(16, 16)
    out["blocks.0.attn.rope.freqs_cos"] = extra(16, 16)
    return out


def _gated(state: Mapping[str, np.ndarray]) -> bool:
    first, second = (
        state.get(f"blocks.0.mlp.fc{i}.weight", np.zeros((1, 1))) for i in (1, 2)
    )
    return first.shape[0] != second.shape[1]


def eva_mim(state: Mapping[str, np.ndarray]) -> State:
    """A masked image model: `norm` whatever the pool, its own head."""
    out = renamed(eva(without(state, "head.")), (r"^fc_norm\.", "norm."))
    width = out["cls_token"].shape[-1]
    out["mask_token"] = extra(1, 1, width)
    out["lm_head.weight"], out["lm_head.bias"] = extra(24, width), extra(24)
    return out


def eva_clip(state: Mapping[str, np.ndarray]) -> State:
    """EVA-CLIP's file: its tower, with its head, below `visual.`."""
    out = {f"visual.{key}": value for key, value in eva(state).items()}
    out["text.transformer.resblocks.0.ln_1.weight"] = extra(8)
    out["logit_scale"] = extra()
    return out


def open_clip(state: Mapping[str, np.ndarray]) -> State:
    """OpenCLIP's file of a timm trunk, whose projection is beside it."""
    inner = without(state, "head.")
    out = {f"visual.trunk.{key}": value for key, value in inner.items()}
    out["text.transformer.resblocks.0.ln_1.weight"] = extra(8)
    if "head.weight" in state:
        out["visual.head.proj.weight"] = state["head.weight"]
    return out


# DINOv3, Sapiens2, Perception Encoder


def dinov3(state: Mapping[str, np.ndarray]) -> State:
    """Meta's names; the third of k in qkv.bias is turned off by a mask."""
    out = renamed(
        state,
        (r"\.gamma_([12])$", r".ls\1.gamma"),
        ("^reg_token$", "storage_tokens"),
        (r"\.mlp\.fc1_g\.", ".mlp.w1."),
        (r"\.mlp\.fc1_x\.", ".mlp.w2."),
    )
    if any(".mlp.w1." in key for key in out):
        out = renamed(out, (r"\.mlp\.fc2\.", ".mlp.w3."))
    width = out["cls_token"].shape[-1]
    for index in range(blocks(state)):
        at = f"blocks.{index}.attn."
        q = out.pop(f"{at}q_bias", np.zeros(width, np.float32))
        v = out.pop(f"{at}v_bias", np.zeros(width, np.float32))
        out[f"{at}qkv.bias"] = np.concatenate([q, extra(width), v])
        out[f"{at}qkv.bias_mask"] = np.repeat([1.0, 0.0, 1.0], width).astype(np.float32)
    if not any(key.endswith("q_bias") for key in state):
        for key in [key for key in out if key.endswith("qkv.bias")]:
            out[key] = np.zeros_like(out[key])
    out["mask_token"] = extra(1, width)
    out["rope_embed.periods"] = extra(4)
    out["local_cls_norm.weight"] = extra(width)
    out["projectors.a.weight"] = extra(2, width)
    return out


def transformers_dinov3(
    state: Mapping[str, np.ndarray], layer: str = "layer."
) -> State:
    """transformers' DINOv3ViTModel."""
    gated = any(".mlp.fc1_g." in key for key in state)
    width = state["cls_token"].shape[-1]
    out = split_qkv(state, "{}.attn.{}_proj.{}")
    if "blocks.0.attn.q_bias" not in out:
        # Meta's repositories hold the biases that are zero.
        for index in range(blocks(state)):
            for which in "qv":
                out[f"blocks.{index}.attn.{which}_bias"] = np.zeros(width, np.float32)
    out = renamed(
        out,
        (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
        (r"\.attn\.proj\.", ".attn.o_proj."),
        (r"\.attn\.", ".attention."),
        (r"\.gamma_([12])$", r".layer_scale\1.lambda1"),
        (r"\.mlp\.fc1_g\.", ".mlp.gate_proj."),
        (r"\.mlp\.fc1_x\.", ".mlp.up_proj."),
        (r"\.mlp\.fc1\.", ".mlp.gate_up." if gated else ".mlp.up_proj."),
        (r"\.mlp\.fc2\.", ".mlp.down_proj."),
        (r"^blocks\.", layer),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
        ("^cls_token$", "embeddings.cls_token"),
        ("^reg_token$", "embeddings.register_tokens"),
    )
    out["embeddings.mask_token"] = extra(1, 1, width)
    return out


def sapiens2(state: Mapping[str, np.ndarray]) -> State:
    """Meta's names of Sapiens2."""
    out = renamed(
        state,
        ("^reg_token$", "storage_tokens"),
        (r"^patch_embed\.proj\.", "patch_embed.projection."),
        (r"\.attn\.([qkv])_proj\.", r".attn.w\1."),
        (r"\.gamma_1$", ".attn.gamma.weight"),
        (r"\.mlp\.fc1\.", ".ffn.w12."),
        (r"\.mlp\.fc2\.", ".ffn.w3."),
        (r"\.norm([12])\.", r".ln\1."),
        (r"^norm\.", "ln1."),
    )
    out["mask_token"] = extra(1, 1, out["cls_token"].shape[-1])
    out["rope_embed.periods"] = extra(4)
    return out


def perception_encoder(
    state: Mapping[str, np.ndarray], prefix: str = "visual."
) -> State:
    """Meta's file of core, with the text tower in part; prefix '': lang, spatial."""
    out = renamed(
        without(state, "head."),
        (r"^patch_embed\.proj", "conv1"),
        ("^pos_embed$", "positional_embedding"),
        ("^cls_token$", "class_embedding"),
        (r"^attn_pool\.latent$", "attn_pool.probe"),
        (r"^attn_pool\.proj\.", "attn_pool.attn.out_proj."),
        (r"^attn_pool\.norm\.", "attn_pool.layernorm."),
        ("^norm_pre", "ln_pre"),
        (r"^norm\.", "ln_post."),
        (r"^(blocks\.\d+)\.norm([12])\.", r"\1.ln_\2."),
        (r"\.gamma_([12])$", r".ls_\1.gamma"),
        (r"\.attn\.qkv\.", ".attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.out_proj."),
        (r"\.mlp\.fc1", ".mlp.c_fc"),
        (r"\.mlp\.fc2", ".mlp.c_proj"),
        (r"^blocks\.", "transformer.resblocks."),
    )
    for kind in ("weight", "bias"):
        if f"attn_pool.q.{kind}" in out:
            q, kv = (out.pop(f"attn_pool.{name}.{kind}") for name in ("q", "kv"))
            out[f"attn_pool.attn.in_proj_{kind}"] = np.concatenate([q, kv])
    out["positional_embedding"] = out["positional_embedding"][0]
    if "class_embedding" in out:
        out["class_embedding"] = out["class_embedding"].reshape(-1)
    if "head.weight" in state:
        out["proj"] = np.ascontiguousarray(state["head.weight"].T)
    out = {f"{prefix}{key}": value for key, value in out.items()}
    if prefix:
        out["transformer.resblocks.0.ln_1.weight"] = extra(8)
        out["positional_embedding"] = extra(7, 8)
        out["logit_scale"] = extra()
    return out


# BEiT


def beit(state: Mapping[str, np.ndarray]) -> State:
    """Microsoft's file of a fine-tuned model: the places of the tables' rows too."""
    out = dict(state)
    for key in state:
        if key.endswith("relative_position_bias_table"):
            index = key.replace("bias_table", "index")
            out[index] = np.zeros((17, 17), np.float32)
    return out


def beit_mim(state: Mapping[str, np.ndarray]) -> State:
    """A masked image model, of BEiTv2 with its second, shallow, decoder."""
    out = beit(without(state, "head."))
    width = out["cls_token"].shape[-1]
    out["mask_token"] = extra(1, 1, width)
    out["lm_head.weight"], out["lm_head.bias"] = extra(24, width), extra(24)
    out["cls_pt_layers.0.norm1.weight"] = extra(width)
    return out


def transformers_beit(
    state: Mapping[str, np.ndarray], prefix: str = "beit.", classifier: bool = True
) -> State:
    """transformers' BeitForImageClassification, or BeitModel."""
    out = renamed(
        split_qkv(without(state, "head."), "{}.attn.{}_proj.{}"),
        (r"^rel_pos_bias\.", "encoder.relative_position_bias."),
        (
            r"\.attn\.relative_position_bias_table$",
            ".attention.attention.relative_position_bias.relative_position_bias_table",
        ),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        ("^pos_embed$", "embeddings.position_embeddings"),
        ("^cls_token$", "embeddings.cls_token"),
        (r"^fc_norm\.", "pooler.layernorm."),
        (r"^norm\.", "layernorm."),
        (r"\.gamma_([12])$", r".lambda_\1"),
        (r"\.attn\.q(_bias|_proj\.)", r".attention.attention.query\1"),
        (r"\.attn\.k(_proj\.)", r".attention.attention.key\1"),
        (r"\.attn\.v(_bias|_proj\.)", r".attention.attention.value\1"),
        (r"\.(query|value)_bias$", r".\1.bias"),
        (r"\.(query|key|value)_proj\.", r".\1."),
        *TRANSFORMERS_BLOCKS,
    )
    return with_classifier(out, state, prefix, classifier)


# DeiT


def transformers_deit(state: Mapping[str, np.ndarray]) -> State:
    """transformers' DeiTForImageClassificationWithTeacher."""
    token = state["dist_token"]
    inner = without(state, "dist_token", "head_dist.")
    out = transformers_vit(inner, "deit.", classifier=False)
    out["deit.embeddings.distillation_token"] = token
    for ours, theirs in (
        ("head", "cls_classifier"),
        ("head_dist", "distillation_classifier"),
    ):
        for kind in ("weight", "bias"):
            out[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    return out


class Layout(NamedTuple):
    """The class and options of a model, and how its weights are published."""

    family: str
    options: Mapping[str, Any]
    publish: Callable[[Mapping[str, np.ndarray]], dict[str, Any]]
    #: Keys of the file that belong to nothing of the model's.
    unused: tuple[str, ...] = ()
    #: Is the converter of timm's made for this file?
    of_timm: bool = True


MIM = ("mask_token", "lm_head.weight")
LAYOUTS: dict[str, Layout] = {
    "eva": Layout("Eva", EVA, dict),
    "eva mim": Layout("Eva", EVA | NONE, eva_mim, MIM),
    "eva post-norm clip": Layout("Eva", POST, eva_clip),
    "eva02 packed": Layout("Eva", EVA02, eva, ("rope.freqs_cos",)),
    "eva02 split": Layout("Eva", EVA02_SPLIT, eva),
    "eva02 mim": Layout("Eva", EVA02_SPLIT | NONE, eva_mim, MIM),
    "eva02 clip": Layout("Eva", EVA02_CLIP, eva_clip, ("logit_scale",)),
    "eva02 open_clip": Layout("Eva", EVA02_CLIP, open_clip),
    "mixed": Layout("Eva", MIXED, dict),
    "dinov3": Layout("Eva", DINOV3, dinov3, ("rope_embed.periods", "projectors.a.x")),
    "dinov3 plus": Layout("Eva", DINOV3_PLUS, dinov3),
    "dinov3 open_clip": Layout("Eva", DINOV3, open_clip, of_timm=False),
    "transformers dinov3": Layout("Eva", DINOV3, transformers_dinov3, of_timm=False),
    "transformers dinov3 plus": Layout(
        "Eva", DINOV3_PLUS, transformers_dinov3, of_timm=False
    ),
    "sapiens2": Layout("Eva", SAPIENS2, sapiens2, ("mask_token",)),
    "pe core": Layout("Eva", PE_CORE, perception_encoder, ("text_projection",)),
    "pe giant": Layout("Eva", PE_GIANT, perception_encoder),
    "pe lang": Layout("Eva", PE_LANG, lambda state: perception_encoder(state, "")),
    "beit": Layout("Beit", BEIT, beit, ("blocks.1.attn.relative_position_index",)),
    "beit mim": Layout("Beit", BEIT_MIM, beit_mim, MIM),
    "beit shared": Layout("Beit", BEIT_SHARED, beit),
    "transformers beit": Layout("Beit", BEIT, transformers_beit, of_timm=False),
    "transformers beit shared": Layout(
        "Beit", BEIT_SHARED, transformers_beit, of_timm=False
    ),
    "deit distilled": Layout("VisionTransformerDistilled", TINY, dict),
    "transformers deit": Layout(
        "VisionTransformerDistilled",
        TINY,
        transformers_deit,
        ("deit.embeddings.mask_token",),
        of_timm=False,
    ),
}
