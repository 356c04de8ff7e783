# SPDX-License-Identifier: Apache-2.0
"""A linear classifier that scikit-learn has fitted, as the rows of a head.

scikit-learn is not imported: its estimators are known by their attributes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import plain
from .parts import Float32


class LinearHead(NamedTuple):
    """Numbers for `set_head`: weight (K, C), bias (K,), and the classes' names."""

    weight: Float32
    bias: Float32
    labels: list[str] | None


def linear_head(
    coef_: Any, intercept_: Any, classes: Any, scaler: Any, width: int
) -> LinearHead:
    """The head of a fit on features of `width` numbers; see load_linear."""
    if hasattr(coef_, "predict"):
        if not (intercept_ is None and classes is None and scaler is None):
            raise TypeError(
                "an estimator has its own intercept_, classes and scaler: give it alone"
            )
        coef_, intercept_, classes, scaler = _taken_apart(coef_)
    coef = _floats(coef_, "coef_")
    if coef.ndim == 1:  # RidgeClassifier's of two classes
        coef = coef[None]
    if coef.ndim != 2 or coef.shape[1] != width or not len(coef):
        raise ValueError(
            f"coef_ must have shape (K, {width}), a row for each class, or "
            f"(1, {width}) for two classes, not {np.shape(coef_)}"
        )
    # LinearSVC without an intercept has the number 0.
    intercept = _floats(0.0 if intercept_ is None else intercept_, "intercept_")
    if intercept.shape not in ((), (len(coef),)):
        raise ValueError(
            f"intercept_ must have shape ({len(coef)},), not {intercept.shape}"
        )
    coef, intercept = _unscaled(coef, intercept, scaler)
    if len(coef) == 1:
        # Softmax of (0, s) is the sigmoid of s, and its larger one is the sign of s.
        coef = np.concatenate([np.zeros_like(coef), coef])
        intercept = np.concatenate([np.zeros(1), np.atleast_1d(intercept)])
    with np.errstate(over="ignore"):
        weight = coef.astype(np.float32)
        bias = np.broadcast_to(intercept, len(coef)).astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(
            "coef_, intercept_ and scaler must give finite float32 numbers"
        )
    return LinearHead(weight, bias, _names(classes, len(coef)))


def _taken_apart(estimator: Any) -> tuple[Any, Any, Any, Any]:
    """coef_, intercept_, classes and scaler of a classifier, or of a pipeline."""
    scaler = None
    if hasattr(estimator, "steps"):
        *before, (_, last) = estimator.steps
        before = [(n, s) for n, s in before if s is not None and s != "passthrough"]
        if len(before) > 1 or any(not _is_scaler(step) for _, step in before):
            names = ", ".join(f"{type(step).__name__}" for _, step in before)
            raise ValueError(
                "a pipeline must be a classifier, or a StandardScaler and a "
                f"classifier; before this one's last step: {names}. A part of it is "
                "pipeline[1:]"
            )
        scaler = before[0][1] if before else None
        estimator = last
    kind = type(estimator).__name__
    if not hasattr(estimator, "coef_") or not hasattr(estimator, "classes_"):
        raise ValueError(
            f"{kind} has no coef_ and classes_: it must be a linear classifier, and "
            "fitted"
        )
    return estimator.coef_, estimator.intercept_, estimator.classes_, scaler


def _is_scaler(step: Any) -> bool:
    return hasattr(step, "mean_") and hasattr(step, "scale_")


def _unscaled(
    coef: NDArray[np.float64], intercept: NDArray[np.float64], scaler: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same function of features that are not scaled: w (x - mean) / scale."""
    if scaler is None:
        return coef, intercept
    if not _is_scaler(scaler):
        raise TypeError(
            "scaler must be a fitted StandardScaler, or have its mean_ and scale_, "
            f"not {type(scaler).__name__}"
        )
    # A StandardScaler that does not subtract its mean_ has one all the same.
    mean = scaler.mean_ if getattr(scaler, "with_mean", True) else None
    scale = scaler.scale_ if getattr(scaler, "with_std", True) else None
    if scale is not None:
        divisor = _of_width(scale, "scaler.scale_", coef.shape[1])
        if not divisor.all():
            raise ValueError("scaler.scale_ must not be 0, and is")
        coef = coef / divisor
    if mean is not None:
        offset = _of_width(mean, "scaler.mean_", coef.shape[1])
        intercept = intercept - coef @ offset
    return coef, intercept


def _of_width(value: Any, what: str, width: int) -> NDArray[np.float64]:
    array = _floats(value, what)
    if array.shape != (width,):
        raise ValueError(f"{what} must have shape ({width},), not {array.shape}")
    return array


def _floats(value: Any, what: str) -> NDArray[np.float64]:
    if hasattr(value, "toarray"):
        raise TypeError(f"{what} is a sparse matrix: estimator.densify() makes it none")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array, whose mask would be lost")
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{what} must be numbers, not {array.dtype}")
    return array.astype(np.float64)


def _names(classes: Any, count: int) -> list[str] | None:
    if classes is None:
        return None
    if isinstance(classes, (str, bytes)) or not hasattr(classes, "__iter__"):
        raise TypeError(f"classes must be a list of names, not {classes!r}")
    names = [str(plain(name)) for name in classes]
    if len(names) != count:
        raise ValueError(
            f"classes must be {count}, one for each output, not {len(names)}"
        )
    return names
