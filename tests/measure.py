# SPDX-License-Identifier: Apache-2.0
"""The accuracy measure that every comparison with timm uses.

`exact` is timm in float64 on the same weights, `timm_error` the largest error of
timm's own float32 against it. Ours may be 1.5 times as large, and has to stay below
2e-5 of the largest output.
"""

from __future__ import annotations

import numpy as np

RATIO = 1.5
RELATIVE = 2e-5
ULP = 2.0**-23
# The largest of few roundings is luck: torch itself, told to sum each linear layer in
# two halves, has 2.8 times its own error on one golden, and more than 1.5 times on 38
# of 964 outputs; ours has it on 37 of 982, with a mean ratio of 0.75. So in a small
# output errors of at most 16 units in the last place of the largest number pass
# whatever timm's were, a tenth of RELATIVE; what counts there is the mean ratio over
# many outputs, which the tests assert beside. A large output has no need of that.
LARGE = 10_000


def floor(size: int) -> float:
    """The error that passes in any case, as a part of the largest number."""
    return (4 if size >= LARGE else 16) * ULP


def largest_error(got: np.ndarray, exact: np.ndarray) -> float:
    """The largest absolute difference where `exact` is finite."""
    finite = np.isfinite(exact)
    if not finite.any():
        return 0.0
    return float(np.abs(got[finite].astype(np.float64) - exact[finite]).max())


def check(got: object, exact: np.ndarray, timm_error: float, what: str = "") -> float:
    """Raise AssertionError (also under python -O) unless `got` passes the measure.

    `got` has to be a float32 NumPy array of `exact`'s shape. NaN and infinity have to
    stand where they stand in `exact`. Returns our largest error over timm's (1 where
    timm has none).
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
    largest = float(np.abs(exact[~odd]).max())
    error = largest_error(got, exact)
    allowed = max(RATIO * timm_error, floor(exact.size) * largest)
    allowed = min(allowed, RELATIVE * largest)
    if error > allowed:
        raise AssertionError(
            f"{what}: largest error {error:.3g} of outputs up to {largest:.3g}; "
            f"timm's own float32 has {timm_error:.3g}, allowed is {allowed:.3g}"
        )
    return error / timm_error if timm_error else 1.0


def mean_ratio(ratios: list[float]) -> float:
    """The geometric mean; a result without any error counts as a twentieth."""
    return float(np.exp(np.log(np.maximum(ratios, 0.05)).mean()))
