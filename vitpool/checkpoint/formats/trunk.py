# SPDX-License-Identifier: Apache-2.0
"""timm's own keys below a prefix: OpenCLIP with a timm trunk, DINO, Lightning, ..."""

from __future__ import annotations

import re

from ..lazy import zeros
from ..spec import PATCH, STEM, Spec
from .keys import ALL, BESIDE_A_TOWER, Tensors, prefixes_of, take_below, take_beside

FAMILIES = ALL

# OpenCLIP's text tower; the head that DINO is trained with; a language model.
UNUSED = re.compile(
    r"text\.|logit_(scale|bias)$|head\.(mlp\.\d+|last_layer)\."
    rf"|{BESIDE_A_TOWER}"
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    found = prefixes_of(tensors, PATCH) | prefixes_of(tensors, STEM)
    return set() if "" in found else found


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = take_below(tensors, prefix)
    if not prefix.endswith("visual.trunk."):
        return out
    # The projection to the joint space stands outside the trunk. Where it is an MLP no
    # head of timm's can be it.
    if not spec.options["num_classes"]:
        take_below(tensors, f"{prefix.removesuffix('trunk.')}head.mlp.")
    weight = take_beside(tensors, prefix, "head.proj.weight")
    bias = take_beside(tensors, prefix, "head.proj.bias")
    if weight:
        out["head.weight"] = weight
        out["head.bias"] = bias or zeros(weight.shape[0])
    return out
