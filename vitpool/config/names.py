# SPDX-License-Identifier: Apache-2.0
"""Names that timm's options take, as types: an editor offers them, mypy checks them.

At run time other spellings of a name count too ('Swish', 'layer_norm', 'GELU').
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Pool = Literal["", "avg", "avgmax", "max", "token", "map", "prr"]
PosEmbed = Literal["", "none", "learn"]
WeightInit = Literal["", "jax", "jax_nlhb", "moco", "reset", "skip"]
NormName = Literal["layernorm", "rmsnorm"]
NormLayer = NormName | tuple[NormName, float] | Mapping[str, Any]
ActLayer = Literal["gelu", "gelu_tanh", "quick_gelu", "silu", "relu"]
MlpLayer = Literal["Mlp", "GluMlp", "SwiGLUPacked", "SwiGLU"]
AttnLayer = Literal["attn", "diff"]
BlockFn = Literal[
    "Block",
    "ResPostBlock",
    "ParallelScalingBlock",
    "ParallelThingsBlock",
    "DiffParallelScalingBlock",
]

POOLS: tuple[Pool, ...] = get_args(Pool)
POS_EMBEDS: tuple[PosEmbed, ...] = get_args(PosEmbed)
INIT_MODES: tuple[WeightInit, ...] = get_args(WeightInit)
NORMS: tuple[NormName, ...] = get_args(NormName)
ACTS: tuple[ActLayer, ...] = get_args(ActLayer)
MLPS: tuple[MlpLayer, ...] = get_args(MlpLayer)
ATTNS: tuple[AttnLayer, ...] = get_args(AttnLayer)
BLOCKS: tuple[BlockFn, ...] = get_args(BlockFn)
