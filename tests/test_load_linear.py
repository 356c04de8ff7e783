# SPDX-License-Identifier: Apache-2.0
"""load_linear: a fit of scikit-learn's answers from the model as from itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from models import refused, small
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import (
    LogisticRegression,
    Perceptron,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from vitpool.labels import labels_for, probabilities

IMAGES = np.random.default_rng(0).standard_normal((40, 3, 32, 32), "f4")
CLASSIFIERS: dict[str, Any] = {
    "logistic": LogisticRegression(max_iter=500),
    "svc": LinearSVC(),
    "svc, no intercept": LinearSVC(fit_intercept=False),
    "ridge": RidgeClassifier(),
    "ridge, no intercept": RidgeClassifier(fit_intercept=False),
    "sgd": SGDClassifier(random_state=0),
    "perceptron": Perceptron(random_state=0),
}
SCALERS: dict[str, Any] = {
    "raw": None,
    "both": StandardScaler(),
    "mean": StandardScaler(with_std=False),
    "std": StandardScaler(with_mean=False),
    "neither": StandardScaler(with_mean=False, with_std=False),
}


def fitted(
    classifier: Any, scaler: Any, count: int, **options: Any
) -> tuple[Any, Any, Any]:
    """A model, what the estimator was fitted on, and the estimator."""
    model = small(num_classes=7, **options)
    features = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    features = features.astype(np.float64)
    names = np.array(["ant", "bee", "cow", "dog"])[:count]
    labels = names[np.random.default_rng(1).integers(0, count, len(features))]
    steps = [clone(classifier)] if scaler is None else [scaler, clone(classifier)]
    estimator = steps[0] if scaler is None else make_pipeline(*steps)
    return model, features, estimator.fit(features, labels)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_largest_logit_is_what_the_estimator_predicts(
    classifier: str, scaler: str, count: int
) -> None:
    model, features, estimator = fitted(
        CLASSIFIERS[classifier], SCALERS[scaler], count, global_pool="avg"
    )
    model.load_linear(estimator)
    logits = model(IMAGES)
    assert logits.shape == (len(IMAGES), count)
    predicted = estimator.classes_[logits.argmax(1)]
    np.testing.assert_array_equal(predicted, estimator.predict(features))
    decided = estimator.decision_function(features)
    if count == 2:
        assert not logits[:, 0].any()
        logits = logits[:, 1]
    np.testing.assert_allclose(logits, decided, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("pool", ["token", "avg", "map"])
def test_softmax_gives_the_probabilities_of_logistic_regression(
    pool: str, scaler: str, count: int
) -> None:
    model, features, estimator = fitted(
        LogisticRegression(max_iter=500), SCALERS[scaler], count, global_pool=pool
    )
    model.load_linear(estimator)
    np.testing.assert_allclose(
        probabilities(model(IMAGES)), estimator.predict_proba(features), atol=1e-5
    )


@pytest.mark.parametrize("count", [2, 3])
def test_numbers_alone_are_the_same_as_the_estimator(count: int) -> None:
    scaler = StandardScaler()
    model, _, estimator = fitted(LogisticRegression(), scaler, count)
    other = small()
    model.load_linear(estimator)
    last = estimator[-1]
    other.load_linear(last.coef_, last.intercept_, last.classes_, scaler)
    np.testing.assert_array_equal(other.head.weight, model.head.weight)
    np.testing.assert_array_equal(other.head.bias, model.head.bias)
    assert other.pretrained_cfg["label_names"] == ["ant", "bee", "cow", "dog"][:count]


def test_classes_name_the_answers_and_the_pool_is_kept() -> None:
    model = small(global_pool="map")
    pool, cfg = model.attn_pool, dict(model.pretrained_cfg)
    coef = np.arange(64.0).reshape(2, 32)
    model.load_linear(coef, [0, 1])
    assert dict(model.pretrained_cfg) == cfg
    assert model.num_classes == 2
    model.load_linear(coef.astype(int), classes=np.array([3, 8]))
    assert model.attn_pool is pool
    labels = labels_for(model.pretrained_cfg, 2)
    assert (labels[0], labels[1]) == ("3", "8")
    assert not model.head.bias.any()


def test_a_binary_fit_is_a_row_of_noughts_and_its_own() -> None:
    model = small()
    for coef in (np.full((1, 32), 0.5), np.full(32, 0.5)):
        model.load_linear(coef, -2.0)
        assert not model.head.weight[0].any()
        assert (model.head.weight[1] == 0.5).all()
        assert model.head.bias.tolist() == [0.0, -2.0]


def test_the_scaler_is_folded_in_before_anything_is_rounded() -> None:
    rng = np.random.default_rng(2)
    mean, scale = 1e4 + rng.random(32), 0.1 + rng.random(32)
    coef, intercept = rng.standard_normal((2, 32)), rng.standard_normal(2)
    model = small()
    scaler = SimpleNamespace(mean_=mean, scale_=scale)
    model.load_linear(coef, intercept, scaler=scaler)
    weight = coef / scale
    np.testing.assert_array_equal(model.head.weight, weight.astype("f4"))
    bias = [i - sum(w * mean) for w, i in zip(weight, intercept, strict=True)]
    np.testing.assert_allclose(model.head.bias, bias, rtol=6e-8)


COEF = np.ones((3, 32))
ONES = np.ones(32)
FIT = LogisticRegression().fit(np.eye(3, 32), [0, 1, 2])
BAD: dict[str, tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = {
    "width": (ValueError, "(K, 32), a row for each class, or (1, 32)", (COEF.T,), {}),
    "no row": (ValueError, "not (0, 32)", (COEF[:0],), {}),
    "intercept": (ValueError, "(3,), not (2,)", (COEF, [0.0, 1.0]), {}),
    "text": (TypeError, "coef_ must be numbers", (np.array([["a"]]),), {}),
    "masked": (TypeError, "masked", (np.ma.masked_less(COEF, 2),), {}),
    "not finite": (ValueError, "finite", (COEF * np.nan,), {}),
    "beyond float32": (ValueError, "finite", (COEF * 1e39,), {}),
    "classes": (ValueError, "3, one for each", (COEF,), {"classes": ["a", "b"]}),
    "classes of two": (ValueError, "2, one for", (COEF[:1],), {"classes": ["a"]}),
    "one text": (TypeError, "a list of names", (COEF,), {"classes": "abc"}),
    "scaler": (TypeError, "not MinMaxScaler", (COEF,), {"scaler": MinMaxScaler()}),
    "another width": (
        ValueError,
        "scaler.mean_ must have shape (32,), not (31,)",
        (COEF,),
        {"scaler": SimpleNamespace(mean_=ONES[1:], scale_=ONES)},
    ),
    "scale 0": (
        ValueError,
        "must not be 0",
        (COEF,),
        {"scaler": SimpleNamespace(mean_=ONES, scale_=ONES * 0)},
    ),
    "not fitted": (ValueError, "fitted", (LogisticRegression(),), {}),
    "not linear": (ValueError, "DecisionTree", (DecisionTreeClassifier(),), {}),
    "beside others": (TypeError, "give it alone", (FIT, [0.0] * 3), {}),
    "another step": (ValueError, "PCA", (make_pipeline(PCA(), FIT),), {}),
    "sparse": (TypeError, "densify", (clone(FIT).fit(np.eye(3), [0, 1, 2]),), {}),
}
BAD["sparse"][2][0].sparsify()


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_linear_fit_changes_nothing(name: str) -> None:
    model = small()
    cfg = dict(model.pretrained_cfg)
    error, words, arguments, options = BAD[name]
    with refused(error, words, model=model):
        model.load_linear(*arguments, **options)
    assert model.pretrained_cfg == cfg
