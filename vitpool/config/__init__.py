# SPDX-License-Identifier: Apache-2.0
"""timm's constructor arguments: checked, as the core's options, and made from those."""

from __future__ import annotations

from .arguments import all_arguments_of, arguments_of, mlp_ratio_of
from .checks import as_bool, as_float, as_int, as_pair, plain
from .names import (
    BLOCKS,
    INIT_MODES,
    POOLS,
    ActLayer,
    AttnLayer,
    BlockFn,
    MlpLayer,
    ModelOptions,
    NormLayer,
    Pool,
    PosEmbed,
    WeightInit,
)
from .options import DEFAULTS, refuse_unknown, resolve

__all__ = [
    "BLOCKS",
    "DEFAULTS",
    "INIT_MODES",
    "POOLS",
    "ActLayer",
    "AttnLayer",
    "BlockFn",
    "MlpLayer",
    "ModelOptions",
    "NormLayer",
    "Pool",
    "PosEmbed",
    "WeightInit",
    "all_arguments_of",
    "arguments_of",
    "as_bool",
    "as_float",
    "as_int",
    "as_pair",
    "mlp_ratio_of",
    "plain",
    "refuse_unknown",
    "resolve",
]
