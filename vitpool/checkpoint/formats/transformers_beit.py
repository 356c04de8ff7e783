# SPDX-License-Identifier: Apache-2.0
"""Hugging Face transformers: BEiT and Data2VecVision, as files have it and in memory.

The classifier is on the mean of the patches, behind the pooler's norm (timm's fc_norm),
or on the class token. The masked image model's head is left out.
"""

from __future__ import annotations

import re

from ..spec import Spec
from . import transformers
from .beit import shared_to_blocks
from .keys import BEIT, Tensors, below, renamed, take_below, take_beside
from .qkv import joined

FAMILIES = BEIT
UNUSED = re.compile(
    r"(.*\.)?relative_position_index$|embeddings\.mask_token$|lm_head\.(weight|bias)$"
)
_RENAMES = (
    (r"^(encoder\.relative_position_bias|shared_position_bias)\.", "rel_pos_bias."),
    (
        r"^((encoder\.)?layers?\.\d+)\.(attention\.attention\.)?relative_position_bias\.",
        r"\1.attn.",
    ),
    (r"^pooler\.layernorm\.", "fc_norm."),
    *transformers.RENAMES,
    (r"^(blocks\.\d+)\.lambda_([12])$", r"\1.gamma_\2"),
    (r"\.attn\.(query|key|value)_proj\.", lambda m: f".attn.{m[1][0]}_proj."),
)
# A scale or a table that ViT has not.
_TELLING = re.compile(
    r"(encoder\.)?layers?\.0\.(lambda_1$|.*relative_position_bias_table$)"
    r"|(encoder\.relative|shared)_position_bias\."
)
_BIAS = re.compile(
    r"(?:encoder\.)?layers?\.0\.attention\.(?:attention\.)?"
    r"(query|key|value|[qkv]_proj)\.bias$"
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    found = transformers.vit_prefixes(tensors)
    return {p for p in found if any(map(_TELLING.match, below(tensors, p)))} | {
        p for p in found if _biases(tensors, p) == {"q", "v"}
    }


def _biases(tensors: Tensors, prefix: str) -> set[str]:
    """Which of q, k and v have a bias, in the first block."""
    return {m[1][0] for m in map(_BIAS.match, below(tensors, prefix)) if m}


def head_pool(tensors: Tensors, prefix: str) -> str:
    """What the classifier was trained on."""
    return "avg" if f"{prefix}pooler.layernorm.weight" in tensors else "token"


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(take_below(tensors, prefix), _RENAMES)
    for kind in ("weight", "bias"):
        # The masked image model's last norm stands beside it.
        inside = f"norm.{kind}" in out or f"fc_norm.{kind}" in out
        norm = None if inside else take_beside(tensors, prefix, f"layernorm.{kind}")
        if norm:
            out[f"norm.{kind}"] = norm
        if head := take_beside(tensors, prefix, f"classifier.{kind}"):
            out[f"head.{kind}"] = head
    return shared_to_blocks(joined(out, spec), spec)
