# SPDX-License-Identifier: Apache-2.0
"""What probes train on: each pool's vectors, and tokens, of the same pictures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..model import Float32, Pooling
from .features import Source
from .sources import Indices
from .stored import Features, Writer

Rows = Features | Float32


class ProbeData(NamedTuple):
    """Rows by pool: vectors (n, C), or tokens (n, N, C) under TOKENS; and labels'
    places among those given, since a picture may have been left out."""

    rows: dict[str, Rows]
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, key: str, places: Indices) -> Float32:
        """Some rows, float32."""
        return _core.as_float32(self.rows[key][places], "x")


TOKENS = "tokens"


class Given:
    """What a caller gave: pictures, forward_features' tokens, or one pool's vectors.

    reading: transform, num_workers, on_error, batch_size, memory, dtype, progress, as
    `features` has them. what: the argument's name in an error. Nothing is computed yet.
    """

    def __init__(self, model: Any, x: Any, what: str, reading: dict[str, Any]) -> None:
        self._model, self._what, self._reading = copy.copy(model), what, reading
        self._rows: Rows | None = None
        if isinstance(x, Features):
            if x.entry == "block":
                raise ValueError(
                    f"{what}: tokens before block {x.block}; probes take those behind "
                    "the last norm, features(model, images, train='pool')"
                )
            self._rows = x
        elif getattr(x, "ndim", 0) in (2, 3) and "float" in str(x.dtype):
            self._rows = _core.as_float32(x, what)
        if self._rows is None:
            names = ("transform", "num_workers", "on_error")
            source = Source(self._model, x, *(reading[name] for name in names))
            self._source = source
            return
        width, shape = model.embed_dim, self._rows.shape
        if shape[-1] != width or not shape[0]:
            raise ValueError(
                f"{what} must be (n, {width}) or (n, N, {width}), not {shape}"
            )

    def __len__(self) -> int:
        return len(self._source if self._rows is None else self._rows)

    @property
    def pooled(self) -> bool:
        """Are these vectors?"""
        return self._rows is not None and self._rows.ndim == 2

    def data(self, linear: Sequence[str], attentive: bool) -> ProbeData:
        """Vectors of the linear pools, and tokens where there are attentive ones."""
        if self._rows is None:
            return self._run(linear, attentive)
        indices = np.arange(len(self._rows))
        if self.pooled:
            (pool,) = linear
            return ProbeData({pool: self._rows}, indices)
        vectors: dict[str, list[Float32]] = {pool: [] for pool in linear}
        size = self._reading["batch_size"]
        for first in range(0, len(self._rows) if linear else 0, size):
            for pool, found in self._pool(
                self._rows[first : first + size], linear
            ).items():
                vectors[pool].append(found)
        rows: dict[str, Rows] = {p: np.concatenate(v) for p, v in vectors.items()}
        return ProbeData(rows | ({TOKENS: self._rows} if attentive else {}), indices)

    def _pool(self, tokens: Float32, pools: Sequence[str]) -> dict[str, Float32]:
        model = self._model
        return {pool: model.fc_norm(model.pool(tokens, pool)) for pool in pools}

    def _run(self, linear: Sequence[str], attentive: bool) -> ProbeData:
        """Everything from one pass of the pictures through the blocks."""
        source, reading = self._source, self._reading
        pooling = Pooling(self._model, linear) if not attentive else None
        writers = {
            key: Writer(len(source), reading["dtype"], reading["memory"])
            for key in [*linear, *([TOKENS] if attentive else [])]
        }
        for images in source.batches(reading["batch_size"], reading["progress"]):
            if pooling is not None:
                found = pooling(images)
            else:
                tokens = self._model.forward_features(images)
                found = {TOKENS: tokens, **self._pool(tokens, linear)}
            for key, rows in found.items():
                writers[key].add(rows)
        for writer in writers.values():
            writer.end({})
        indices, errors = source.indices(), source.errors
        return ProbeData(
            {
                key: Features(writer.rows(), "features", 0, indices, errors)
                for key, writer in writers.items()
            },
            indices,
        )
