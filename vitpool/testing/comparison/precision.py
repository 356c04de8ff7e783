# SPDX-License-Identifier: Apache-2.0
"""A model in two dtypes: what the narrower one costs, and what it saves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model import PlainViT
from ...model.dtypes import told
from ...model.quantized import sqnr
from ...model.tables import text_table
from .measure import short
from .side import Array

# Pictures that go through a model at once, that the noise of each matrix is measured
# on, and times that both models compute the first one.
_BATCH = 8
_MEASURED = 4
_ROUNDS = 7
# Matrices in the text, the noisiest first.
_SHOWN = 8


@dataclass(frozen=True)
class Agreement:
    """How near an output of the candidate is to the reference's, over the pictures.

    cosine: the mean. worst_cosine, worst: the least, and which picture has it. error:
    the mean of |candidate - reference| / |reference|, lengths of vectors; worst_error:
    the largest.
    """

    cosine: float
    worst_cosine: float
    worst: str
    error: float
    worst_error: float


@dataclass(frozen=True)
class Precision:
    """What `compare` says of a model in two dtypes, and `quantize` of what it made.

    reference, candidate: the dtypes of the matrices, in words. pictures: their number.
    features, logits: of the pooled features (of all tokens where there is no pool), and
    of the logits; None where there is no head. top1: pictures with the same first
    class. layers: (matrix, dtype, dB) of each that differs in the candidate: how far
    the noise that it alone brings into its block's output is below the spread of the
    channels there, the noisiest first. bytes: of the weights. seconds: of one picture,
    the median of interleaved runs, on the threads in use. Both (reference's,
    candidate's).
    """

    reference: str
    candidate: str
    pictures: int
    features: Agreement
    logits: Agreement | None
    top1: int | None
    layers: tuple[tuple[str, str, float], ...]
    bytes: tuple[int, int]
    seconds: tuple[float, float]

    def lines(self) -> list[str]:
        """In words, a line each."""
        rows = [("pooled features", self.features), ("logits", self.logits)]
        head = ("", "cosine, mean", "worst", "error, mean", "worst", "worst picture")
        table = text_table(
            head,
            [(name, *_cells(found)) for name, found in rows if found is not None],
            total=False,
        )
        out = [f"{self.reference} -> {self.candidate}", *table.splitlines()]
        if self.top1 is not None:
            out.append(f"top-1 agrees on {self.top1} of {self.pictures}")
        out.append(
            f"weights {_megabytes(self.bytes[0])} -> {_megabytes(self.bytes[1])} "
            f"({_ratio(*self.bytes)}); one picture {self.seconds[0] * 1e3:.1f} -> "
            f"{self.seconds[1] * 1e3:.1f} ms ({_ratio(*self.seconds)})"
        )
        if self.layers:
            rows_ = [(n, d, f"{db:.1f}") for n, d, db in self.layers[:_SHOWN]]
            loudest = text_table(
                ("matrix", "kept as", "signal to noise, dB"), rows_, 1, total=False
            )
            out += loudest.splitlines()
            more = len(self.layers) - len(rows_)
            out += [f"and {more} with less noise"] * bool(more)
        return out

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_dict(self) -> dict[str, Any]:
        """The same as values that JSON has; NaN is None, an infinity 'inf'."""
        from .result import json_values  # which has one of these

        out: dict[str, Any] = json_values(self)
        return out


def _cells(found: Agreement) -> tuple[str, ...]:
    return (
        f"{found.cosine:.6f}",
        f"{found.worst_cosine:.6f}",
        short(found.error),
        short(found.worst_error),
        found.worst,
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _ratio(before: float, after: float) -> str:
    return f"{after / before:.2f} x" if before else "-"


def two_dtypes(reference: Any, candidate: Any) -> bool:
    """Are these one architecture of ours, kept as different dtypes?"""
    return (
        isinstance(reference, PlainViT)
        and isinstance(candidate, PlainViT)
        and reference._options() == candidate._options()
        and reference._dtypes() != candidate._dtypes()
    )


def precision(
    reference: PlainViT,
    candidate: PlainViT,
    images: Array,
    names: Sequence[str] = (),
) -> Precision:
    """Both on the same pictures (B, C, H, W); names: what to call each picture."""
    called = list(names) or [f"picture {i}" for i in range(len(images))]
    (ours, logits), (theirs, other) = (
        _outputs(model, images) for model in (reference, candidate)
    )
    top1 = None
    if logits is not None and other is not None and logits.ndim == 2:
        top1 = int((logits.argmax(1) == other.argmax(1)).sum())
    layers = sqnr(reference, candidate, images[:_MEASURED])
    dtypes = candidate._dtypes()
    return Precision(
        reference=told(reference),
        candidate=told(candidate),
        pictures=len(images),
        features=agreement(ours, theirs, called),
        logits=None
        if logits is None or other is None
        else agreement(logits, other, called),
        top1=top1,
        layers=tuple(
            (name, dtypes[name], db)
            for name, db in sorted(layers.items(), key=lambda item: item[1])
        ),
        bytes=(_weights(reference), _weights(candidate)),
        seconds=_seconds(reference, candidate, images[:1]),
    )


def _weights(model: PlainViT) -> int:
    return model.memory_bytes()["weights"]


def _outputs(
    model: PlainViT, images: Array
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Pooled features, and logits if there is a head."""
    pooled, logits = [], []
    for start in range(0, len(images), _BATCH):
        tokens = model.forward_features(images[start : start + _BATCH])
        pooled.append(model.forward_head(tokens, pre_logits=True))
        if model.num_classes:
            logits.append(model.forward_head(tokens))
    return np.concatenate(pooled), np.concatenate(logits) if logits else None


def agreement(reference: Array, candidate: Array, names: Sequence[str]) -> Agreement:
    """How near each row, of whatever shape, is to the reference's."""
    a, b = (
        np.asarray(x, np.float64).reshape(len(x), -1) for x in (reference, candidate)
    )
    with np.errstate(all="ignore"):
        long = np.linalg.norm(a, axis=1)
        cosines = np.einsum("ij,ij->i", a, b) / (long * np.linalg.norm(b, axis=1))
        errors = np.linalg.norm(b - a, axis=1) / long
    # a picture of NaN is the worst there is
    worst = int(np.argmin(np.where(np.isnan(cosines), -math.inf, cosines)))
    return Agreement(
        float(cosines.mean()),
        float(cosines[worst]),
        names[worst],
        float(errors.mean()),
        float(errors.max()),
    )


def _seconds(
    reference: Callable[[Array], Any], candidate: Callable[[Array], Any], image: Array
) -> tuple[float, float]:
    """One picture through each, in turns, so that what slows the machine slows both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(_ROUNDS + 1):
        for model, times in zip((reference, candidate), taken, strict=True):
            start = perf_counter()
            model(image)
            if turn:  # the first one makes its scratch memory
                times.append(perf_counter() - start)
    return median(taken[0]), median(taken[1])
