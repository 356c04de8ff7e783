# SPDX-License-Identifier: Apache-2.0
"""Which pictures are the same: the same file, or another with the same bytes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np


def identities(sources: Sequence[Any]) -> list[Hashable]:
    """Of each picture what is equal for copies of it, and for nothing else.

    Of files it is the content; only those are read of which another has the size. A
    file that cannot be read equals nothing.
    """
    sizes = [_size(source) for source in sources]
    counts = Counter(size for size in sizes if size is not None)
    return [
        ("alone", place)
        if size is not None and counts[size] < 2
        else _content(source, place)
        for place, (source, size) in enumerate(zip(sources, sizes, strict=True))
    ]


def _size(source: Any) -> int | None:
    """Bytes of a file; None for what lies in memory."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return len(source)
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        return os.stat(source).st_size
    except OSError:
        return -1


def _content(source: Any, place: int) -> Hashable:
    if isinstance(source, (str, os.PathLike)):
        try:
            with open(source, "rb") as file:
                return "bytes", hashlib.sha256(file.read()).digest()
        except OSError:
            return "unread", place
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "bytes", hashlib.sha256(source).digest()
    array = np.ascontiguousarray(source)
    return "pixels", array.shape, hashlib.sha256(array.tobytes()).digest()
