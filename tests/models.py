# SPDX-License-Identifier: Apache-2.0
"""The small model of the semantics tables, and what `unchanged` means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from golden import recipe

import vitpool

BASE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 10,
}
X = recipe.picture((2, 3, 32, 32))


def small(**options: Any) -> Any:
    """The base model with the recipe's weights: four patches of 32 numbers."""
    model = vitpool.VisionTransformer(**{"seed": 0} | BASE | options)
    model.load_state_dict(recipe.weights(model.param_shapes()))
    return model


def copies(model: Any) -> dict[str, np.ndarray]:
    """The state dict, every array a copy of its own."""
    return {key: np.array(value) for key, value in model.state_dict().items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Bit-equal, in the same order."""
    return list(a) == list(b) and all(
        a[k].dtype == b[k].dtype
        and a[k].shape == b[k].shape
        and a[k].tobytes() == b[k].tobytes()
        for k in a
    )


def everything(model: Any, x: np.ndarray) -> dict[str, Any]:
    """What a failed call must leave as it was."""
    return {
        "state": copies(model),
        "config": model.config,
        "num_classes": model.num_classes,
        "global_pool": model.global_pool,
        "attn_pool": model.attn_pool,
        "repr": repr(model),
        "output": model(x).tobytes(),
        "tokens": model.forward_features(x).tobytes(),
    }


@contextmanager
def unchanged(model: Any, x: np.ndarray = X) -> Iterator[None]:
    """Raise AssertionError unless the model is bit for bit as it was before."""
    before = everything(model, x)
    yield
    after = everything(model, x)
    for key in before:
        if key == "state":
            equal = same(before[key], after[key])
        elif key == "attn_pool":
            equal = before[key] is after[key]
        else:
            equal = before[key] == after[key]
        if not equal:
            raise AssertionError(f"{key} changed: {before[key]} -> {after[key]}")


@contextmanager
def refused(
    error: type[Exception], *words: object, model: Any = None, x: np.ndarray = X
) -> Iterator[None]:
    """Raise AssertionError unless the block raises exactly `error`, naming `words`.

    With a model: it has to be unchanged, too.
    """
    if model is not None:
        with unchanged(model, x), refused(error, *words):
            yield
        return
    try:
        yield
    except Exception as raised:
        if type(raised) is not error:
            raise AssertionError(
                f"expected {error.__name__}, got {raised!r}"
            ) from raised
        missing = [w for w in words if str(w) not in str(raised)]
        if missing:
            raise AssertionError(f"{missing} not in the message: {raised}") from raised
    else:
        raise AssertionError(f"expected {error.__name__}, nothing was raised")
