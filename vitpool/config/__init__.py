# SPDX-License-Identifier: Apache-2.0
"""timm's constructor arguments: checked, as the core's options, and made from those."""

from __future__ import annotations

from .arguments import all_arguments_of, arguments_of, mlp_ratio_of
from .checks import as_bool, as_float, as_int, as_pair, plain
from .options import BLOCKS, DEFAULTS, INIT_MODES, POOLS, resolve

__all__ = [
    "BLOCKS",
    "DEFAULTS",
    "INIT_MODES",
    "POOLS",
    "all_arguments_of",
    "arguments_of",
    "as_bool",
    "as_float",
    "as_int",
    "as_pair",
    "mlp_ratio_of",
    "plain",
    "resolve",
]
