# SPDX-License-Identifier: Apache-2.0
"""DINOv2 with and without registers, and TIPS, which holds one as vision_encoder."""

from __future__ import annotations

import re

import numpy as np

from ..lazy import Array, LazyTensor
from ..spec import Spec
from .keys import VITS, Tensors, prefixes_of, renamed, take_below

FAMILIES = VITS

# TIPS's text tower; the heads that DINOv2 is trained with.
UNUSED = re.compile(r"mask_token$|(text_encoder|dino_head|ibot_head)\.|temperature$")
# The MLP's names: of SwiGLU; of TIPS as transformers writes it.
_RENAMES = (
    (r"^(blocks\.\d+\.mlp\.)(w12|c_fc)\.", r"\1fc1."),
    (r"^(blocks\.\d+\.mlp\.)(w3|c_proj)\.", r"\1fc2."),
    (r"^register_tokens$", "reg_token"),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout: timm's patches, and a mask token."""
    return prefixes_of(tensors, "mask_token") & prefixes_of(
        tensors, "patch_embed.proj.weight"
    )


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(take_below(tensors, prefix), _RENAMES)
    if "reg_token" in out:
        out.update(split_class_position(out["cls_token"], out["pos_embed"]))
    return out


def split_class_position(cls_token: LazyTensor, pos_embed: LazyTensor) -> Tensors:
    """Add the class token's position to the token, and leave the patches' positions.

    With registers timm's model embeds no prefix token (no_embed_class).
    """

    def read() -> Array:
        # float32 first: the sum of two half-precision numbers would be rounded.
        token = cls_token.read().astype(np.float32)
        return np.add(token, pos_embed.read()[:, :1].astype(np.float32))

    return {
        "cls_token": LazyTensor(cls_token.shape, read),
        "pos_embed": pos_embed[:, 1:],
    }
