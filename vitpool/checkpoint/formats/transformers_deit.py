# SPDX-License-Identifier: Apache-2.0
"""Hugging Face transformers: DeiT with its distillation token, which is timm's
VisionTransformerDistilled.

DeiTForImageClassificationWithTeacher has both heads. What DeiTForImageClassification
classifies, the class token alone, timm's model does not give.
"""

from __future__ import annotations

from ..spec import Spec
from . import transformers
from .keys import DISTILLED, Tensors, prefixes_of, take_beside

FAMILIES = DISTILLED
UNUSED = transformers.UNUSED
_TOKEN = "embeddings.distillation_token"


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, _TOKEN) & transformers.vit_prefixes(tensors)


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    token = tensors.pop(prefix + _TOKEN)
    heads = {}
    for theirs, ours in (
        ("cls_classifier", "head"),
        ("distillation_classifier", "head_dist"),
    ):
        for kind in ("weight", "bias"):
            if tensor := take_beside(tensors, prefix, f"{theirs}.{kind}"):
                heads[f"{ours}.{kind}"] = tensor
    out = transformers.convert(tensors, prefix, spec)
    if "head.weight" in out and spec.options["num_classes"]:
        raise ValueError(
            "its classifier is of the class token alone, where "
            "VisionTransformerDistilled takes the mean of two: num_classes=0 fits"
        )
    return out | {"dist_token": token} | heads
