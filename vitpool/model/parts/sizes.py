# SPDX-License-Identifier: Apache-2.0
"""How many tokens a model's options make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def grid_of(options: Mapping[str, Any]) -> tuple[int, int]:
    """(rows, columns) of patches in an image of the model's own size."""
    (height, width), (rows, columns) = options["img_size"], options["patch_size"]
    return height // rows, width // columns


def prefix_tokens_of(options: Mapping[str, Any]) -> int:
    """How many class, distillation and register tokens there are."""
    names = ("class_token", "dist_token", "reg_tokens")
    return sum(int(options.get(name, 0)) for name in names)
