# SPDX-License-Identifier: Apache-2.0
"""BEiT-3: the vision expert (branch A) of the multimodal model."""

from __future__ import annotations

import re

from ..spec import Spec
from .keys import VITS, Tensors, fuse_qkv, prefixes_of, renamed, take_below

FAMILIES = VITS

# The text's side, and what only training needs.
UNUSED = re.compile(
    r"beit3\.(text_embed\.weight|vision_embed\.mask_token|encoder\..*\.B\..*)$"
)
_RENAMES = (
    (r"^beit3\.", ""),
    (r"^vision_embed\.cls_token", "cls_token"),
    (r"^vision_embed\.", "patch_embed."),
    (r"^encoder\.", ""),
    (r"^embed_positions\.", "pos_embed."),
    (r"^layers\.", "blocks."),
    (r"ffn_layernorm\.", "norm."),
    (r"ffn\.", "mlp."),
    (r"self_attn_layer_norm\.", "norm1."),
    (r"self_attn\.", "attn."),
    (r"final_layer_norm\.", "norm2."),
    (r"inner_attn_ln", "norm"),
    (r"out_proj", "proj"),
    (r"\.A\.", "."),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, "beit3.vision_embed.proj.weight")


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(take_below(tensors, prefix), _RENAMES)
    if "pos_embed.weight" in out:
        # fairseq keeps two rows for padding in front.
        positions = out.pop("pos_embed.weight")[2:]
        out["pos_embed"] = positions.reshape(1, *positions.shape)
    return fuse_qkv(out, r"(blocks\.\d+\.attn\.)([qkv])_proj\.(weight|bias)")
