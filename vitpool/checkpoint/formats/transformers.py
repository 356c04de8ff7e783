# SPDX-License-Identifier: Apache-2.0
"""Hugging Face transformers: ViT, DINOv2, CLIP's and SigLIP's vision towers.

Both the names that files have and those of transformers 5 in memory are read.
"""

from __future__ import annotations

import re

from ..lazy import LazyTensor, concatenate, zeros
from ..spec import Spec
from .beit3 import fuse_qkv
from .dinov2 import split_class_position

# Each family's patch embedding, which tells the family and the prefix of its keys.
_VIT = "embeddings.patch_embeddings.projection.weight"
_CLIP = "embeddings.patch_embedding.weight"

_RENAMES = (
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
    (r"^pre_layrnorm\.", "norm_pre."),
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
# Not part of timm's model: a mask for training, constants, ViT's pooler (which no
# classifier uses); and heads, which are taken apart.
_UNUSED = re.compile(
    r"embeddings\.(mask_token|position_ids)|(pooler|classifier|visual_projection)\..*"
)


def _prefix(tensors: dict[str, LazyTensor]) -> str | None:
    for key in tensors:
        for anchor in (_VIT, _CLIP):
            if key == anchor or key.endswith(f".{anchor}"):
                return key[: -len(anchor)]
    return None


def matches(tensors: dict[str, LazyTensor]) -> bool:
    """Whether the keys are of this layout."""
    return _prefix(tensors) is not None


def convert(tensors: dict[str, LazyTensor], spec: Spec) -> dict[str, LazyTensor]:
    """The tensors under timm's keys."""
    prefix = _prefix(tensors)
    assert prefix is not None
    out = {}
    for key, tensor in tensors.items():
        if not key.startswith(prefix):
            continue  # a text tower, or a head, which is taken below
        key = key[len(prefix) :]
        if _UNUSED.fullmatch(key):
            continue
        for pattern, new in _RENAMES:
            key = re.sub(pattern, new, key)
        out[key] = tensor

    if len(out["patch_embed.proj.weight"].shape) == 4 and "cls_token" in out:
        out["cls_token"] = out["cls_token"].reshape(1, 1, -1)  # CLIP's is flat
    if "pos_embed" in out and len(out["pos_embed"].shape) == 2:
        out["pos_embed"] = out["pos_embed"].reshape(1, *out["pos_embed"].shape)
    if "reg_token" in out and "cls_token" in out and "pos_embed" in out:
        out.update(split_class_position(out["cls_token"], out["pos_embed"]))
    out = fuse_qkv(
        out, r"(blocks\.\d+\.attn\.)(query|key|value|q|k|v)_proj\.(weight|bias)"
    )
    _fuse_gates(out)
    _split_pool(out)
    _head(out, tensors, spec)
    return out


def _fuse_gates(out: dict[str, LazyTensor]) -> None:
    """Join DINOv2-giant's gate and value, apart in transformers 5, as timm's fc1."""
    for gate in [key for key in out if ".mlp.gate_proj." in key]:
        up = gate.replace("gate_proj", "up_proj")
        if up in out:
            joint = gate.replace("gate_proj", "fc1")
            out[joint] = concatenate([out.pop(gate), out.pop(up)])


def _split_pool(out: dict[str, LazyTensor]) -> None:
    """torch's joint projection (3C, C) as timm's q (C, C) and kv (2C, C)."""
    for kind in ("weight", "bias"):
        if joint := out.pop(f"attn_pool.qkv.{kind}", None):
            width = joint.shape[0] // 3
            out[f"attn_pool.q.{kind}"] = joint[:width]
            out[f"attn_pool.kv.{kind}"] = joint[width:]


def _head(
    out: dict[str, LazyTensor], tensors: dict[str, LazyTensor], spec: Spec
) -> None:
    if "classifier.weight" in tensors:
        mean = spec.options["global_pool"] == "avg" and not spec.options["fc_norm"]
        if "attn_pool.latent" in out and not mean and spec.options["num_classes"]:
            raise ValueError(
                "SiglipForImageClassification classifies the mean of the patches, not "
                "its pool: global_pool='avg' with fc_norm=False fits, or num_classes=0"
            )
        out["head.weight"] = tensors["classifier.weight"]
        out["head.bias"] = tensors["classifier.bias"]
    elif "visual_projection.weight" in tensors:
        projection = tensors["visual_projection.weight"]
        out["head.weight"] = projection
        out["head.bias"] = zeros(projection.shape[0])
