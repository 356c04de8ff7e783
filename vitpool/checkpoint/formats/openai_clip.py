# SPDX-License-Identifier: Apache-2.0
"""The visual tower of OpenAI's CLIP, and of OpenCLIP where it builds its own ViT."""

from __future__ import annotations

from ..lazy import LazyTensor, zeros
from ..spec import Spec

_PREFIX = "visual."
# Applied in this order, each wherever it occurs.
_RENAMES = (
    ("conv1", "patch_embed.proj"),
    ("positional_embedding", "pos_embed"),
    ("class_embedding", "cls_token"),
    ("transformer.resblocks.", "blocks."),
    ("ln_pre", "norm_pre"),
    ("ln_post", "norm"),
    ("ln_", "norm"),
    ("in_proj_", "qkv."),
    ("out_proj", "proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)


def matches(tensors: dict[str, LazyTensor]) -> bool:
    """Whether the keys are of this layout."""
    return "visual.class_embedding" in tensors


def convert(tensors: dict[str, LazyTensor], spec: Spec) -> dict[str, LazyTensor]:
    """The tensors under timm's keys."""
    out = {}
    for key, tensor in tensors.items():
        if not key.startswith(_PREFIX):
            continue  # the text tower
        key = key[len(_PREFIX) :]
        if key == "proj":
            # The projection to the joint space is timm's head: (C, classes), no bias.
            out["head.weight"] = tensor.transpose(1, 0)
            out["head.bias"] = zeros(tensor.shape[1])
            continue
        for old, new in _RENAMES:
            key = key.replace(old, new)
        if key == "cls_token":
            tensor = tensor.reshape(1, 1, -1)
        elif key == "pos_embed":
            tensor = tensor.reshape(1, *tensor.shape)
        out[key] = tensor
    return out
