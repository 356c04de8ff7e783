# SPDX-License-Identifier: Apache-2.0
"""Hugging Face transformers: DINOv3ViT, as Meta's repositories on the hub have it, and
Sapiens2 in memory, whose files have Meta's names.

A class token, registers, no positions and no head, which is timm's Eva. q, k and v are
apart; DINOv3's k has no bias. A gated MLP has gate_proj, up_proj and down_proj for w1,
w2 and w3; timm's Sapiens2 has the first two in one matrix.
"""

from __future__ import annotations

import re

from ..lazy import concatenate
from ..spec import Spec
from .keys import EVA, Tensors, prefixes_of, renamed, take_below
from .qkv import joined

FAMILIES = EVA
UNUSED = re.compile(r"embeddings\.mask_token$|rope_embeddings\.\w+$")
_RENAMES = (
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    # in a file, and in transformers 5
    (r"^(model\.)?layer\.(\d+)\.", r"blocks.\2."),
    (r"^(blocks\.\d+\.)attention\.([qkv])_proj\.", r"\1attn.\2_proj."),
    (r"^(blocks\.\d+\.)attention\.([qk])_norm\.", r"\1attn.\2_norm."),
    (r"^(blocks\.\d+\.)attention\.o_proj\.", r"\1attn.proj."),
    (r"^(blocks\.\d+\.)layer_scale([12])\.lambda1$", r"\1gamma_\2"),
    (r"^(blocks\.\d+\.)mlp\.down_proj\.", r"\1mlp.fc2."),
    (r"^(blocks\.\d+\.)mlp\.gate_proj\.", r"\1mlp.fc1_g."),
)
_UP = r"^(blocks\.\d+\.)mlp\.up_proj\."


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, "embeddings.patch_embeddings.weight") & prefixes_of(
        tensors, "embeddings.register_tokens"
    )


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(take_below(tensors, prefix), _RENAMES)
    gated = any(".mlp.fc1_g." in key for key in out)
    out = renamed(out, [(_UP, rf"\1mlp.fc1{'_x' if gated else ''}.")])
    if out["reg_token"].shape[1:2] == (0,):
        del out["reg_token"]  # as timm has none of them
    for key in [key for key in out if ".mlp.fc1_g." in key]:
        value, both = key.replace("fc1_g", "fc1_x"), key.replace("fc1_g", "fc1")
        if value in out and both in spec.shapes:
            out[both] = concatenate([out.pop(key), out.pop(value)])
    return joined(out, spec)
