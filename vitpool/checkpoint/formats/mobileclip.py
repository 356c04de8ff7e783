# SPDX-License-Identifier: Apache-2.0
"""Apple's MobileCLIP-B: the image encoder, a ViT behind a stem of convolutions.

Its projection to the joint space is timm's head, without a bias; the class token is
what it was trained on.
"""

from __future__ import annotations

import re

from ..lazy import zeros
from ..spec import Spec
from .keys import Tensors, prefixes_of, renamed, take_below

FAMILIES = frozenset({"VisionTransformer"})
UNUSED = re.compile(r"text_encoder\.|logit_scale$")
_INSIDE = "image_encoder.model."
_RENAMES = (
    (r"^patch_emb\.(\d+)\.block\.conv\.", r"patch_embed.backbone.\1.conv."),
    (r"^patch_emb\.(\d+)\.block\.norm\.", r"patch_embed.backbone.\1.bn."),
    (r"^pos_embed\.pos_embed\.pos_embed$", "pos_embed"),
    (r"^post_transformer_norm\.", "norm."),
    (r"^transformer\.", "blocks."),
    (r"^(blocks\.\d+\.)pre_norm_mha\.0\.", r"\1norm1."),
    (r"^(blocks\.\d+\.)pre_norm_mha\.1\.qkv_proj\.", r"\1attn.qkv."),
    (r"^(blocks\.\d+\.)pre_norm_mha\.1\.out_proj\.", r"\1attn.proj."),
    (r"^(blocks\.\d+\.)pre_norm_ffn\.0\.", r"\1norm2."),
    (r"^(blocks\.\d+\.)pre_norm_ffn\.1\.", r"\1mlp.fc1."),
    (r"^(blocks\.\d+\.)pre_norm_ffn\.4\.", r"\1mlp.fc2."),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, f"{_INSIDE}patch_emb.0.block.conv.weight")


def head_pool(tensors: Tensors, prefix: str) -> str:
    """What the projection was trained on."""
    return "token"


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(take_below(tensors, prefix + _INSIDE), _RENAMES)
    positions = out["pos_embed"]
    out["pos_embed"] = positions.reshape(1, *positions.shape[-2:])
    if "classifier.proj" in out:
        projection = out.pop("classifier.proj")
        out["head.weight"] = projection.transpose(1, 0)
        out["head.bias"] = zeros(projection.shape[1])
    return out
