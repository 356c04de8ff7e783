# SPDX-License-Identifier: Apache-2.0
"""Two models side by side, stage by stage: where they part, and by how much."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .parameters import ParameterDifference
from .precision import Agreement, Precision
from .result import Comparison, StageRow
from .side import Array, Side, Stages

if TYPE_CHECKING:
    from .compared import compare
    from .quantized import Quantized, quantize

__all__ = [
    "Agreement",
    "Array",
    "Comparison",
    "ParameterDifference",
    "Precision",
    "Quantized",
    "Side",
    "StageRow",
    "Stages",
    "compare",
    "quantize",
]

_LATER = {"compare": "compared", "quantize": "quantized", "Quantized": "quantized"}


def __getattr__(name: str) -> Any:
    # Later: it opens records, and a record is a side itself, one from this room.
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)
