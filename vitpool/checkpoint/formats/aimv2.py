# SPDX-License-Identifier: Apache-2.0
"""Apple's AIMv2."""

from __future__ import annotations

from ..lazy import LazyTensor
from ..spec import Spec

_RENAMES = (
    ("norm_1", "norm1"),
    ("norm_2", "norm2"),
    ("preprocessor.patchifier.", "patch_embed."),
    ("preprocessor.pos_embed", "pos_embed"),
    ("post_trunk_norm.", "norm."),
    ("trunk.", ""),
    ("mlp.fc1", "mlp.fc1_g"),
    ("mlp.fc3", "mlp.fc1_x"),
)


def matches(tensors: dict[str, LazyTensor]) -> bool:
    """Whether the keys are of this layout."""
    return "preprocessor.patchifier.proj.weight" in tensors


def convert(tensors: dict[str, LazyTensor], spec: Spec) -> dict[str, LazyTensor]:
    """The tensors under timm's keys."""
    out = {}
    for key, tensor in tensors.items():
        for old, new in _RENAMES:
            key = key.replace(old, new)
        out[key] = tensor
    return out
