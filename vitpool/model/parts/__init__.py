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
from .blocks import (
    Block,
    DiffParallelScalingBlock,
    ModuleList,
    ParallelScalingBlock,
    ParallelThingsBlock,
    PatchEmbed,
    ResPostBlock,
    Sequential,
    grid_of,
    prefix_tokens_of,
)
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
    SiLU,
)
from .module import Module
from .walk import Float32, exchange

__all__ = [
    "GELU",
    "Attention",
    "AttentionPoolLatent",
    "AttentionPoolPrr",
    "Block",
    "Conv2d",
    "DiffAttention",
    "DiffParallelScalingBlock",
    "Dropout",
    "Float32",
    "GELUTanh",
    "GluMlp",
    "HasParts",
    "Identity",
    "LayerNorm",
    "LayerScale",
    "Linear",
    "Mlp",
    "Module",
    "ModuleList",
    "ParallelScalingBlock",
    "ParallelThingsBlock",
    "PatchEmbed",
    "QuickGELU",
    "ReLU",
    "ResPostBlock",
    "RmsNorm",
    "Sequential",
    "SiLU",
    "SwiGLU",
    "exchange",
    "grid_of",
    "prefix_tokens_of",
]
