# SPDX-License-Identifier: Apache-2.0
"""A model and the pools to take from it, all from one pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..config import POOLS as POOLS_AND_NONE
from .parts import Float32

POOLS = tuple(pool for pool in POOLS_AND_NONE if pool)


class Pooling:
    """A model and the pools to take: inputs (B, C, H, W) to {pool: (B, D) float32}.

    All pools come from one pass through the blocks. The model is the one that it is
    now, without its head: a later change of it is not seen here. pools: a list of them,
    or a text as 'map,avg'; default the model's own. Raises ValueError where the model
    cannot pool so.
    """

    def __init__(self, model: Any, pools: str | Iterable[str] | None = None) -> None:
        if isinstance(pools, str):
            pools = [pool.strip() for pool in pools.split(",")]
        names = list(pools) if pools is not None else [model.global_pool]
        for name in names:
            if name not in POOLS:
                raise ValueError(f"pool: {name!r}, allowed are {', '.join(POOLS)}")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"pool: {names}, allowed are one or more, each once")
        self.model, self.pools = copy.copy(model), names  # a copy shares the weights
        tokens = model.num_prefix_tokens + 1
        features = np.zeros((1, tokens, model.embed_dim), np.float32)
        # asks the model itself whether it can, before a picture is opened
        self.sizes = {p: int(model.pool(features, p).shape[-1]) for p in names}
        self.model.reset_classifier(0)

    def __call__(self, x: Any) -> dict[str, Float32]:
        """Pool the features of inputs (B, C, H, W), or of a dict of patches; B may be
        0."""
        model = self.model
        if self.pools == [model.global_pool]:
            return {self.pools[0]: model(x)}  # skips what no pool would read
        features = model.forward_features(x)
        if isinstance(features, dict):  # of a batch of patches
            tokens, valid = features["patches"], features["patch_valid"]
            pooled = {p: model.pool(tokens, p, valid) for p in self.pools}
        else:
            pooled = {p: self._pooled(features, p) for p in self.pools}
        return {p: model.fc_norm(rows) for p, rows in pooled.items()}

    def _pooled(self, tokens: Float32, pool: str) -> Float32:
        model = self.model
        if len(model._heads) > 1 and pool == model.global_pool:
            # what the heads of several tokens read: its fc_norm is none
            rows: Float32 = model.forward_head(tokens, pre_logits=True)
            return rows
        rows = model.pool(tokens, pool)
        return rows

    def untrained(self) -> list[str]:
        """The parameters behind these pools that were drawn and not set since."""
        names = self.model.untrained()
        if not {"map", "prr"} & set(self.pools):
            names = [name for name in names if not name.startswith("attn_pool.")]
        return names
