# SPDX-License-Identifier: Apache-2.0
"""Names in order, and names in a message."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def natural_key(text: str) -> list[Any]:
    """A sort key by which img9 and vit_x_9 come before img10 and vit_x_10."""
    parts = re.split(r"(\d+)", text.lower())
    return [int(part) if part.isdecimal() else part for part in parts]


def some(items: Iterable[str], most: int = 8) -> str:
    """The first items, each cut to 120 characters, and how many more there are."""
    shown = [item[:120] for item in items]
    more = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {more} more" if more > 0 else "")
