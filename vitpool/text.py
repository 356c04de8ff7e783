# SPDX-License-Identifier: Apache-2.0
"""Names in order, names in a message, warnings, and text for a terminal."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Iterable
from typing import Any

_DIGITS = re.compile(r"\d+")
# What a terminal obeys (control characters, line ends), what turns the direction of the
# text around it, and the halves of characters, which no encoding can write.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


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


def did_you_mean(word: str, names: Iterable[str], most: int = 1) -> str:
    """'; did you mean ...?' with the names nearest to a word, or nothing."""
    import difflib

    near = difflib.get_close_matches(word, list(names), n=most)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def printable(text: str) -> str:
    """Text for one line of a terminal: whatever is more than to be seen is escaped.

    A label or a file's name that holds the bytes of a colour, of another title or of a
    line end is shown with Python's escapes, as ``\\x1b[31m``.
    """
    return _UNPRINTABLE.sub(
        lambda found: found[0].encode("unicode_escape").decode("ascii"), text
    )


def warn_user(warning: Warning) -> None:
    """Give a warning, of the line outside of this package that led here."""
    own = __name__.partition(".")[0]
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] == own:
        level, frame = level + 1, frame.f_back
    warnings.warn(warning, stacklevel=level)


def json_text(value: Any, indent: int | None = None, *, ascii: bool = False) -> str:
    """JSON of a value: exact, readable, and free of what a terminal would obey.

    ascii: for a file that can hold no more than that.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    # json has escaped what is below a space: the line ends left are its own
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text
    )
