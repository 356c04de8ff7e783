# SPDX-License-Identifier: Apache-2.0
"""timm's models of tests/concepts.py, and ours beside them."""

from __future__ import annotations

from functools import partial
from typing import Any

import reference
from concepts import options_of
from timm.layers import HybridEmbed
from timm.models import (
    beit,
    deit,
    eva,
    naflexvit,
    vision_transformer,
    vision_transformer_relpos,
)
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

import vitpool

CLASSES: dict[str, Any] = {
    "Eva": eva.Eva,
    "Beit": beit.Beit,
    "VisionTransformerDistilled": deit.VisionTransformerDistilled,
    "VisionTransformerRelPos": vision_transformer_relpos.VisionTransformerRelPos,
    "NaFlexVit": naflexvit.NaFlexVit,
    "VisionTransformer": vision_transformer.VisionTransformer,
}


def build(name: str) -> Any:
    """timm's of a concept, in evaluation mode."""
    kind, options = options_of(name)
    theirs = dict(options)
    if "block_fn" in theirs:
        theirs["block_fn"] = getattr(vision_transformer_relpos, theirs["block_fn"])
    for key in ("norm_layer", "embed_norm_layer"):
        if key in theirs:
            theirs[key] = reference.norm_class(theirs[key])
    if theirs.get("embed_layer") == "ConvStem":
        theirs |= {"patch_size": 1, "embed_layer": stem(theirs["embed_dim"])}
    return CLASSES[kind](**theirs).eval()


def stem(width: int) -> Any:
    """What embeds the patches of vit_base_mci_224."""
    channels = width // 4, width // 4, width
    backbone = ConvStem(*(3, 3, channels, (4, 2, 2), (4, 2, 2), 0), act_layer=nn.GELU)
    return partial(HybridEmbed, backbone=backbone, proj=False)


def models(name: str) -> tuple[Any, Any]:
    """Ours and timm's of a concept, with the recipe's weights."""
    kind, options = options_of(name)
    model = build(name)
    weights = reference.fill(model)
    return getattr(vitpool, kind)(**options, weights=weights), model
