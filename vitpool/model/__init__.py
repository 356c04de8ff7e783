# SPDX-License-Identifier: Apache-2.0
"""VisionTransformer: timm's interface on the C core, and the parts of a model."""

from __future__ import annotations

from .answers import Class, Classification, Classifications, Embeddings
from .copying import _rebuild as _rebuild  # pickles name it here
from .diff import Difference
from .features import FeatureGetterNet, FeatureInfo
from .parts import (
    GELU,
    Attention,
    AttentionPoolLatent,
    AttentionPoolPrr,
    Block,
    Conv2d,
    DiffAttention,
    DiffParallelScalingBlock,
    Dropout,
    Float32,
    GELUTanh,
    GluMlp,
    Identity,
    LayerNorm,
    LayerScale,
    Linear,
    Mlp,
    Module,
    ModuleList,
    ParallelScalingBlock,
    ParallelThingsBlock,
    PatchEmbed,
    QuickGELU,
    ReLU,
    ResPostBlock,
    RmsNorm,
    Sequential,
    SiLU,
    SwiGLU,
)
from .pictures import UntrainedWarning
from .pooling import POOLS, Pooling
from .summary import Row, Summary
from .vit import IncompatibleKeys, VisionTransformer

__all__ = [
    "GELU",
    "POOLS",
    "Attention",
    "AttentionPoolLatent",
    "AttentionPoolPrr",
    "Block",
    "Class",
    "Classification",
    "Classifications",
    "Conv2d",
    "DiffAttention",
    "DiffParallelScalingBlock",
    "Difference",
    "Dropout",
    "Embeddings",
    "FeatureGetterNet",
    "FeatureInfo",
    "Float32",
    "GELUTanh",
    "GluMlp",
    "Identity",
    "IncompatibleKeys",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "Mlp",
    "Module",
    "ModuleList",
    "ParallelScalingBlock",
    "ParallelThingsBlock",
    "PatchEmbed",
    "Pooling",
    "QuickGELU",
    "ReLU",
    "ResPostBlock",
    "RmsNorm",
    "Row",
    "Sequential",
    "SiLU",
    "Summary",
    "SwiGLU",
    "UntrainedWarning",
    "VisionTransformer",
]
