# SPDX-License-Identifier: Apache-2.0
"""`quantize`: a model in another dtype, with a report of what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...config import Dtype, as_dtype, as_float
from ...model import PlainViT
from ...model.quantized import inputs_of
from ...model.widening import widened
from .ours import Ours
from .pictures import named_input_of
from .precision import Precision, precision
from .side import Array


@dataclass(frozen=True)
class Quantized:
    """What `quantize` gives: the new model, and what it costs beside the old one."""

    model: PlainViT
    report: Precision

    def __str__(self) -> str:
        return str(self.report)

    __repr__ = __str__


def quantize(
    model: PlainViT,
    dtype: Any = "int8",
    images: Any = None,
    keep: str | Iterable[str] = (),
    target_cosine: float | None = None,
) -> Quantized:
    """A model in another dtype, and a report on the caller's own pictures.

    model: a vitpool model, best of float32; it does not change.
    dtype: 'int8', 'bfloat16' or 'float16'.
    images: a batch (B, C, H, W) of floats; or files, as `model.classify` takes them.
        int8's choices are made on them, and the report is of all of them. None: a few
        generated ones.
    keep: names or patterns of what stays float32, as `model.to` has it.
    target_cosine: the least cosine that the pooled features of each picture must have
        with the model's own. The noisiest matrices get wider one after another, int8 to
        int8_a16 to float32, until it is reached.

    ValueError: an unknown dtype, 'float32', or the model's own; a pattern that matches
    nothing; a target that is not in (0, 1], or that would leave most of the model in
    float32, with the cosine that was reached. TypeError: no model, or no pictures.
    ImageError, OSError: a picture that cannot be read.
    """
    if not isinstance(model, PlainViT):
        raise TypeError(f"model must be a vitpool model, not {type(model).__name__}")
    wanted, target = checked(dtype, target_cosine)
    if images is None:
        return quantized(model, wanted, None, (), keep, target)
    x, names = named_input_of(Ours(model), images)
    return quantized(model, wanted, x, names, keep, target)


def checked(dtype: Any, target_cosine: Any) -> tuple[Dtype, float | None]:
    """Both as `quantize` takes them, or its errors."""
    wanted = as_dtype(dtype)
    if wanted == "float32":
        raise ValueError("dtype must be int8, bfloat16 or float16, not float32")
    if target_cosine is None:
        return wanted, None
    target = as_float(target_cosine, "target_cosine")
    if not 0 < target <= 1:
        raise ValueError(f"target_cosine must be above 0 and at most 1, not {target}")
    return wanted, target


def quantized(
    model: PlainViT,
    dtype: Dtype,
    images: Array | None,
    names: Sequence[str],
    keep: str | Iterable[str],
    target: float | None,
) -> Quantized:
    """`quantize` on a batch, or on generated pictures; names: what to call each."""
    if model.dtype == dtype:
        raise ValueError(f"model is {dtype} already: quantize one that is wider")
    before = model.snapshot()
    x = inputs_of(before, None) if images is None else images
    after = before.to(dtype, keep=keep, images=images if dtype == "int8" else None)
    if target is not None:
        after = widened(before, after, x, target)
    return Quantized(after, precision(before, after, x, names))
