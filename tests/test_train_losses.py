# SPDX-License-Identifier: Apache-2.0
"""Losses and the head's gradients beside float64 formulas; checks of labels."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from models import small

from vitpool.train import Loss, gradients

B, K = 7, 10
RNG = np.random.default_rng(3)
X = RNG.standard_normal((B, 32)).astype(np.float32)
CLASSES = RNG.integers(0, K, B)
SOFT = RNG.dirichlet(np.ones(K), B).astype(np.float32)
MANY = (RNG.random((B, K)) < 0.3).astype(np.float32)
NUMBERS = RNG.standard_normal((B, K)).astype(np.float32)
WEIGHT = (0.2 + RNG.random(K)).astype(np.float32)


def by_formula(
    logits: np.ndarray, y: np.ndarray, loss: str, e: float, weight: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """The mean loss and its gradient by the logits, in float64."""
    w = np.ones(K) if weight is None else weight.astype(np.float64)
    hard = y.ndim == 1
    one_hot = np.eye(K)[y] if hard else y.astype(np.float64)
    if loss == "cross_entropy":
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        t = w * ((1 - e) * one_hot + e / K)
        total = (w[y]).sum() if hard else B
        return float(-(t * np.log(p)).sum() / total), (
            p * t.sum(1, keepdims=True) - t
        ) / total
    if loss == "binary_cross_entropy":
        t = (1 - e) * one_hot + (e / K if hard else e / 2)
        p = 1 / (1 + np.exp(-logits))
        each = -(t * np.log(p) + (1 - t) * np.log(1 - p))
        return float((w * each).mean()), w * (p - t) / (B * K)
    total = B * K if weight is None else B * w.sum()
    return (
        float((w * (logits - one_hot) ** 2).sum() / total),
        2 * w * (logits - one_hot) / total,
    )


CASES = [
    (loss, y, e, weight)
    for loss, ys, smoothings in [
        ("cross_entropy", (CLASSES, SOFT), (0.0, 0.1)),
        ("binary_cross_entropy", (CLASSES, MANY), (0.0, 0.1)),
        ("mse", (CLASSES, NUMBERS), (0.0,)),
    ]
    for y in ys
    for e in smoothings
    for weight in (None, WEIGHT)
]


@pytest.mark.parametrize(("loss", "y", "e", "weight"), CASES)
def test_loss_and_gradients_are_the_formulas(
    loss: Any, y: np.ndarray, e: float, weight: np.ndarray | None
) -> None:
    model = small()
    w = model.get_parameter("head.weight").astype(np.float64)
    logits = X @ w.T + model.get_parameter("head.bias")
    expected, by_logits = by_formula(logits, y, loss, e, weight)
    value, arrays = gradients(
        *(model, X, y),
        **{"train": "head", "loss": loss, "label_smoothing": e, "class_weight": weight},
    )
    assert value == pytest.approx(expected, rel=2e-6)
    scale = abs(by_logits).max()
    np.testing.assert_allclose(
        arrays["head.bias"], by_logits.sum(0), rtol=1e-5, atol=1e-6 * scale
    )
    np.testing.assert_allclose(
        arrays["head.weight"], by_logits.T @ X, rtol=1e-5, atol=1e-5 * scale
    )


@pytest.mark.parametrize(("loss", "y", "e", "weight"), CASES)
def test_the_loss_of_evaluation_is_the_formula_without_smoothing(
    loss: Any, y: np.ndarray, e: float, weight: np.ndarray | None
) -> None:
    logits = (3 * RNG.standard_normal((B, K))).astype(np.float32)
    one = Loss(loss, K, e, weight)
    labels = one.labels(y, B)
    expected, _ = by_formula(logits.astype(np.float64), y, loss, 0.0, weight)
    assert one.total(logits, labels) / one.share(labels) == pytest.approx(expected)


def test_large_logits_overflow_nowhere() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
    for loss in ("cross_entropy", "binary_cross_entropy"):
        one = Loss(loss, 2)
        assert one.total(logits, one.labels(np.array([0, 0]), 2)) == 2e4


def test_hits_count_images_or_each_binary_target() -> None:
    logits = np.array([[3, 1, 2], [0, -1, -2], [-1, 4, 5]], np.float32)
    classes = np.array([0, 1, 2])
    for loss in ("cross_entropy", "binary_cross_entropy", "mse"):
        one = Loss(loss, 3)
        assert one.hits(logits, one.labels(classes, 3)) == (2, 3)
    many = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1]])
    one = Loss("binary_cross_entropy", 3)
    assert one.hits(logits, one.labels(many, 3)) == (8, 9)
    assert Loss("mse", 3).hits(logits, many.astype(np.float32)) is None


@pytest.mark.parametrize(
    ("y", "error", "text"),
    [
        ([0, 10], ValueError, r"y\[1\] is 10: classes are 0 to 9"),
        ([-100, 0], ValueError, r"y\[0\] is -100: classes are 0 to 9"),
        ([0], ValueError, "y has 1 labels for 2 images"),
        (3, ValueError, "y has one number for 2 images"),
        ([0.0, 1.0], TypeError, r"integers.*float64: y.astype\(int\)"),
        ([True, False], TypeError, "integers.*bool"),
        (["cat", "dog"], TypeError, "numpy.unique"),
        ([None, 1], TypeError, "must be numbers, not object"),
        (np.ma.masked_array([0, 1]), TypeError, "masked"),
        (np.zeros((2, 9)), ValueError, r"\(2,\) or \(2, 10\), not \(2, 9\)"),
        ([[0], [1]], ValueError, r"not \(2, 1\)"),
        (np.full((2, 10), np.nan), ValueError, r"y\[0, 0\] is nan: must be from 0"),
        (np.full((2, 10), -0.1), ValueError, "must be from 0 to 1"),
        (np.ones((2, 10)), ValueError, r"sums to 10.*binary_cross_entropy"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    y: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        gradients(small(), X[:2], y, train="head")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"loss": "crossentropy"}, ValueError, "did you mean 'cross_entropy'"),
        ({"loss": None}, TypeError, "not NoneType"),
        ({"label_smoothing": 1.0}, ValueError, "from 0 to below 1"),
        ({"label_smoothing": -0.1}, ValueError, "from 0 to below 1"),
        ({"loss": "mse", "label_smoothing": 0.1}, ValueError, "'mse'"),
        ({"class_weight": np.ones(9)}, ValueError, r"\(10,\)"),
        ({"class_weight": np.zeros(10)}, ValueError, r"\[0\] must be finite and above"),
        ({"class_weight": [np.nan] * 10}, ValueError, r"\[0\] must be finite"),
        ({"drop_rate": 1.0}, ValueError, "drop_rate must be from 0 to below 1"),
        ({"attn_drop_rate": 0.1}, ValueError, "attn_drop_rate would do nothing"),
        ({"seed": -1}, ValueError, "seed"),
        ({"memory": 0}, ValueError, "memory"),
        ({"checkpointing": 1}, TypeError, "checkpointing"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        gradients(small(), X[:2], [0, 1], **{"train": "head", **arguments})


def test_no_images_have_no_mean() -> None:
    with pytest.raises(ValueError, match="no images"):
        gradients(small(), X[:0], np.zeros(0, int), train="head")


def test_one_output_takes_single_numbers() -> None:
    model = small(num_classes=1)
    for loss in ("binary_cross_entropy", "mse"):
        a = gradients(model, X[:2], [0, 1], train="head", loss=loss)
        b = gradients(model, X[:2], [[0.0], [1.0]], train="head", loss=loss)
        assert a[0] == b[0]
        assert np.array_equal(a[1]["head.weight"], b[1]["head.weight"])


def test_dropouts_masks_follow_from_the_seed() -> None:
    model = small()

    def run(seed: int | None, rate: float = 0.5) -> bytes:
        _, arrays = gradients(
            model, X, CLASSES, train="head", drop_rate=rate, seed=seed
        )
        return arrays["head.weight"].tobytes()

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(None) != run(None)
    assert run(1, 0.0) == run(2, 0.0)


def test_a_models_own_rates_act_in_training() -> None:
    plain, dropping = small(), small(drop_rate=0.5)
    assert dropping.drop_rates == {"drop_rate": 0.5}
    a = gradients(plain, X, CLASSES, train="head", drop_rate=0.5, seed=1)
    b = gradients(dropping, X, CLASSES, train="head", seed=1)
    c = gradients(dropping, X, CLASSES, train="head", drop_rate=0.0)
    assert a[0] == b[0] != c[0]
    assert c[0] == gradients(plain, X, CLASSES, train="head")[0]


def test_copies_and_pickles_keep_the_rates() -> None:
    rates = {"drop_rate": 0.5, "drop_path_rate": 0.25}
    model = small(**rates)
    for one in (
        copy.copy(model),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
    ):
        assert one.drop_rates == rates
        assert {k: one.config[k] for k in rates} == rates
    assert small().drop_rates == {}
    with pytest.raises(ValueError, match="drop_path_rate must be from 0 to 1"):
        small(drop_path_rate=7)
