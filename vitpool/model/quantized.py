# SPDX-License-Identifier: Apache-2.0
"""How a model becomes int8: which matrices take wider activations, and where a norm's
gain moves into the weights that read it.

Both are chosen by what they do to a block's output, in the model's own arithmetic: one
matrix at a time is made int8, everything else is float32. What is chosen belongs to the
model from then on, and no machine chooses again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..text import some
from .dtypes import in_blocks, matrices
from .folding import Fold, folded, folds_of
from .generated import pictures_for
from .noise import Measure, Noises, halves_of
from .parts import Float32

if TYPE_CHECKING:
    from .base import PlainViT

# A fold must take away an eighth of the noise, or the weights stay as they are.
_FOLD_GAIN = 8 / 7
# A matrix that makes so many times the noise of the median one takes activations of 16
# bits, if that takes half of it away; and so many of a model at most.
_LOUD = 8.0
_WIDE_GAIN = 2.0
_MOST_WIDE = 3
# Pictures that noise is measured on, which is a mean over all rows of all of them; and
# numbers of their tokens, between all blocks, that are kept meanwhile (512 MB).
_MOST_PICTURES = 16
_MOST_NUMBERS = 1 << 27


def plan_int8(
    model: PlainViT, images: Any, kept: frozenset[str]
) -> tuple[Mapping[str, str], Mapping[str, Float32]]:
    """(dtypes, weights) of an int8 model: what each matrix of the blocks is kept as,
    but for those in `kept`, and the parameters that a fold gives other numbers.

    images: inputs (B, in_chans, height, width) to measure on, 16 at most; None:
    generated ones.

    Each fold is by powers of two, so that in float32 the model computes the same bits.
    On one machine the choice is the same every time. Between machines measured noise
    differs by about a millionth, as float32 sums do, and where attention multiplies
    bfloat16 by the rounding of that; a choice can differ where a ratio lies that near
    to its limit. What integers of the same choice give does not.

    ValueError, TypeError: images that the model does not take.
    """
    integers = [n for n in in_blocks(matrices(model.param_shapes())) if n not in kept]
    if not integers:
        return {}, {}
    measure = Measure(wide_reference(model), inputs_of(model, images), model)
    plain = measure.noises(integers, "int8")
    weights: dict[str, Float32] = {}
    for fold in _that_help(measure, integers, plain):
        weights |= fold.weights
    return _with_wide(measure, integers, plain, weights), weights


def wide_reference(model: _core.VisionTransformer) -> _core.VisionTransformer:
    """The same numbers, all of them kept as float32."""
    now = model._snapshot()
    wide = {n: "float32" for n, dtype in now._dtypes().items() if dtype != "float32"}
    if wide:
        now._replace(None, {}, set(now.untrained()), wide)
    return now


def inputs_of(model: PlainViT, images: Any) -> Float32:
    """The pictures that noise is measured on: of those given 16, evenly, if there are
    more, or fewer of a large model; or generated ones."""
    if images is None:
        return pictures_for(model)
    x = _core.as_float32(images, "images")
    if x.ndim != 4 or not x.size:
        raise ValueError(
            "images must have shape (B, in_chans, height, width), at least one of "
            f"them, not {x.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
    if bad.size:
        raise ValueError(
            f"images to measure on must be finite, but {some(map(str, bad))} have NaN "
            "or infinity"
        )
    options = model._options()
    tokens = math.prod(model._grid(*x.shape[2:]))
    numbers = tokens * options["embed_dim"] * (options["depth"] + 1)
    most = max(1, min(_MOST_PICTURES, _MOST_NUMBERS // numbers))
    return x if len(x) <= most else x[np.arange(most) * len(x) // most]


def _that_help(measure: Measure, integers: list[str], plain: Noises) -> list[Fold]:
    """The folds that make less noise; `plain` has that of their matrices afterwards."""
    folds = [
        fold
        for fold in folds_of(measure.reference)
        if any(name in integers for name in fold.readers)
    ]
    if not folds:
        return []
    weights = folded(folds)
    readers = [n for f in folds for n in f.readers if n in integers]
    other = measure.noises(readers, "int8", weights)
    chosen = []
    for fold in folds:
        names = [name for name in fold.readers if name in integers]
        before, after = (sum(noise[n] for n in names) for noise in (plain, other))
        if after * _FOLD_GAIN < before:
            chosen.append(fold)
            plain |= {name: other[name] for name in names}
    return chosen


def _with_wide(
    measure: Measure,
    integers: list[str],
    noise: Noises,
    weights: Mapping[str, Float32],
) -> dict[str, str]:
    """The dtypes: int8, and int8_a16 for the loudest if that makes them quieter."""
    dtypes = dict.fromkeys(integers, "int8")
    limit = _LOUD * float(np.median([noise[name] for name in integers]))
    first = (name for name in integers if name == halves_of(name)[0])
    loud = sorted((n for n in first if noise[n] > limit), key=lambda n: -noise[n])
    if loud:
        wide = measure.noises(loud, "int8_a16", weights)
        better = [n for n in loud if wide[n] * _WIDE_GAIN < noise[n]]
        for name in better[:_MOST_WIDE]:
            dtypes |= dict.fromkeys(halves_of(name), "int8_a16")
    return dtypes


def sqnr(reference: PlainViT, model: PlainViT, images: Any = None) -> dict[str, float]:
    """For each matrix of the blocks that `model` keeps in another dtype than
    `reference`: how far the noise that it alone makes lies below the signal, in dB.

    Both have the same options. images: as `plan_int8`'s. The signal is the spread of
    each channel of its block's output, the noise what changes there when the reference
    gets this one matrix, and the norm that it reads.
    """
    mine, theirs = reference._dtypes(), model._dtypes()
    names = in_blocks(matrices(model.param_shapes()))
    changed = {name: theirs[name] for name in names if mine[name] != theirs[name]}
    if not changed:
        return {}
    measure = Measure(reference._snapshot(), inputs_of(reference, images), reference)
    found = noises_of(measure, model, changed, moved(reference, model))
    with np.errstate(divide="ignore"):
        return {n: float(-10 * np.log10(found[n])) for n in changed}


def noises_of(
    measure: Measure,
    model: _core.VisionTransformer,
    dtypes: Mapping[str, str],
    weights: Mapping[str, Float32],
) -> Noises:
    """The noise of the matrices as this model has them. dtypes: what it keeps them as.
    weights: where it has folded."""
    found: Noises = {}
    for dtype in dict.fromkeys(dtypes.values()):
        names = [name for name in dtypes if dtypes[name] == dtype]
        found |= measure.noises(names, dtype, weights, model)
    return found


def moved(
    reference: _core.VisionTransformer, model: _core.VisionTransformer
) -> dict[str, Float32]:
    """The parameters of the reference as the folds of the model have them."""
    weights: dict[str, Float32] = {}
    for fold in folds_of(reference):
        if all(
            np.array_equal(model.get_parameter(name), fold.weights[name])
            for name in fold.norm
        ):
            weights |= fold.weights
    return weights
