# SPDX-License-Identifier: Apache-2.0
"""Sapiens2 as Meta publishes it: a class token, registers, no positions, no head.

timm's Eva with q, k and v apart, some blocks with fewer heads of k and v, and
LayerScale behind attention alone, where this layout has it inside.
"""

from __future__ import annotations

import re

from ..spec import Spec
from .keys import EVA, Tensors, prefixes_of, renamed, take_below

FAMILIES = EVA
UNUSED = re.compile(r"mask_token$|rope_embed\.\w+$")
_RENAMES = (
    (r"^storage_tokens$", "reg_token"),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^(blocks\.\d+\.attn\.)w([qkv])\.", r"\1\2_proj."),
    (r"^(blocks\.\d+\.)attn\.gamma\.weight$", r"\1gamma_1"),
    (r"^(blocks\.\d+\.)ffn\.w12\.", r"\1mlp.fc1."),
    (r"^(blocks\.\d+\.)ffn\.w3\.", r"\1mlp.fc2."),
    (r"^(blocks\.\d+\.)ln([12])\.", r"\1norm\2."),
    (r"^ln1\.", "norm."),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, "blocks.0.attn.wq.weight") & prefixes_of(
        tensors, "blocks.0.ffn.w12.weight"
    )


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    return renamed(take_below(tensors, prefix), _RENAMES)
