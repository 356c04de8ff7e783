# SPDX-License-Identifier: Apache-2.0
"""Hugging Face transformers: ViT, I-JEPA, DINOv2, CLIP's and SigLIP's vision towers.

Both the names that files have and those of transformers 5 in memory are read.
"""

from __future__ import annotations

import re

from ..lazy import Shape, concatenate, zeros
from ..spec import Spec
from .dinov2 import split_class_position
from .keys import (
    BESIDE_A_TOWER,
    VITS,
    Tensors,
    ancestors,
    fuse_qkv,
    prefixes_of,
    renamed,
    take_below,
    take_beside,
)

FAMILIES = VITS

# Each family's patch embedding, which tells the family and the prefix of its keys.
VIT = "embeddings.patch_embeddings.projection.weight"
CLIP = "embeddings.patch_embedding.weight"

# The text tower of CLIP and SigLIP; the mask token and the decoder of masked image
# modelling (ViTMAEForPreTraining, ViTForMaskedImageModeling); old constants; the model
# of language that reads what the tower gives, in LLaVA or PaliGemma.
UNUSED = re.compile(
    r"(text_model|text_projection)\."
    r"|(logit_scale|logit_bias|temperature)$"
    r"|decoder\.(0|decoder_\w+)\.|decoder\.(mask_token|decoder_pos_embed)$"
    r"|embeddings\.(mask_token|position_ids)$"
    rf"|{BESIDE_A_TOWER}"
)
RENAMES = (
    (
        r"^embeddings\.(patch_embeddings\.projection|patch_embedding)\.",
        "patch_embed.proj.",
    ),
    (r"^embeddings\.(position_embeddings|position_embedding\.weight)$", "pos_embed"),
    (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    # SigLIP's pool
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    # around the blocks
    (r"^pre_laye?rnorm\.", "norm_pre."),
    (r"^(post_)?layernorm\.", "norm."),
    (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    # in a block: the norms of ViT, of CLIP and SigLIP
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.(self_attn|attention)\.(out_proj|o_proj)\.", ".attn.proj."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1_proj."),
    (r"\.(self_attn|attention)\.([qkv])_proj\.", r".attn.\2_proj."),
    (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return vit_prefixes(tensors) | clip_prefixes(tensors)


def vit_prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models with the names of ViT, which BEiT and DeiT have too."""
    return prefixes_of(tensors, VIT)


def clip_prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of towers with the names of CLIP, which SigLIP has too."""
    return prefixes_of(tensors, CLIP)


def head_pool(tensors: Tensors, prefix: str) -> str:
    """What the classifier was trained on; '' where there is none."""

    def beside(name: str) -> bool:
        return any(around + name in tensors for around in ancestors(prefix))

    if beside("classifier.weight"):
        return "token" if f"{prefix}embeddings.cls_token" in tensors else "avg"
    return "token" if beside("visual_projection.weight") else ""


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(take_below(tensors, prefix), RENAMES)
    patch = out["patch_embed.proj.weight"].shape
    if len(patch) != 4:
        raise ValueError(
            f"its patch embedding has the shape {patch}, where a convolution over a "
            "picture has four dimensions: not a model of single pictures"
        )
    if "pos_embed" not in out:
        raise ValueError(
            "its model has no position embedding in the file, so positions that timm's "
            "VisionTransformer does not have: rotary ones, or relative to each other"
        )
    if "cls_token" in out and len(out["cls_token"].shape) == 1:
        out["cls_token"] = out["cls_token"].reshape(1, 1, -1)  # CLIP's
    if len(out["pos_embed"].shape) == 2:
        out["pos_embed"] = out["pos_embed"].reshape(1, *out["pos_embed"].shape)
    if "reg_token" in out:
        out.update(split_class_position(out["cls_token"], out["pos_embed"]))
    out = fuse_qkv(
        out, r"(blocks\.\d+\.attn\.)(query|key|value|q|k|v)_proj\.(weight|bias)"
    )
    _fuse_gates(out)
    _split_pool(out)
    # ViT's pooler is for pre-training: no classifier uses it.
    pooler = take_below(out, "pooler.")
    head = _head(tensors, prefix)
    if head and spec.options["num_classes"]:
        if "head.bias" not in head:  # CLIP's projection, of what its tower gives
            head["head.bias"] = zeros(*head["head.weight"].shape[:1])
            if pooler:
                raise ValueError(
                    "its projection is of a pooler's output, which timm's model does "
                    "not have: num_classes=0 fits"
                )
        else:
            _check_classifier(out, head["head.weight"].shape, spec)
    return out | head


def _fuse_gates(out: Tensors) -> None:
    """Join DINOv2-giant's gate and value, apart in transformers 5, as timm's fc1."""
    for gate in [key for key in out if ".mlp.gate_proj." in key]:
        up = gate.replace("gate_proj", "up_proj")
        if up in out:
            joint = gate.replace("gate_proj", "fc1")
            out[joint] = concatenate([out.pop(gate), out.pop(up)])


def _split_pool(out: Tensors) -> None:
    """torch's joint projection (3C, C) as timm's q (C, C) and kv (2C, C)."""
    for kind in ("weight", "bias"):
        if joint := out.pop(f"attn_pool.qkv.{kind}", None):
            width = joint.shape[0] // 3
            out[f"attn_pool.q.{kind}"] = joint[:width]
            out[f"attn_pool.kv.{kind}"] = joint[width:]


def _head(tensors: Tensors, prefix: str) -> Tensors:
    """The classifier, or else CLIP's projection, which has no bias."""
    out = {}
    for name in ("classifier.weight", "classifier.bias", "visual_projection.weight"):
        ours = f"head.{name.rpartition('.')[2]}"
        if ours not in out and (tensor := take_beside(tensors, prefix, name)):
            out[ours] = tensor
    return out


def _check_classifier(out: Tensors, shape: Shape, spec: Spec) -> None:
    """Raise ValueError where the model cannot give what the classifier classifies."""
    width = out["patch_embed.proj.weight"].shape[0]
    mean = spec.options["global_pool"] == "avg" and not spec.options["fc_norm"]
    if shape[1:] == (2 * width,):
        raise ValueError(
            "its head classifies the class token and the mean of the patches together, "
            "for which timm's model has no pool: num_classes=0 fits"
        )
    if "attn_pool.latent" in out:
        if not mean:
            raise ValueError(
                "SiglipForImageClassification classifies the mean of the patches, not "
                "its pool: global_pool='avg' with fc_norm=False fits, or num_classes=0"
            )
        take_below(out, "attn_pool.")
    if "norm_pre.weight" in out:
        # It classifies the mean of what the last block gives.
        if not mean or spec.options["norm"]:
            raise ValueError(
                "CLIPForImageClassification classifies the mean of the patches without "
                "the last norm: global_pool='avg' with final_norm=False fits, or "
                "num_classes=0"
            )
        take_below(out, "norm.")
