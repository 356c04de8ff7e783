# SPDX-License-Identifier: Apache-2.0
"""Matrices made wider, the noisiest first, until the features are near enough."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .dtypes import in_blocks, matrices
from .noise import Measure, Noises, halves_of
from .parts import Float32
from .quantized import inputs_of, moved, noises_of

if TYPE_CHECKING:
    from .base import PlainViT

_BATCH = 8


def widened(
    reference: PlainViT,
    model: PlainViT,
    images: Float32,
    target: float,
) -> PlainViT:
    """`model`, the reference in another dtype, with as many matrices wider as it takes
    for the pooled features of every picture to have a cosine of `target` with the
    reference's.

    Matrices outside of the blocks go first, all at once: they are few, and cost little.
    Then the noisiest of the blocks, one after another: int8 to int8_a16 and on to
    float32, bfloat16 and float16 to float32.

    ValueError, with the cosine that was reached: it takes most of the model.
    """
    watch = _Watch(reference, images)
    dtype = model.dtype
    if watch.worst(model) >= target:
        return model
    folds = moved(reference, model)
    kept = model._dtypes()
    names = matrices(model.param_shapes())
    now = {n: kept[n] for n in names if kept[n] != "float32"}
    inside = in_blocks(now)
    outside = [name for name in now if name not in inside]
    if outside:
        model = _with(model, reference, folds, dict.fromkeys(outside, "float32"))
        if watch.worst(model, target) >= target:
            return model
    now = {name: now[name] for name in inside}
    if now:
        measure = Measure(
            reference._snapshot(), inputs_of(reference, images), reference
        )
    noise = noises_of(measure, model, now, folds) if now else {}
    while noise:
        name = max(noise, key=lambda n: noise[n])
        wider = _wider(measure, name, now, folds, noise)
        dtypes = dict.fromkeys(halves_of(name), wider)
        now |= dtypes
        if wider == "float32":
            noise = {n: noise[n] for n in noise if n not in dtypes}
        next_one = _with(model, reference, folds, dtypes)
        if next_one.dtype != dtype:
            break
        model = next_one
        if watch.worst(model, target) >= target:
            return model
    raise ValueError(
        f"target_cosine {target} takes more than half of the model in float32: as "
        f"{dtype} it reached {watch.worst(model):.6f}"
    )


def _with(
    model: PlainViT,
    reference: PlainViT,
    folds: Mapping[str, Float32],
    dtypes: Mapping[str, str],
) -> PlainViT:
    """The model with some matrices of other dtypes; float32 ones are the reference's
    own, as the model has folded them."""
    other = copy.copy(model)
    weights = {
        name: folds[name] if name in folds else reference.get_parameter(name)
        for name, dtype in dtypes.items()
        if dtype == "float32"
    }
    other._replace(None, weights, set(other.untrained()), dtypes)
    return other


def _wider(
    measure: Measure,
    name: str,
    now: dict[str, str],
    folds: dict[str, Float32],
    noise: Noises,
) -> str:
    """The next dtype of a matrix; `noise` has that of int8_a16 afterwards.

    16 bits that take less than half of the noise away are passed over: it is the
    weights' own.
    """
    if now[name] != "int8":
        return "float32"
    quieter = measure.noises([name], "int8_a16", folds)[name]
    if 2 * quieter > noise[name]:
        return "float32"
    noise |= dict.fromkeys(halves_of(name), quieter)
    return "int8_a16"


class _Watch:
    """The least cosine over the pictures; where it was least is looked at first."""

    def __init__(self, reference: PlainViT, images: Float32) -> None:
        starts = range(0, len(images), _BATCH)
        self._batches = [images[start : start + _BATCH] for start in starts]
        self._wanted = [_features(reference, x) for x in self._batches]
        self._order = list(range(len(self._batches)))

    def worst(self, model: PlainViT, target: float = 2.0) -> float:
        """The least cosine; or the first that is below the target, of some pictures."""
        found: dict[int, float] = {}
        for index in self._order:
            found[index] = _least(
                self._wanted[index], _features(model, self._batches[index])
            )
            if found[index] < target < 2:
                break
        last = min(found, key=lambda i: found[i])
        self._order.remove(last)
        self._order.insert(0, last)
        return found[last]


def _features(model: PlainViT, x: Float32) -> NDArray[np.float64]:
    """Pooled features, or all tokens where there is no pool; a row a picture. In
    float64: float16's cosine differs from 1 by less than float32 tells."""
    pooled = model.forward_head(model.forward_features(x), pre_logits=True)
    return np.asarray(pooled, np.float64).reshape(len(x), -1)


def _least(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The least cosine of two rows; -1 where one is not a number."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.einsum("ij,ij->i", a, b) / lengths
    return float(np.nan_to_num(cosines, nan=-1).min())
