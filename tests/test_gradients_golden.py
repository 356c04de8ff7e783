# SPDX-License-Identifier: Apache-2.0
"""Gradients and ten steps beside those that torch wrote once, tensor by tensor.

golden/make_training.py writes them. This test needs no torch.
"""

from __future__ import annotations

from typing import Any

import gradient_measure
import numpy as np
import pytest
from golden import recipe, training

import vitpool
from vitpool import _core
from vitpool.train import Trainer, gradients

GOLDEN = training.stored()
GRADS = {k[5:]: v for k, v in GOLDEN.items() if k.startswith("grad.")}
# Between float32 and float64 lie ten steps; a gradient that is 1e-4 off is seen.
LOSS_TOLERANCE = 1e-5


def model(state: dict[str, np.ndarray] | None = None) -> Any:
    """The golden's model, with its first weights or others."""
    shapes = {name: value.shape for name, value in GRADS.items()}
    weights = recipe.weights(shapes) if state is None else state
    return vitpool.VisionTransformer(**training.OPTIONS, weights=weights)


def targets() -> np.ndarray:
    """The labels as `_gradients` takes them: smoothed rows."""
    classes = training.OPTIONS["num_classes"]
    hot = np.eye(classes, dtype=np.float32)[GOLDEN["labels"]]
    smoothing = np.float32(training.SMOOTHING)
    return (1 - smoothing) * hot + smoothing / np.float32(classes)


def found(one: Any) -> gradient_measure.Found:
    grads = {name: np.zeros_like(value) for name, value in GRADS.items()}
    losses, logits = one._gradients(
        GOLDEN["inputs"], targets(), grads, scale=1 / training.BATCH
    )
    return gradient_measure.Found(losses, logits, grads)


def assert_agrees(got: gradient_measure.Found) -> None:
    exact = gradient_measure.Found(GOLDEN["losses"][:1], GOLDEN["logits"], GRADS)
    errors = gradient_measure.errors(got, exact)
    floor = max(float(GOLDEN["torch_error"]), gradient_measure.FLOOR)
    far = {k: e for k, e in errors.items() if not e <= gradient_measure.RATIO * floor}
    assert not far


def test_the_golden_is_of_every_parameter() -> None:
    shapes = {name: value.shape for name, value in GRADS.items()}
    assert list(shapes.items()) == list(model().param_shapes().items())
    pictures, labels = training.data()
    np.testing.assert_array_equal(GOLDEN["inputs"], pictures)
    np.testing.assert_array_equal(GOLDEN["labels"], labels)


def test_every_gradient_is_torchs() -> None:
    assert_agrees(found(model()))


@pytest.mark.parametrize("how", [{"checkpointing": True}, {"checkpointing": False}])
def test_the_public_gradients_are_torchs(how: dict[str, Any]) -> None:
    one = model()
    loss, grads = gradients(
        one,
        GOLDEN["inputs"],
        GOLDEN["labels"],
        train="all",
        label_smoothing=training.SMOOTHING,
        **how,
    )
    assert list(grads) == list(GRADS)
    logits = one(GOLDEN["inputs"])
    assert_agrees(gradient_measure.Found(np.array([loss]), logits, grads))


def test_ten_steps_of_adamw_have_torchs_losses() -> None:
    """Every parameter decays; the optimizer's function alone, without a Trainer."""
    state = {k: np.array(v) for k, v in model().state_dict().items()}
    moments = {k: (np.zeros_like(v), np.zeros_like(v)) for k, v in state.items()}
    (beta1, beta2), eps = training.ADAMW["betas"], training.ADAMW["eps"]
    lr, decay = training.ADAMW["lr"], training.ADAMW["weight_decay"]
    losses = []
    for step in range(1, training.STEPS + 1):
        got = found(model(state))
        losses.append(float(got.losses[0]))
        for name, gradient in got.grads.items():
            w, (m, v) = state[name], moments[name]
            _core.adamw(w, m, v, gradient, lr, beta1, beta2, eps, decay, step)
    np.testing.assert_allclose(losses, GOLDEN["losses"], rtol=0, atol=LOSS_TOLERANCE)


def test_ten_steps_of_a_trainer_have_torchs_losses() -> None:
    """What decays is what timm lets decay: no bias, norm, token or position."""
    trainer = Trainer(
        model(),
        train="all",
        optimizer="adamw",
        lr=training.ADAMW["lr"],
        weight_decay=training.ADAMW["weight_decay"],
        betas=training.ADAMW["betas"],
        layer_decay=1.0,
        schedule="constant",
        warmup=0,
        epochs=training.STEPS,
        batch_size=training.BATCH,
        label_smoothing=training.SMOOTHING,
    )
    x, y = GOLDEN["inputs"], GOLDEN["labels"]
    losses = [trainer.step(x, y) for _ in range(training.STEPS)]
    wanted = GOLDEN["losses_timm"]
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=LOSS_TOLERANCE)
