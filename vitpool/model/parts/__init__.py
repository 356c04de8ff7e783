# SPDX-License-Identifier: Apache-2.0
"""The parts of a model: timm's modules by path, typed, which compute and are assigned.

Each class has the name and the attributes of timm's or torch's.
"""

from __future__ import annotations

from .attention import (
    Attention,
    AttentionPoolLatent,
    AttentionPoolPrr,
    DiffAttention,
    GluMlp,
    Mlp,
    SwiGLU,
)
from .beit import Attention as BeitAttention
from .beit import Block as BeitBlock
from .beit import RelativePositionBias
from .blocks import (
    Block,
    DiffParallelScalingBlock,
    ModuleList,
    ParallelScalingBlock,
    ParallelThingsBlock,
    PatchEmbed,
    ResPostBlock,
    Sequential,
)
from .eva import AttentionRope, EvaAttention, EvaBlock, EvaBlockPostNorm
from .holder import HasParts
from .layers import (
    GELU,
    Conv2d,
    Dropout,
    GELUTanh,
    Identity,
    LayerNorm,
    LayerScale,
    Linear,
    QuickGELU,
    ReLU,
    RmsNorm,
    Sigmoid,
    SiLU,
)
from .module import Module
from .naflex import (
    NaFlexEmbeds,
    PatchEmbedInterpolator,
    PatchEmbedResamplerFixedOrigSize,
)
from .rel_pos import (
    RelPosAttention,
    RelPosBias,
    RelPosBlock,
    RelPosMlp,
    ResPostRelPosBlock,
)
from .rope import (
    RotaryEmbeddingCat,
    RotaryEmbeddingDinoV3,
    RotaryEmbeddingMixed,
    as_embed,
)
from .sizes import grid_of, prefix_tokens_of
from .stem import BatchNormAct2d, ConvNormAct, ConvStem, HybridEmbed
from .switches import asked_for
from .walk import Float32, exchange

__all__ = [
    "GELU",
    "Attention",
    "AttentionPoolLatent",
    "AttentionPoolPrr",
    "AttentionRope",
    "BatchNormAct2d",
    "BeitAttention",
    "BeitBlock",
    "Block",
    "Conv2d",
    "ConvNormAct",
    "ConvStem",
    "DiffAttention",
    "DiffParallelScalingBlock",
    "Dropout",
    "EvaAttention",
    "EvaBlock",
    "EvaBlockPostNorm",
    "Float32",
    "GELUTanh",
    "GluMlp",
    "HasParts",
    "HybridEmbed",
    "Identity",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "Mlp",
    "Module",
    "ModuleList",
    "NaFlexEmbeds",
    "ParallelScalingBlock",
    "ParallelThingsBlock",
    "PatchEmbed",
    "PatchEmbedInterpolator",
    "PatchEmbedResamplerFixedOrigSize",
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
    "Sequential",
    "SiLU",
    "Sigmoid",
    "SwiGLU",
    "as_embed",
    "asked_for",
    "exchange",
    "grid_of",
    "prefix_tokens_of",
]
