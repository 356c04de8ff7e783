# SPDX-License-Identifier: Apache-2.0
"""Labels to the targets that the core takes, with torch's formulas; their checks.

Source: torch.nn.functional.cross_entropy, binary_cross_entropy_with_logits, mse_loss
(all reduction='mean'), timm.loss.BinaryCrossEntropy, timm.data.mixup.
"""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..config import as_float
from ..model import Float32
from ..text import did_you_mean

LossName = Literal["cross_entropy", "binary_cross_entropy", "mse"]
LOSSES: tuple[str, ...] = get_args(LossName)

Labels = NDArray[Any]  # int64 (B,), or float32 (B, K)


class Loss:
    """A loss with its options, checked.

    classes: K. label_smoothing: from 0 to below 1. class_weight: K numbers above 0.

    With t the one-hot or given targets, e the smoothing, w the weights, B images:
    cross entropy is the sum of w_c ((1 - e) t_c + e / K) (-log softmax_c), divided by
    the sum of the labels' weights, or by B where labels are soft. Binary cross entropy
    is the weighted mean over B K numbers; integer labels are smoothed as cross
    entropy's, given targets to t (1 - e) + e / 2. The squared error is divided by B K,
    or with weights by B times their sum.
    """

    def __init__(
        self,
        name: Any,
        classes: int,
        label_smoothing: Any = 0.0,
        class_weight: Any = None,
    ) -> None:
        if not isinstance(name, str) or name not in LOSSES:
            allowed = f"loss must be {', '.join(map(repr, LOSSES))}"
            if not isinstance(name, str):
                raise TypeError(f"{allowed}, not {type(name).__name__}")
            raise ValueError(f"{allowed}, not {name!r}{did_you_mean(name, LOSSES)}")
        self.name = cast("LossName", name)
        self.classes = classes
        self.smoothing = as_float(label_smoothing, "label_smoothing")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(
                f"label_smoothing must be from 0 to below 1, not {self.smoothing}"
            )
        if name == "mse" and self.smoothing:
            raise ValueError("label_smoothing is not of loss 'mse': it must be 0")
        self.class_weight = _weights(class_weight, classes)

    @property
    def weights(self) -> Float32 | None:
        """What the core is given beside the targets, which hold cross entropy's."""
        return None if self.name == "cross_entropy" else self.class_weight

    # -- labels --

    def labels(self, y: Any, count: int, what: str = "y") -> Labels:
        """Checked labels: int64 (count,), or float32 (count, K).

        TypeError: text, or single numbers that are no integers. ValueError: another
        count or shape, an integer that is no class, a number that is no probability.
        """
        if isinstance(y, np.ma.MaskedArray):
            raise TypeError(f"{what} must be no masked array")
        array = np.asarray(y)
        kind = array.dtype.kind
        if kind in "USO":
            raise TypeError(
                f"{what} must be numbers, not {array.dtype.name}: "
                "numpy.unique(y, return_inverse=True)[1] numbers classes"
            )
        if array.ndim == 0 or len(array) != count:
            has = "one number" if array.ndim == 0 else f"{len(array)} labels"
            raise ValueError(f"{what} has {has} for {count} images")
        if array.ndim == 1 and self.classes == 1 and self.name != "cross_entropy":
            array = array[:, None]
        if array.ndim == 1 and kind in "iu":
            return self._classes(array, what)
        if array.ndim == 1:
            raise TypeError(
                f"{what} must be integers, or (B, {self.classes}) numbers; these are "
                f"{array.dtype.name}: y.astype(int), if they are classes"
            )
        if array.shape[1:] != (self.classes,):
            raise ValueError(
                f"{what} must have shape ({count},) or ({count}, {self.classes}), "
                f"not {array.shape}"
            )
        given = array.astype(np.float32) if kind in "iub" else array
        return self._numbers(_core.as_float32(given, what), what)

    def _classes(self, array: NDArray[Any], what: str) -> Labels:
        wrong = np.flatnonzero((array < 0) | (array >= self.classes))
        if len(wrong):
            raise ValueError(
                f"{what}[{wrong[0]}] is {array[wrong[0]]}: classes are 0 to "
                f"{self.classes - 1}, as the model has {self.classes} outputs"
            )
        return array.astype(np.int64)

    def _numbers(self, array: Float32, what: str) -> Labels:
        wrong = np.argwhere(~np.isfinite(array))
        if not len(wrong) and self.name != "mse":
            wrong = np.argwhere((array < 0) | (array > 1))
        if len(wrong):
            row, column = wrong[0]
            allowed = "finite" if self.name == "mse" else "from 0 to 1"
            raise ValueError(
                f"{what}[{row}, {column}] is {array[row, column]}: must be {allowed}"
            )
        if self.name == "cross_entropy":
            sums = array.sum(1, dtype=np.float64)
            off = np.flatnonzero(abs(sums - 1) > 1e-2)
            if len(off):
                raise ValueError(
                    f"{what}[{off[0]}] sums to {sums[off[0]]:.6g}: soft labels of "
                    "'cross_entropy' sum to 1 (for several classes an image: "
                    "loss='binary_cross_entropy')"
                )
        return array

    # -- targets --

    def soft(self, labels: Labels, smooth: bool = True) -> Float32:
        """(B, K) targets of labels, smoothed, without class weights."""
        e = self.smoothing if smooth else 0.0
        k = self.classes
        if labels.ndim == 1:
            dense = np.full((len(labels), k), e / k, np.float32)
            dense[np.arange(len(labels)), labels] = 1 - e + e / k
            return dense
        if e == 0.0:
            return labels
        floor = 0.5 if self.name == "binary_cross_entropy" else 1 / k
        return np.asarray(labels * np.float32(1 - e) + np.float32(e * floor))

    def targets(self, soft: Float32) -> Float32:
        """What the core takes: cross entropy's hold the class weights."""
        if self.name == "cross_entropy" and self.class_weight is not None:
            return np.ascontiguousarray(soft * self.class_weight)
        return np.ascontiguousarray(soft)

    def share(self, labels: Labels, mixed: bool = False) -> float:
        """By which the sum of these labels' losses is divided; of batches, they add.

        mixed: classes were mixed with others since, so that they are soft.
        """
        weight = self.class_weight
        if self.name == "cross_entropy":
            if weight is None or labels.ndim == 2 or mixed:
                return float(len(labels))
            return float(weight.astype(np.float64)[labels].sum())
        if self.name == "mse" and weight is not None:
            return float(len(labels) * weight.sum(dtype=np.float64))
        return float(len(labels) * self.classes)

    # -- at inference --

    def total(self, logits: Float32, labels: Labels) -> float:
        """The sum of the losses, without smoothing; to be divided by `share`."""
        x = logits.astype(np.float64)
        t = self.soft(labels, smooth=False).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            if self.name == "cross_entropy":
                x = x - x.max(1, keepdims=True)
                each = t * (np.log(np.exp(x).sum(1, keepdims=True)) - x)
            elif self.name == "binary_cross_entropy":
                each = np.maximum(x, 0) - x * t + np.log1p(np.exp(-abs(x)))
            else:
                each = (x - t) ** 2
            return float(
                (each if self.class_weight is None else each * self.class_weight).sum()
            )

    def hits(self, logits: Float32, labels: Labels) -> tuple[int, int] | None:
        """(how many are right, of how many); None: 'mse' of given numbers.

        Right is an image whose largest logit is its (likeliest) class; of binary
        targets (B, K), each number that is on its target's side of a half.
        """
        if labels.ndim == 2 and self.name == "mse":
            return None
        if labels.ndim == 2 and self.name == "binary_cross_entropy":
            return int(((logits > 0) == (labels > 0.5)).sum()), labels.size
        classes = labels if labels.ndim == 1 else labels.argmax(1)
        return int((logits.argmax(1) == classes).sum()), len(labels)


def _weights(given: Any, classes: int) -> Float32 | None:
    if given is None:
        return None
    weights = _core.as_float32(given, "class_weight")
    if weights.shape != (classes,):
        raise ValueError(
            f"class_weight must have shape ({classes},), a number a class, "
            f"not {weights.shape}"
        )
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights > 0)))
    if len(wrong):
        raise ValueError(
            f"class_weight[{wrong[0]}] must be finite and above 0, "
            f"not {weights[wrong[0]]}"
        )
    return weights
