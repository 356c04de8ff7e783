# SPDX-License-Identifier: Apache-2.0
"""Names in order, and names in a message."""

from __future__ import annotations

import re
from collections.abc import Iterable

_DIGITS = re.compile(r"\d+")


def natural_key(text: str) -> str:
    """A sort key by which img9 and vit_x_9 come before img10 and vit_x_10.

    A number counts by its value, in the digits of any script and with any zeros before
    it, and comes before every letter or sign.
    """
    return _DIGITS.sub(_number, text.lower())


def _number(found: re.Match[str]) -> str:
    """A number so that text compares as its value does: first by its length."""
    digits = found[0] if found[0].isascii() else "".join(str(int(d)) for d in found[0])
    digits = digits.lstrip("0")
    return f"\1{chr(len(digits))}{digits}"


def some(items: Iterable[str], most: int = 8) -> str:
    """The first items, each cut to 120 characters, and how many more there are."""
    shown = [item[:120] for item in items]
    more = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """The text with every character that does not print as its escape, as in repr.

    Names out of a file may hold what a terminal takes for commands.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
