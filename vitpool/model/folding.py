# SPDX-License-Identifier: Apache-2.0
"""A norm's gain, moved in part into the matrices that read the norm.

A row of activations has one scale for all channels, so a channel with a great gain
leaves few levels to the others. `W x` is `(W S) (S^-1 x)` for any diagonal S, and S^-1
goes into the norm's own weight and bias: SmoothQuant (arXiv 2211.10438), with the gain
in place of measured activations. S holds powers of two: in float32 not a bit changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .parts import Float32

# A norm at the end of a path, and the matrices beside it that read it and nothing else.
_PAIRS = (
    ("norm1", ("attn.qkv", "attn.q_proj", "attn.k_proj", "attn.v_proj")),
    ("norm2", ("mlp.fc1", "mlp.fc1_g", "mlp.fc1_x")),
    ("norm", ("attn.qkv",)),  # parallel branches
    ("norm", ("mlp.fc1", "mlp.fc1_g", "mlp.fc1_x")),
    ("in_norm", ("in_proj",)),
    ("attn.norm", ("attn.proj",)),
    ("mlp.norm", ("mlp.fc2",)),
)
# Blocks that norm after a branch: their norms' outputs are added to x.
_NORM_AFTER = ("ResPostBlock", "EvaBlockPostNorm", "ResPostRelPosBlock")
# A norm's output reaches about so many times its gain, beside its bias.
_REACH = np.float32(4)
# Exponents of two: far from both ends of float32.
_MOST = 12


class Fold(NamedTuple):
    """A norm and what reads it, folded.

    norm: its parameters. readers: the matrices. weights: both with other numbers.
    """

    norm: tuple[str, ...]
    readers: tuple[str, ...]
    weights: dict[str, Float32]


def folds_of(model: _core.VisionTransformer) -> Iterator[Fold]:
    """Every fold that would change a model's numbers and not what it computes.

    Left out are a norm without a gain, one whose output goes elsewhere too (after a
    branch), and numbers that a power of two would take out of
    float32's range.
    """
    options, shapes = model._options(), model.param_shapes()
    after = options["block_fn"] in _NORM_AFTER
    bases = dict.fromkeys(
        base for name in shapes for base in _bases(name) if name.startswith("blocks.")
    )
    for base in bases:
        for norm, paths in _PAIRS:
            if after and norm in ("norm1", "norm2"):
                continue
            gain = f"{base}.{norm}.weight"
            readers = [f"{base}.{path}.weight" for path in paths]
            readers = [name for name in readers if name in shapes]
            if gain in shapes and readers:
                own = [gain, f"{base}.{norm}.bias"]
                fold = _fold(model, [n for n in own if n in shapes], readers)
                if fold is not None:
                    yield fold


def folded(folds: Iterable[Fold]) -> dict[str, Float32]:
    """The parameters of all of them."""
    return {name: array for fold in folds for name, array in fold.weights.items()}


def _bases(name: str) -> Iterator[str]:
    """The modules that a parameter is in: 'blocks.0.attn.norm' lies in 'blocks.0.attn'
    and in 'blocks.0'."""
    words = name.split(".")
    for count in range(2, len(words)):
        yield ".".join(words[:count])


def _fold(
    model: _core.VisionTransformer, norm: list[str], readers: list[str]
) -> Fold | None:
    arrays: Mapping[str, Float32] = {n: model.get_parameter(n) for n in norm + readers}
    gain, *bias = (np.abs(arrays[name]) for name in norm)
    reach = _REACH * gain + (bias[0] if bias else 0)
    widest = np.max([np.abs(arrays[name]).max(axis=0) for name in readers], axis=0)
    powers = _powers(reach, widest)
    if not powers.any():
        return None
    weights = {n: np.ldexp(arrays[n], -powers) for n in norm}
    weights |= {n: np.ldexp(arrays[n], powers) for n in readers}
    back = {n: np.ldexp(weights[n], powers) for n in norm}
    back |= {n: np.ldexp(weights[n], -powers) for n in readers}
    if not all(np.array_equal(back[n], array) for n, array in arrays.items()):
        return None
    return Fold(tuple(norm), tuple(readers), weights)


def _powers(reach: Float32, widest: Float32) -> NDArray[np.int32]:
    """Exponents e of 2^e = sqrt(reach / widest) to the nearest, about their median.

    Of r = m 2^x with 1/2 <= m < 1 the rounded logarithm of the root is x >> 1: whole
    numbers, the same on every machine. 0 for a channel that is off, or not finite.
    """
    with np.errstate(all="ignore"):
        ratio = reach / widest
    usable = np.isfinite(ratio) & (ratio > 0)
    if not usable.any():
        return np.zeros(len(ratio), np.int32)
    powers = np.frexp(np.where(usable, ratio, 1))[1] >> 1
    powers = powers - int(np.floor(np.median(powers[usable])))
    return np.where(usable, np.clip(powers, -_MOST, _MOST), 0).astype(np.int32)
