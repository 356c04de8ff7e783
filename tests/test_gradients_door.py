# SPDX-License-Identifier: Apache-2.0
"""_core.VisionTransformer._gradients: what it takes, refuses and leaves alone."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from models import X, refused, small

NAN = float("nan")


@pytest.fixture
def model() -> Any:
    return small(depth=2, global_pool="map", num_classes=6)


def targets(batch: int = len(X), classes: int = 6) -> Any:
    return np.eye(classes, dtype=np.float32)[np.arange(batch) % classes]


def zeros(model: Any, *starts: str) -> dict[str, Any]:
    shapes = model.param_shapes()
    return {
        name: np.zeros(shape, np.float32)
        for name, shape in shapes.items()
        if name.startswith(starts or "")
    }


BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "entry": (ValueError, "entry must be one of", {"entry": "tokens"}),
    "entry's type": (TypeError, "entry must be a str, not int", {"entry": 1}),
    "loss": (ValueError, "loss must be one of", {"loss": "hinge"}),
    "groups": (ValueError, "groups must divide num_classes, 6", {"groups": 4}),
    "no groups": (ValueError, "groups", {"groups": 0}),
    "many groups": (ValueError, "groups", {"groups": 2**40}),
    "seed": (ValueError, "seed", {"seed": -1}),
    "image": (ValueError, "image", {"image": -1}),
    "memory": (TypeError, "memory", {"memory": 1.5}),
    "a rate of 1": (
        ValueError,
        "attn_drop must be from 0",
        {"rates": {"attn_drop": 1}},
    ),
    "a negative rate": (
        ValueError,
        "drop_path must be",
        {"rates": {"drop_path": -0.1}},
    ),
    "a rate of nan": (ValueError, "drop must be from 0", {"rates": {"drop": NAN}}),
    "a rate's name": (ValueError, "'drop_rate'", {"rates": {"drop_rate": 0.1}}),
    "a rate's type": (TypeError, "must be real number", {"rates": {"drop": "1"}}),
    "rates": (TypeError, "rates must be a dict", {"rates": [("drop", 0.1)]}),
    "weights": (ValueError, "weights must be None", {"weights": np.ones(6, "f4")}),
    "weights' shape": (
        ValueError,
        "weights must have shape (6,), not (5,)",
        {"loss": "mse", "weights": np.ones(5, "f4")},
    ),
    "pos_embed": (
        ValueError,
        "pos_embed must have shape (1, ",
        {"pos_embed": np.zeros((1, 2, 3), "f4")},
    ),
    "a mask of dropped tokens": (
        ValueError,
        "mask must be None with patch_drop",
        {"mask": np.ones((17, 17), bool), "rates": {"patch_drop": 0.5}},
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_arguments_are_refused_before_a_gradient_is_added(
    model: Any, bad: str
) -> None:
    error, message, given = BAD[bad]
    grads = zeros(model)
    if "mask" in given:
        tokens = model.forward_features(X).shape[1]
        given = {**given, "mask": np.ones((tokens, tokens), bool)}
    with refused(error, message, model=model):
        model._gradients(X, targets(), grads, **given)
    assert not any(array.any() for array in grads.values())


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("head", np.zeros(6, "f4")),
        ("head.bias\0more", np.zeros(6, "f4")),
        ("head.bias", np.zeros(5, "f4")),
        ("head.bias", np.zeros((6, 1), "f4")),
        ("head.bias", np.zeros(6, "f8")),
        ("head.bias", np.zeros(12, "f4")[::2]),
        ("head.bias", np.broadcast_to(np.float32(0), 6)),
        ("head.bias", [0.0] * 6),
        (1, np.zeros(6, "f4")),
    ],
)
def test_a_gradient_goes_into_an_array_like_the_parameter(
    model: Any, name: Any, array: Any
) -> None:
    with refused(ValueError, "grads", model=model):
        model._gradients(X, targets(), {name: array})


def test_grads_are_a_dict_and_targets_fit(model: Any) -> None:
    with refused(TypeError, "grads must be a dict", model=model):
        model._gradients(X, targets(), [])
    with refused(ValueError, r"targets must have shape", model=model):
        model._gradients(X, targets(classes=5), {})
    with refused(ValueError, r"targets must have shape", model=model):
        model._gradients(X, targets(len(X) + 1), {})
    with refused(TypeError, "targets", model=model):
        model._gradients(X, np.arange(len(X)), {})


def test_gradients_hold_the_arrays_that_they_write(model: Any) -> None:
    """A dict that is emptied meanwhile takes nothing away."""
    grads = zeros(model)
    held = [weakref.ref(array) for array in grads.values()]
    alive = []

    class Targets:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            grads.clear()
            alive.extend(ref() is not None for ref in held)
            return targets()

    model._gradients(X, Targets(), grads)
    assert alive
    assert all(alive)


def test_an_empty_batch_has_no_loss(model: Any) -> None:
    grads = zeros(model)
    losses, logits = model._gradients(X[:0], targets(0), grads)
    assert losses.tolist() == [0.0]
    assert logits.shape == (0, 6)
    assert not any(array.any() for array in grads.values())


def test_logits_are_those_of_a_forward_pass(model: Any) -> None:
    _, logits = model._gradients(X, targets(), {})
    np.testing.assert_allclose(logits, model(X), rtol=1e-5, atol=1e-5)


def test_every_entry_gives_one_gradient(model: Any) -> None:
    """Of the head, which stands behind all entries."""
    features = model.forward_features(X)
    tokens = model._run(X, 0, taps=[(1, False)])[1][0]
    entries = {
        "images": (X, 0),
        "block": (tokens, 2),
        "features": (features, 0),
        "pre_logits": (model.forward_head(features, pre_logits=True), 0),
    }
    found = {}
    for entry, (x, block) in entries.items():
        found[entry] = zeros(model, "head.")
        model._gradients(x, targets(), found[entry], entry=entry, block=block)
    for entry in entries:
        for name, want in found["images"].items():
            np.testing.assert_allclose(found[entry][name], want, rtol=1e-4, atol=1e-5)
