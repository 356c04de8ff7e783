# SPDX-License-Identifier: Apache-2.0
"""Weights of every dtype out of a model and in again: state dicts, pickles, pairs."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from low_precision import KEPT, QKV, bits, in_dtype, model_of, rounded, scales_of
from models import X, refused, small

from vitpool import _core
from vitpool.model import matrices

of_every_dtype = pytest.mark.parametrize("dtype", KEPT)


@of_every_dtype
def test_a_state_dict_has_the_bits_that_the_model_keeps(dtype: str) -> None:
    model = in_dtype(model_of(), dtype)
    state = model.state_dict()
    names = matrices(model.param_shapes())
    integers = dtype.startswith("int8")
    extra = {f"{name}_scale" for name in names} if integers else set()
    assert set(state) == {*model.param_shapes(), *extra}
    for name in names:
        assert state[name].dtype.name == dtype.removesuffix("_a16")
        if integers:
            scale = state[f"{name}_scale"]
            assert (scale.dtype, scale.shape) == (np.float32, state[name].shape[:1])
    assert all(v.dtype == np.float32 for k, v in state.items() if k not in names)
    assert all(v.flags.writeable and v.flags.owndata for v in state.values())

    other = in_dtype(model_of(), dtype)
    other.load_state_dict({k: np.zeros_like(v) for k, v in state.items()})
    assert bits(other) != bits(model)
    assert other.load_state_dict(state) == ([], [])
    assert bits(other) == bits(model)
    assert other(X).tobytes() == model(X).tobytes()


@of_every_dtype
def test_a_dequantized_state_dict_is_float32(dtype: str) -> None:
    model = in_dtype(model_of(), dtype)
    state = model.state_dict(dequantize=True)
    assert list(state) == list(model.param_shapes())
    assert all(v.dtype == np.float32 for v in state.values())
    wide = model_of()
    wide.load_state_dict(state)
    for name, array in state.items():
        np.testing.assert_array_equal(array, model.get_parameter(name))
        np.testing.assert_array_equal(array, wide.get_parameter(name))
    with refused(TypeError, "dequantize"):
        model.state_dict(dequantize=1)


@pytest.mark.parametrize("into", ["float32", *KEPT])
@of_every_dtype
def test_any_form_of_a_state_dict_goes_into_any_model(dtype: str, into: str) -> None:
    given = in_dtype(model_of(), dtype)
    model = in_dtype(model_of(), into)
    dtypes = model._dtypes()
    model.load_state_dict(given.state_dict())
    assert model._dtypes() == dtypes
    wide = given.get_parameter(QKV)
    got = model.get_parameter(QKV)
    if into.startswith("int8") and not dtype.startswith("int8"):
        assert np.abs(got - wide).max() < scales_of(wide).max() * 0.51
    elif into.startswith("int8") or into == "float32":
        np.testing.assert_array_equal(got, wide)
    else:
        np.testing.assert_array_equal(got, rounded(wide, into))


def test_a_parts_state_dict_has_its_own_scales() -> None:
    model = model_of().to("int8")
    state = model.blocks[1].mlp.state_dict(prefix="x.")
    assert list(state)[:3] == ["x.fc1.weight", "x.fc1.weight_scale", "x.fc1.bias"]
    whole = model.state_dict()
    for key, array in state.items():
        np.testing.assert_array_equal(array, whole[key.replace("x.", "blocks.1.mlp.")])
    assert model.blocks[1].mlp.fc1.weight.dtype == np.float32


def test_bfloat16_without_its_package_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    model = small().to("bfloat16")
    with pytest.raises(ImportError, match=r"pip install ml_dtypes.*dequantize=True"):
        model.state_dict()
    assert model.state_dict(dequantize=True)
    assert bits_of_pickle(model) == model(X).tobytes()


def bits_of_pickle(model: Any) -> bytes:
    return pickle.loads(pickle.dumps(model))(X).tobytes()


SCALE = f"{QKV}_scale"


def without(key: str) -> Any:
    return lambda state: {k: v for k, v in state.items() if k != key}


def with_(key: str, make: Any) -> Any:
    return lambda state: state | {key: make(state)}


WRONG: dict[str, tuple[Any, type[Exception], tuple[str, ...]]] = {
    "no scale": (without(SCALE), TypeError, (QKV, SCALE, "missing")),
    "no integers": (without(QKV), ValueError, ("missing", QKV)),
    "a scale of floats": (
        with_(QKV, lambda s: s[QKV].astype(np.float32)),
        ValueError,
        (SCALE, "float32, not int8"),
    ),
    "a scale of a bias": (
        with_("head.bias_scale", lambda s: np.ones(10, np.float32)),
        ValueError,
        ("head.bias_scale",),
    ),
    "a key": (with_("x_scale", lambda s: s[SCALE]), ValueError, ("x_scale",)),
    "-128": (
        with_(QKV, lambda s: np.full_like(s[QKV], -128)),
        ValueError,
        (QKV, "-127 to 127"),
    ),
    "other integers": (
        with_(QKV, lambda s: s[QKV].astype(np.int16)),
        ValueError,
        (SCALE, "int16"),
    ),
    "another shape": (
        with_(QKV, lambda s: s[QKV][:-1]),
        ValueError,
        (QKV, "shape (96, 32)", "(95, 32)"),
    ),
    "a scale of another shape": (
        with_(SCALE, lambda s: s[SCALE][:-1]),
        ValueError,
        (QKV, "scale", "(96,)", "(95,)"),
    ),
    "a scale of two axes": (
        with_(SCALE, lambda s: s[SCALE][:, None]),
        ValueError,
        (QKV, "scale", "(96, 1)"),
    ),
    "a scale of float64": (
        with_(SCALE, lambda s: s[SCALE].astype(np.float64)),
        TypeError,
        (QKV, "scale", "float64"),
    ),
    "a negative scale": (
        with_(SCALE, lambda s: -s[SCALE]),
        ValueError,
        (QKV, "scale", "finite"),
    ),
    "an infinite scale": (
        with_(SCALE, lambda s: s[SCALE] * np.float32(np.inf)),
        ValueError,
        (QKV, "scale", "finite"),
    ),
}


@pytest.mark.parametrize("into", ["int8", "float32"])
@pytest.mark.parametrize(("spoil", "error", "words"), WRONG.values(), ids=WRONG)
def test_integers_that_do_not_fit_change_nothing(
    spoil: Any, error: Any, words: Any, into: str
) -> None:
    state = model_of(seed=1).to("int8").state_dict()
    model = model_of().to(into)
    with refused(error, *words, model=model):
        model.load_state_dict(spoil(state))
    assert model.load_state_dict(state) == ([], [])


def test_an_output_of_nan_is_kept_and_goes_everywhere() -> None:
    model = small()
    weight = model.get_parameter(QKV).copy()
    weight[3, 5] = np.nan
    model.load_state_dict({QKV: weight}, strict=False)
    other = model.to("int8")
    assert np.isnan(other.get_parameter(QKV)[3]).all()
    assert np.isfinite(np.delete(other.get_parameter(QKV), 3, 0)).all()
    again = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(again.get_parameter(QKV), other.get_parameter(QKV))


@of_every_dtype
def test_pickles_and_copies_keep_every_bit(dtype: str) -> None:
    model = in_dtype(model_of(), dtype)
    model.pretrained_cfg = {"architecture": "x"}
    for other in (
        pickle.loads(pickle.dumps(model)),
        copy.copy(model),
        copy.deepcopy(model),
        model.snapshot(),
    ):
        assert bits(other) == bits(model)
        assert other.untrained() == model.untrained()
        assert other.pretrained_cfg == {"architecture": "x"}
        assert other(X).tobytes() == model(X).tobytes()


def test_a_pickle_is_as_small_as_the_model() -> None:
    model = small(embed_dim=128)
    whole = len(pickle.dumps(model))
    assert len(pickle.dumps(model.to("float16"))) < 0.55 * whole
    assert len(pickle.dumps(model.to("bfloat16"))) < 0.55 * whole
    assert len(pickle.dumps(in_dtype(model, "int8"))) < 0.32 * whole


def test_a_pickle_of_float32_is_read_by_versions_without_dtypes() -> None:
    assert small().__reduce__()[1][4] == 3
    assert small().to("int8").__reduce__()[1][4] == 4


# -- the core's own door --


def test_what_the_core_refuses_of_dtypes() -> None:
    core = small()._snapshot()
    for dtypes, error, word in (
        ({"x": "int8"}, ValueError, "'x'"),
        ({3: "int8"}, ValueError, "3"),
        ({"blocks.0\0": "int8"}, ValueError, "no parameter"),
        ({"\ud800": "int8"}, ValueError, "no parameter"),
        ({QKV: "int4"}, ValueError, "'int8_a16'"),
        ({QKV: 8}, TypeError, "int"),
        ({"head.bias": "bfloat16"}, ValueError, "head.bias"),
        ("int8", TypeError, "mapping"),
    ):
        with refused(error, word):
            core._replace(None, {}, (), dtypes)
        assert set(core._dtypes().values()) == {"float32"}
        if error is ValueError and word != "head.bias":
            with refused(error, word):
                _core.VisionTransformer(core._options(), dtypes=dtypes)
    with refused(ValueError, QKV, "float32"):
        core._integers(QKV)
    with refused(KeyError, "x"):
        core._integers("x")
    with refused(TypeError, "target"):
        core._integers(3)


def test_no_reference_is_kept_to_integers_that_came_in_or_went_out() -> None:
    core = small().to("int8")._snapshot()
    q, scale = core._integers(QKV)
    before = sys.getrefcount(q), sys.getrefcount(scale)
    for _ in range(5):
        core._replace(None, {QKV: (q, scale)})
        with pytest.raises(ValueError, match="scale"):
            core._replace(None, {QKV: (q, -scale)})
        with pytest.raises(TypeError):
            core._replace(None, {QKV: (q, None)})
    assert (sys.getrefcount(q), sys.getrefcount(scale)) == before
    core._replace(None, {QKV: (q.T.copy().T, scale[::-1][::-1])})
    np.testing.assert_array_equal(core._integers(QKV)[0], q)
