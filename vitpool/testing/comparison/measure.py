# SPDX-License-Identifier: Apache-2.0
"""How far apart two arrays are, in float64 and a chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import numpy as np

_CHUNK = 1 << 14  # numbers, of each side: they stay in a core's cache


@dataclass(frozen=True)
class Distance:
    """Two arrays of one shape beside each other.

    largest: max |candidate - reference|, 0 of empty arrays. NaN on both sides of a
    place, or the same infinity, is no difference; on one side alone it is inf. scale:
    max |reference| over its finite numbers. cosine: of the angle between the two, over
    the places where both are finite; NaN where one of them is all zeros, or too large
    for its square.
    """

    largest: float
    scale: float
    cosine: float


def distance(reference: Any, candidate: Any) -> Distance:
    """How far the candidate is from the reference, two arrays of one shape.

    Neither is copied: numbers of any real type, in memory in any order, are read in
    chunks. TypeError: they are not real numbers.
    """
    largest = scale = dots = ours = theirs = 0.0
    chunks = np.nditer(
        [reference, candidate],
        ["buffered", "external_loop", "zerosize_ok"],
        op_dtypes=[np.float64, np.float64],
        casting="same_kind",
        buffersize=_CHUNK,
    )
    with np.errstate(all="ignore"):
        for a, b in chunks:
            if not a.size:
                continue
            apart = np.abs(b - a)
            if not math.isfinite(apart.sum()):
                same = (a == b) | (np.isnan(a) & np.isnan(b))
                apart[same] = 0
                apart[np.isnan(apart)] = np.inf
                finite = np.isfinite(a) & np.isfinite(b)
                scale = max(scale, float(np.abs(a[np.isfinite(a)]).max(initial=0)))
                a, b = a[finite], b[finite]
            scale = max(scale, float(np.abs(a).max(initial=0)))
            largest = max(largest, float(apart.max()))
            # not a @ b, for which BLAS would wake its threads
            dots += np.einsum("i,i", a, b)
            ours += np.einsum("i,i", a, a)
            theirs += np.einsum("i,i", b, b)
        # of one array with itself exactly 1: the root of a square is exact
        lengths = math.sqrt(ours * theirs)
    if not 0 < lengths < math.inf:
        return Distance(largest, scale, math.nan)
    return Distance(largest, scale, float(np.clip(dots / lengths, -1, 1)))


def passes(largest: float, scale: float, rtol: float, atol: float) -> bool:
    """Is a stage whose numbers differ by up to `largest` within the tolerance?"""
    return math.isfinite(largest) and largest <= atol + rtol * scale


def least(wanted: float, enough: Callable[[float], bool]) -> float:
    """The least number of two digits from `wanted` on that is enough; inf: none is.

    Written out with two digits, as `short` does, it is the same number.
    """
    if not math.isfinite(wanted):
        return math.inf
    if wanted == 0:
        return 0.0
    exact = Decimal(wanted)
    step = Decimal(1).scaleb(exact.adjusted() - 1)
    found = exact.quantize(step, ROUND_FLOOR)
    while not enough(float(found)):
        found += step
    return float(found)


def short(number: float) -> str:
    """A number of two digits that Python reads: '3.1e-2', '0', 'inf'; NaN is '-'."""
    if math.isnan(number):
        return "-"
    if number == 0 or math.isinf(number):
        return f"{number:g}"
    digits, _, power = f"{number:.1e}".partition("e")
    return digits.removesuffix(".0") + (f"e{int(power)}" if int(power) else "")
