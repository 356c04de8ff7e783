# SPDX-License-Identifier: Apache-2.0
"""The accuracy measure that every comparison with timm uses.

`exact` is timm in float64 on the same weights; beside it stand the errors of timm's own
float32. Ours are compared by their root mean square, which is nearly the same from one
order of sums to another. The largest error is not: torch, told to sum each linear layer
in two halves, has up to 2.8 times its own on the goldens, and is no worse for it. So
that is bounded widely.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

ULP = 2.0**-23
# Of 14,000 random outputs on each of AVX2, AVX-512 and the baseline, ours have up to
# 1.65 times timm's root mean square (1.2 times in large outputs, positions that are
# resampled aside) and up to 2.9 times its largest error, where above the floor.
RATIO, LARGE_RATIO, LARGEST_RATIO = 2.0, 1.5, 4.0
SMALL, LARGE = 1_000, 10_000
# With a golden only timm's largest error is stored. There ours may be 1.5 times as
# large and has to be below this part of the largest output; what counts is the mean
# ratio over all goldens.
GOLDEN_RATIO, RELATIVE = 1.5, 2e-5


class Error(NamedTuple):
    """How far float32 results are from the exact ones."""

    largest: float
    rms: float = math.nan  # root of the mean square; not known of a golden


def error(got: np.ndarray, exact: np.ndarray) -> Error:
    """The errors where `exact` is finite."""
    finite = np.isfinite(exact)
    if not finite.any():
        return Error(0.0, 0.0)
    off = np.abs(got[finite].astype(np.float64) - exact[finite])
    return Error(float(off.max()), math.sqrt(np.square(off).mean()))


def allowed(timm: Error, size: int, largest: float) -> Error:
    """The errors that pass, of `size` numbers up to `largest`.

    A few units in the last place of the largest number pass whatever timm's errors
    are: fewer in larger outputs, where luck evens out. A fourth of that is the floor of
    the root mean square.
    """
    floor = (16 if size < SMALL else 8 if size < LARGE else 4) * ULP * largest
    if math.isnan(timm.rms):
        return Error(min(max(GOLDEN_RATIO * timm.largest, floor), RELATIVE * largest))
    ratio = RATIO if size < LARGE else LARGE_RATIO
    return Error(
        max(LARGEST_RATIO * timm.largest, floor), max(ratio * timm.rms, floor / 4)
    )


def check(got: object, exact: np.ndarray, timm: Error, what: str = "") -> float:
    """Raise AssertionError (also under python -O) unless `got` passes the measure.

    `got` has to be a float32 NumPy array of `exact`'s shape. NaN and infinity have to
    stand where they stand in `exact`. Returns our error over timm's (1 where timm has
    none).
    """
    if not isinstance(got, np.ndarray) or got.dtype != np.float32:
        kind = getattr(got, "dtype", type(got).__name__)
        raise AssertionError(f"{what}: a float32 array is expected, got {kind}")
    if got.shape != exact.shape:
        raise AssertionError(f"{what}: shape {got.shape}, timm has {exact.shape}")
    odd = ~np.isfinite(exact)
    if odd.any() or not np.isfinite(got).all():
        same = np.array_equal(got[odd], exact[odd].astype(np.float32), equal_nan=True)
        if not same or not np.isfinite(got[~odd]).all():
            raise AssertionError(
                f"{what}: NaN or infinity where timm has none, or none"
            )
    if not exact.size or odd.all():
        return 1.0
    ours = error(got, exact)
    largest = float(np.abs(exact[~odd]).max())
    limit = allowed(timm, exact.size, largest)
    if ours.largest > limit.largest or ours.rms > limit.rms:
        raise AssertionError(
            f"{what}: of outputs up to {largest:.3g} the largest error is "
            f"{ours.largest:.3g} and their root mean square {ours.rms:.3g}; timm's own "
            f"float32 has {timm.largest:.3g} and {timm.rms:.3g}, allowed is "
            f"{limit.largest:.3g} and {limit.rms:.3g}"
        )
    mine, timms = ours.rms, timm.rms
    if math.isnan(timms):
        mine, timms = ours.largest, timm.largest
    return mine / timms if timms else 1.0


def mean_ratio(ratios: list[float]) -> float:
    """The geometric mean; a result without any error counts as a twentieth."""
    return float(np.exp(np.log(np.maximum(ratios, 0.05)).mean()))
