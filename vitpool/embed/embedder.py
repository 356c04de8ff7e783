# SPDX-License-Identifier: Apache-2.0
"""A model and the pools to take from it; what tells its vectors from another's."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from .. import _core
from ..transforms import Transform, default_workers

POOLS = ("avg", "avgmax", "max", "token", "map", "prr")

# The version of what `Embedder.identity` tells and of the numbers behind it. It goes up
# when a vector or a pixel of the same model becomes another, beyond rounding.
FORMAT = 2


class Embedder:
    """A model and the pools to take: inputs (B, C, H, W) to {pool: (B, D) float32}.

    All pools come from one pass through the blocks. The model is the one that it is
    now: a later change of it is not seen here. Raises ValueError where the model cannot
    pool so.
    """

    def __init__(self, model: Any, pools: Sequence[str] | None = None) -> None:
        names = list(pools) if pools is not None else [model.global_pool]
        for name in names:
            if name not in POOLS:
                raise ValueError(f"pool: {name!r}, allowed are {', '.join(POOLS)}")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"pool: {names}, allowed are one or more, each once")
        self.model, self.pools = copy.copy(model), names  # a copy shares the weights
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
        """What makes two runs' vectors the same up to rounding, as JSON has it.

        That is every weight and option but the classifier's, the pools, the transform,
        and the version of the numbers. Not the machine, nor Pillow's release: their
        difference is one of rounding.
        """
        options = {k: v for k, v in self.model.config.items() if k != "num_classes"}
        told = {
            "format": FORMAT,
            "model": type(self.model).__name__,
            "options": options,
            "weights": self._digest(),
            "dtype": str(self.model.dtype),
            "pools": self.sizes,
            "transform": repr(transform),
        }
        identity: dict[str, Any] = json.loads(json.dumps(told))
        return identity

    def _digest(self) -> str:
        """A text that changes with any weight; tensor by tensor, on all processors."""

        def one(name: str) -> bytes:
            array = self.model.get_parameter(name)
            digest = hashlib.blake2b(f"{name} {array.shape}".encode(), digest_size=16)
            digest.update(array)
            return digest.digest()

        names = [n for n in self.model.param_shapes() if not n.startswith("head.")]
        with ThreadPoolExecutor(default_workers()) as pool:
            whole = b"".join(pool.map(one, names))
        return hashlib.blake2b(whole, digest_size=16).hexdigest()


def versions() -> dict[str, str]:
    """What a run was made with, for who reads its files; nothing compares it."""
    return {"vitpool": _core.__version__, "pillow": PIL.__version__}


def difference(made: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In words how an earlier run's identity differs from this one's; '' where not."""
    if "format" not in made:
        return "made by vitpool 0.1.0, which did not note all that is needed to go on"
    if made["format"] != now["format"]:
        return f"made in format {made['format']}, which is {now['format']} now"
    options, others = now["options"], made["options"]
    differ = [k for k in now if k != "options" and made.get(k) != now[k]]
    differ += sorted(k for k in {*options, *others} if options.get(k) != others.get(k))
    return f"made with other {', '.join(differ)}" if differ else ""
