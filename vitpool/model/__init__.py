# SPDX-License-Identifier: Apache-2.0
"""timm's classes: their interface on the C core, and the parts of a model."""

from __future__ import annotations

from .answers import Class, Classification, Classifications, Embeddings
from .base import IncompatibleKeys, PlainViT
from .beit import Beit
from .copying import _rebuild as _rebuild  # pickles name it here
from .deit import VisionTransformerDistilled
from .diff import Difference
from .digest import digest
from .dtypes import counters, matrices, num_parameters
from .eva import Eva
from .features import FeatureGetterNet, FeatureInfo
from .naflex import NaFlexVit
from .parts import (
    GELU,
    Attention,
    AttentionPoolLatent,
    AttentionPoolPrr,
    AttentionRope,
    BatchNormAct2d,
    BeitAttention,
    BeitBlock,
    Block,
    Conv2d,
    ConvNormAct,
    ConvStem,
    DiffAttention,
    DiffParallelScalingBlock,
    Dropout,
    EvaAttention,
    EvaBlock,
    EvaBlockPostNorm,
    Float32,
    GELUTanh,
    GluMlp,
    HybridEmbed,
    Identity,
    LayerNorm,
    LayerScale,
    Linear,
    Mlp,
    Module,
    ModuleList,
    NaFlexEmbeds,
    ParallelScalingBlock,
    ParallelThingsBlock,
    PatchEmbed,
    PatchEmbedInterpolator,
    PatchEmbedResamplerFixedOrigSize,
    QuickGELU,
    RelativePositionBias,
    RelPosAttention,
    RelPosBias,
    RelPosBlock,
    RelPosMlp,
    ReLU,
    ResPostBlock,
    ResPostRelPosBlock,
    RmsNorm,
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    Sequential,
    Sigmoid,
    SiLU,
    SwiGLU,
)
from .pictures import UntrainedWarning
from .pooling import POOLS, Pooling
from .relpos import VisionTransformerRelPos
from .summary import Row, Summary
from .vit import VisionTransformer

#: timm's classes by name, which is also what the core's option `family` says.
CLASSES: dict[str, type[PlainViT]] = {
    kind.__name__: kind
    for kind in (
        VisionTransformer,
        VisionTransformerDistilled,
        Eva,
        Beit,
        VisionTransformerRelPos,
        NaFlexVit,
    )
}

__all__ = [
    "CLASSES",
    "GELU",
    "POOLS",
    "Attention",
    "AttentionPoolLatent",
    "AttentionPoolPrr",
    "AttentionRope",
    "BatchNormAct2d",
    "Beit",
    "BeitAttention",
    "BeitBlock",
    "Block",
    "Class",
    "Classification",
    "Classifications",
    "Conv2d",
    "ConvNormAct",
    "ConvStem",
    "DiffAttention",
    "DiffParallelScalingBlock",
    "Difference",
    "Dropout",
    "Embeddings",
    "Eva",
    "EvaAttention",
    "EvaBlock",
    "EvaBlockPostNorm",
    "FeatureGetterNet",
    "FeatureInfo",
    "Float32",
    "GELUTanh",
    "GluMlp",
    "HybridEmbed",
    "Identity",
    "IncompatibleKeys",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "Mlp",
    "Module",
    "ModuleList",
    "NaFlexEmbeds",
    "NaFlexVit",
    "ParallelScalingBlock",
    "ParallelThingsBlock",
    "PatchEmbed",
    "PatchEmbedInterpolator",
    "PatchEmbedResamplerFixedOrigSize",
    "PlainViT",
    "Pooling",
    "QuickGELU",
    "ReLU",
    "RelPosAttention",
    "RelPosBias",
    "RelPosBlock",
    "RelPosMlp",
    "RelativePositionBias",
    "ResPostBlock",
    "ResPostRelPosBlock",
    "RmsNorm",
    "RotaryEmbeddingCat",
    "RotaryEmbeddingDinoV3",
    "RotaryEmbeddingMixed",
    "Row",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Summary",
    "SwiGLU",
    "UntrainedWarning",
    "VisionTransformer",
    "VisionTransformerDistilled",
    "VisionTransformerRelPos",
    "counters",
    "digest",
    "matrices",
    "num_parameters",
]
