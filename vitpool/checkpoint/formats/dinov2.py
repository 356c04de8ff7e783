# SPDX-License-Identifier: Apache-2.0
"""DINOv2 with and without registers, and TIPS, which holds one under a prefix."""

from __future__ import annotations

import re

import numpy as np

from ..lazy import Array, LazyTensor
from ..spec import Spec

_TIPS = "vision_encoder."


def matches(tensors: dict[str, LazyTensor]) -> bool:
    """Whether the keys are of this layout."""
    return "mask_token" in tensors or f"{_TIPS}mask_token" in tensors


def convert(tensors: dict[str, LazyTensor], spec: Spec) -> dict[str, LazyTensor]:
    """The tensors under timm's keys."""
    if "mask_token" not in tensors:
        tensors = {
            key[len(_TIPS) :]: tensor
            for key, tensor in tensors.items()
            if key.startswith(_TIPS)
        }
    out = {}
    for key, tensor in tensors.items():
        if key == "mask_token":
            continue
        key = re.sub(r"^(blocks\.\d+\.mlp\.)w12\.", r"\1fc1.", key)
        key = re.sub(r"^(blocks\.\d+\.mlp\.)w3\.", r"\1fc2.", key)
        out[key] = tensor
    if "register_tokens" in out:
        out["reg_token"] = out.pop("register_tokens")
        out.update(split_class_position(out["cls_token"], out["pos_embed"]))
    return out


def split_class_position(
    cls_token: LazyTensor, pos_embed: LazyTensor
) -> dict[str, LazyTensor]:
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
