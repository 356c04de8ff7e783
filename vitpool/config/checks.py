# SPDX-License-Identifier: Apache-2.0
"""Checks of numbers, pairs and switches; an error names the argument."""

from __future__ import annotations

import operator
from typing import Any

from .names import DTYPES, Dtype


def as_int(value: Any, what: str, least: int = 0) -> int:
    """An int from anything with ``__index__`` that is not a bool."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{what} must be an integer, not {type(value).__name__}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{what} must be at least {least}, not {number}")
    return number


def plain(value: Any) -> Any:
    """NumPy's (or torch's) number or array as Python's own number or list."""
    return value.tolist() if hasattr(value, "tolist") else value


def as_pair(value: Any, what: str) -> tuple[int, int]:
    """(height, width) from one integer or two."""
    value = plain(value)
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{what} must be one integer or two, not {value!r}")
        return as_int(value[0], what, 1), as_int(value[1], what, 1)
    number = as_int(value, what, 1)
    return number, number


def as_float(value: Any, what: str) -> float:
    """A finite float from a real number."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{what} must be a number, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:  # an int beyond every float
        number = float("inf")
    if not abs(number) < float("inf"):
        raise ValueError(f"{what} must be finite, not {number}")
    return number


def as_bool(value: Any, what: str) -> bool:
    """A bool; NumPy's counts, other types do not."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise TypeError(f"{what} must be True or False, not {value!r}")


def as_dtype(value: Any, what: str = "dtype") -> Dtype:
    """A model's dtype by its name, or by NumPy's, ml_dtypes' or torch's object."""
    name = str(getattr(value, "__name__", value)).removeprefix("torch.")
    for dtype in DTYPES:
        if name == dtype:
            return dtype
    known = ", ".join(map(repr, DTYPES))
    if not isinstance(value, str) and not hasattr(value, "itemsize"):
        raise TypeError(f"{what} must be one of {known}, not {type(value).__name__}")
    raise ValueError(f"{what} must be one of {known}, not {name!r:.100}")
