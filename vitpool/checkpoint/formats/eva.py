# SPDX-License-Identifier: Apache-2.0
"""EVA and EVA-02 as BAAI publishes them, alone, fine-tuned, or as EVA-CLIP's tower.

timm's own keys but for the MLP's (w1, w2 and w3, or w12 and w3, with ffn_ln), the norm
behind attention (inner_attn_ln) and the biases of separate q and v (q_bias, v_bias).
Below 'visual.' in EVA-CLIP, whose head is its projection; below 'visual.trunk.' in
OpenCLIP, where the projection is head.proj beside it. A masked image model has no head
but the one it is trained with, which is left out, and `norm` for all of timm's pools.
"""

from __future__ import annotations

import re

from ..spec import Spec
from . import trunk
from .keys import EVA, Tensors, below, prefixes_of, renamed

FAMILIES = EVA
# The mask token and the head of masked image modelling; the rotation's numbers, which
# follow from the model's options.
UNUSED = re.compile(
    r"mask_token$|lm_head\.(weight|bias)$"
    r"|(blocks\.\d+\.attn\.)?rope\.freqs_(cos|sin)$"
    rf"|{trunk.UNUSED.pattern}"
)
# In this order: w12 is no w1.
_RENAMES = (
    (r"^(blocks\.\d+\.)mlp\.ffn_ln\.", r"\1mlp.norm."),
    (r"^(blocks\.\d+\.)attn\.inner_attn_ln\.", r"\1attn.norm."),
    (r"^(blocks\.\d+\.)mlp\.w12\.", r"\1mlp.fc1."),
    (r"^(blocks\.\d+\.)mlp\.w1\.", r"\1mlp.fc1_g."),
    (r"^(blocks\.\d+\.)mlp\.w2\.", r"\1mlp.fc1_x."),
    (r"^(blocks\.\d+\.)mlp\.w3\.", r"\1mlp.fc2."),
)
_SPLIT = (r"^(blocks\.\d+\.attn\.)([qv])_bias$", r"\1\2_proj.bias")
# What timm's own keys do not have.
_TELLING = re.compile(
    r"mask_token$|lm_head\.weight$|(blocks\.0\.attn\.)?rope\.freqs_(cos|sin)$"
    r"|blocks\.0\.(mlp\.(w12|w1|w3|ffn_ln)|attn\.inner_attn_ln)\.weight$"
)
_BIAS = "blocks.0.attn.q_bias"


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout: q has a bias of its own, or a matrix."""
    return {
        p
        for p in prefixes_of(tensors, "patch_embed.proj.weight")
        if _is_split(tensors, p)
        or (f"{p}{_BIAS}" in tensors and any(map(_TELLING.match, below(tensors, p))))
    }


def _is_split(tensors: Tensors, prefix: str) -> bool:
    """Are q and k apart, the biases of q and v beside them?"""
    names = (_BIAS, "blocks.0.attn.q_proj.weight")
    return all(prefix + name in tensors for name in names)


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    split = _is_split(tensors, prefix)
    out = renamed(trunk.convert(tensors, prefix, spec), _RENAMES)
    return renamed(out, [_SPLIT]) if split else out
