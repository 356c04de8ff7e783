# SPDX-License-Identifier: Apache-2.0
"""Two models side by side, stage by stage: where they part, and by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .parameters import ParameterDifference
from .result import Comparison, StageRow
from .side import Array, Side, Stages

if TYPE_CHECKING:
    from .compared import compare

__all__ = [
    "Array",
    "Comparison",
    "ParameterDifference",
    "Side",
    "StageRow",
    "Stages",
    "compare",
]


def __getattr__(name: str) -> Any:
    # Later: it opens records, and a record is a side itself, one from this room.
    if name != "compare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .compared import compare

    return compare
