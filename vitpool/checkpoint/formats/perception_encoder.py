# SPDX-License-Identifier: Apache-2.0
"""Meta's Perception Encoder: core, with an attention pool and CLIP's text tower; lang
and spatial, which end with the last block.

OpenAI's names for timm's Eva. In core the pool's projection to the joint space is
timm's head, without a bias; its positions are learned as well as rotary.
"""

from __future__ import annotations

import re

from ..lazy import zeros
from ..spec import Spec
from . import openai_clip
from .keys import EVA, Tensors, prefixes_of, renamed, take_below
from .qkv import thirds

FAMILIES = EVA
UNUSED = re.compile(r"(?!)")  # nothing
BESIDE = openai_clip.UNUSED
_RENAMES = (
    *openai_clip.RENAMES,
    (r"^(blocks\.\d+\.)ls([12])\.gamma$", r"\1gamma_\2"),
    (r"^attn_pool\.probe$", "attn_pool.latent"),
    (r"^attn_pool\.attn\.in_proj_", "attn_pool.qkv."),
    (r"^attn_pool\.attn\.out_proj\.", "attn_pool.proj."),
    (r"^attn_pool\.layernorm\.", "attn_pool.norm."),
    (r"^attn_pool\.mlp\.c_fc\.", "attn_pool.mlp.fc1."),
    (r"^attn_pool\.mlp\.c_proj\.", "attn_pool.mlp.fc2."),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout, 'visual.' among them.

    CLIP's towers, which have no pool of attention, end with a norm.
    """
    return {
        prefix
        for prefix in prefixes_of(tensors, "conv1.weight")
        if f"{prefix}transformer.resblocks.0.ln_1.weight" in tensors
        and (
            f"{prefix}attn_pool.probe" in tensors
            or f"{prefix}ln_post.weight" not in tensors
        )
    }


def head_pool(tensors: Tensors, prefix: str) -> str:
    """What the projection was trained on; '' where there is none."""
    return "map" if f"{prefix}attn_pool.probe" in tensors else ""


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(take_below(tensors, prefix), _RENAMES)
    for kind in ("weight", "bias"):
        if joint := out.pop(f"attn_pool.qkv.{kind}", None):
            width = thirds(joint)[0].shape[0]
            out[f"attn_pool.q.{kind}"] = joint[:width]
            out[f"attn_pool.kv.{kind}"] = joint[width:]
    if "proj" in out:
        projection = out.pop("proj")
        out["head.weight"] = projection.transpose(1, 0)
        out["head.bias"] = zeros(projection.shape[1])
    if "cls_token" in out:
        out["cls_token"] = out["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in out:
        out["pos_embed"] = out["pos_embed"].reshape(1, *out["pos_embed"].shape)
    return out
