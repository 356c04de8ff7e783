# SPDX-License-Identifier: Apache-2.0
"""DeiT III as Meta publishes it: timm's keys, but LayerScale's are the block's own."""

from __future__ import annotations

from ..spec import Spec
from . import trunk
from .keys import VITS, Tensors, prefixes_of, renamed

FAMILIES = VITS
UNUSED = trunk.UNUSED
# What others whose blocks have a gamma_1 have beside it: Beit's, and models of Eva's.
_OTHERS = (
    *("blocks.0.attn.q_bias", "blocks.0.attn.q_proj.weight", "norm_pre.weight"),
    *("blocks.0.attn.relative_position_bias_table", "rope.freqs"),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout: all of q, k and v have a bias."""
    return {
        prefix
        for prefix in prefixes_of(tensors, "blocks.0.gamma_1")
        if f"{prefix}patch_embed.proj.weight" in tensors
        and f"{prefix}blocks.0.attn.qkv.bias" in tensors
        and not any(prefix + name in tensors for name in _OTHERS)
    }


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = trunk.convert(tensors, prefix, spec)
    return renamed(out, [(r"^(blocks\.\d+\.)gamma_([12])$", r"\1ls\2.gamma")])
