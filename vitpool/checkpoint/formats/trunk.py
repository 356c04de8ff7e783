# SPDX-License-Identifier: Apache-2.0
"""timm's own keys below a prefix: OpenCLIP with a timm trunk, DINO's teacher."""

from __future__ import annotations

from ..lazy import LazyTensor, zeros
from ..spec import Spec

_PREFIXES = ("visual.trunk.", "backbone.")
_PROJECTION = "visual.head.proj.weight"


def _prefix(tensors: dict[str, LazyTensor]) -> str | None:
    for prefix in _PREFIXES:
        for anchor in ("pos_embed", "blocks.0.norm1.weight"):
            if prefix + anchor in tensors:
                return prefix
    return None


def matches(tensors: dict[str, LazyTensor]) -> bool:
    """Whether the keys are of this layout."""
    return _prefix(tensors) is not None


def convert(tensors: dict[str, LazyTensor], spec: Spec) -> dict[str, LazyTensor]:
    """The tensors under timm's keys."""
    prefix = _prefix(tensors)
    assert prefix is not None
    out = {
        key[len(prefix) :]: tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix)
    }
    if prefix == "visual.trunk." and _PROJECTION in tensors:
        # The projection to the joint space stands outside the trunk.
        out["head.weight"] = tensors[_PROJECTION]
        out["head.bias"] = zeros(tensors[_PROJECTION].shape[0])
    return out
