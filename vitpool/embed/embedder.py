# SPDX-License-Identifier: Apache-2.0
"""A model and the pools to take from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..transforms import Transform

POOLS = ("avg", "avgmax", "max", "token", "map", "prr")


class Embedder:
    """A model and the pools to take: inputs (B, C, H, W) to {pool: (B, D) float32}.

    All pools come from one pass through the blocks. Raises ValueError where the model
    cannot pool so.
    """

    def __init__(self, model: Any, pools: Sequence[str] | None = None) -> None:
        names = list(pools) if pools is not None else [model.global_pool]
        for name in names:
            if name not in POOLS:
                raise ValueError(f"pool: {name!r}, allowed are {', '.join(POOLS)}")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"pool: {names}, allowed are one or more, each once")
        self.model, self.pools = model, names
        tokens = model.patch_embed.num_patches + model.num_prefix_tokens
        features = np.zeros((1, tokens, model.embed_dim), np.float32)
        # asks the model itself whether it can, before a picture is opened
        self.sizes = {p: int(model.pool(features, p).shape[-1]) for p in names}

    def __call__(self, x: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Embed inputs (B, C, H, W); B may be 0."""
        if not len(x):
            return {p: np.empty((0, d), np.float32) for p, d in self.sizes.items()}
        model = self.model
        if self.pools == [model.global_pool] and model.num_classes == 0:
            return {self.pools[0]: model(x)}  # skips what no pool would read
        features = model.forward_features(x)
        return {p: model.fc_norm(model.pool(features, p)) for p in self.pools}

    def identity(self, transform: Transform) -> dict[str, Any]:
        """What makes two runs' vectors the same: weights, pools, pixels and type."""
        model = self.model
        names = [n for n in model.param_shapes() if not n.startswith("head.")]
        digest = hashlib.blake2b(digest_size=16)
        for name in (names[0], names[len(names) // 2], names[-1]):
            digest.update(np.ascontiguousarray(model.get_parameter(name)).tobytes())
        return {
            "weights": digest.hexdigest(),
            "parameters": len(names),
            "dtype": str(model.dtype),
            "pools": self.sizes,
            "transform": repr(transform),
        }
