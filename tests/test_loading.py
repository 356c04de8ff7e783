# SPDX-License-Identifier: Apache-2.0
"""load_state_dict: what fits is taken whole, what does not changes nothing."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from models import BASE, X, copies, refused, same, small, unchanged

import vitpool


def state(**options: Any) -> tuple[Any, dict[str, np.ndarray]]:
    model = small(global_pool="map", **options)
    return model, {k: v + 1 for k, v in copies(model).items()}


def test_loading_is_all_or_nothing_on_a_wrong_shape() -> None:
    model, weights = state()
    weights["head.weight"] = weights["head.weight"][:7]
    for strict in (True, False):
        words = ("head.weight", "(7, 32)", "(10, 32)")
        with refused(ValueError, *words, model=model):
            model.load_state_dict(weights, strict=strict)


def test_a_transposed_weight_is_a_wrong_shape() -> None:
    model, weights = state()
    key = "blocks.0.mlp.fc1.weight"
    weights[key] = weights[key].T
    with refused(ValueError, key, "(32, 128)", "(128, 32)", model=model):
        model.load_state_dict(weights)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool, np.complex64, object])
def test_loading_refuses_a_wrong_dtype(dtype: Any) -> None:
    model, weights = state()
    weights["norm.bias"] = weights["norm.bias"].astype(dtype)
    name = np.dtype(dtype).name
    for strict in (True, False):
        with refused(TypeError, "norm.bias", name, model=model):
            model.load_state_dict(weights, strict=strict)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, ">f4"])
def test_loading_converts_floating_weights(dtype: Any) -> None:
    model, weights = state()
    given = {k: v.astype(dtype) for k, v in weights.items()}
    model.load_state_dict(given)
    expected = {k: v.astype(np.float32) for k, v in given.items()}
    assert same(copies(model), expected)


def test_loading_strictly_names_missing_and_unexpected_keys() -> None:
    model, weights = state()
    del weights["norm.weight"]
    weights["surplus.weight"] = np.zeros(3, np.float32)
    with refused(ValueError, "norm.weight", "surplus.weight", model=model):
        model.load_state_dict(weights)


def test_loading_loosely_takes_what_fits_and_says_the_rest() -> None:
    model, weights = state()
    before = copies(model)
    del weights["norm.weight"]
    weights["surplus.weight"] = np.zeros(3, np.float32)
    result = model.load_state_dict(weights, strict=False)
    assert list(result.missing_keys) == ["norm.weight"]
    assert list(result.unexpected_keys) == ["surplus.weight"]
    missing, unexpected = result
    assert (list(missing), list(unexpected)) == (["norm.weight"], ["surplus.weight"])
    after = copies(model)
    np.testing.assert_array_equal(after["norm.weight"], before["norm.weight"])
    np.testing.assert_array_equal(after["head.bias"], weights["head.bias"])


def test_loading_an_empty_dict_loosely_changes_nothing() -> None:
    model, _ = state()
    with unchanged(model):
        result = model.load_state_dict({}, strict=False)
    assert list(result.missing_keys) == list(model.state_dict())


@pytest.mark.parametrize("given", [None, 3, "path.safetensors", [("a", 1)], X])
def test_loading_what_is_no_mapping(given: object) -> None:
    model, _ = state()
    with refused(TypeError, type(given).__name__, model=model):
        model.load_state_dict(given)


@pytest.mark.parametrize("value", [None, "weights", 3, object()])
def test_loading_a_value_that_is_no_array(value: object) -> None:
    model, weights = state()
    weights["head.bias"] = value  # type: ignore[assignment]
    with unchanged(model):
        with pytest.raises((TypeError, ValueError), match=r"head\.bias"):
            model.load_state_dict(weights)


def test_loading_a_key_that_is_no_string() -> None:
    model, weights = state()
    weights[3] = np.zeros(3, np.float32)  # type: ignore[index]
    with unchanged(model):
        with pytest.raises((TypeError, ValueError)):
            model.load_state_dict(weights)


class Breaks(dict):  # type: ignore[type-arg]
    """A mapping that fails in the middle."""

    def __getitem__(self, key: str) -> Any:
        if key == "norm.weight":
            raise OSError("the disk is gone")
        return super().__getitem__(key)


def test_loading_from_a_mapping_that_breaks_midway_changes_nothing() -> None:
    model, weights = state()
    with unchanged(model), pytest.raises(OSError, match="the disk is gone"):
        model.load_state_dict(Breaks(weights))


def test_loading_strided_and_readonly_weights() -> None:
    model, weights = state()
    expected = {k: v.copy() for k, v in weights.items()}
    for key, value in weights.items():
        wide = np.zeros((*value.shape, 2), np.float32)
        wide[..., 1] = value
        weights[key] = wide[..., 1]
        weights[key].flags.writeable = False
    model.load_state_dict(weights)
    assert same(copies(model), expected)


def test_the_loaded_arrays_are_not_kept() -> None:
    model, weights = state()
    model.load_state_dict(weights)
    before = model(X)
    for value in weights.values():
        value[...] = 0
    np.testing.assert_array_equal(model(X), before)


def test_loading_nan_and_infinity_is_no_error() -> None:
    model, weights = state()
    weights["head.bias"][:2] = np.nan, np.inf
    model.load_state_dict(weights)
    out = model(X)
    assert np.isnan(out[:, 0]).all()
    assert np.isposinf(out[:, 1]).all()
    assert np.isfinite(out[:, 2:]).all()


def test_building_from_weights_is_strict() -> None:
    _, weights = state()
    options = BASE | {"global_pool": "map"}
    for change in ("missing", "unexpected", "shape"):
        given = dict(weights)
        if change == "missing":
            key = "norm.weight"
            del given[key]
        elif change == "unexpected":
            key = "surplus.weight"
            given[key] = np.zeros(3, np.float32)
        else:
            key = "head.weight"
            given[key] = given[key][:3]
        with refused(ValueError, key):
            vitpool.VisionTransformer(**options, weights=given)
    with refused(TypeError, "weights"):
        vitpool.VisionTransformer(**options, weights=3)
