# SPDX-License-Identifier: Apache-2.0
"""The visual tower of OpenAI's CLIP, and of OpenCLIP where it builds its own ViT."""

from __future__ import annotations

import re

from ..lazy import zeros
from ..spec import Spec
from .keys import VITS, Tensors, prefixes_of, renamed, take_below

FAMILIES = VITS

# The text tower, CoCa's decoder, and the constants of OpenAI's TorchScript files.
UNUSED = re.compile(
    r"(transformer|token_embedding|ln_final|text|text_decoder)\."
    r"|(positional_embedding|text_projection|logit_scale|logit_bias)$"
    r"|(input_resolution|context_length|vocab_size|attn_mask)$"
)
RENAMES = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^positional_embedding$", "pos_embed"),
    (r"^class_embedding$", "cls_token"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"^(blocks\.\d+\.)ln_([12])\.", r"\1norm\2."),
    (r"^(blocks\.\d+\.attn\.)in_proj_", r"\1qkv."),
    (r"^(blocks\.\d+\.attn\.)out_proj\.", r"\1proj."),
    (r"^(blocks\.\d+\.mlp\.)c_fc\.", r"\1fc1."),
    (r"^(blocks\.\d+\.mlp\.)c_proj\.", r"\1fc2."),
    (r"^(blocks\.\d+\.)ls_([12])\.gamma$", r"\1ls\2.gamma"),
)
# CoCa's pool is not timm's: its names must not be taken for those.
_POOL = (r"^attn_pool", "visual.attn_pool")


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, "visual.class_embedding")


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(take_below(tensors, f"{prefix}visual."), [*RENAMES, _POOL])
    if "proj" in out:
        # The projection to the joint space is timm's head: (C, classes), no bias.
        projection = out.pop("proj")
        out["head.weight"] = projection.transpose(1, 0)
        out["head.bias"] = zeros(projection.shape[1])
    out["cls_token"] = out["cls_token"].reshape(1, 1, -1)
    out["pos_embed"] = out["pos_embed"].reshape(1, *out["pos_embed"].shape)
    if "norm_pre.weight" not in out:
        # Without its first norm (no_ln_pre) timm's patch embedding has a bias.
        out["patch_embed.proj.bias"] = zeros(out["patch_embed.proj.weight"].shape[0])
    return out
