# SPDX-License-Identifier: Apache-2.0
"""A model of another dtype: what changes, what does not, what says it, errors."""

from __future__ import annotations

import copy
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from low_precision import KEPT, QKV, bits, in_dtype, model_of, rounded, scales_of
from models import BASE, X, copies, refused, same, small

import vitpool
from vitpool import _core
from vitpool.model import VisionTransformer, digest, matrices

ASKED = ("bfloat16", "float16", "int8")
of_every_dtype = pytest.mark.parametrize("dtype", KEPT)


# -- to --


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_matrix_is_rounded_to_nearest_and_nothing_else(dtype: str) -> None:
    model = model_of()
    state, other = copies(model), model.to(dtype)
    names = matrices(model.param_shapes())
    assert {"patch_embed.proj.weight", "attn_pool.kv.weight", "head.weight"} < {*names}
    assert other._dtypes() == {
        name: dtype if name in names else "float32" for name in state
    }
    for name, array in state.items():
        want = rounded(array, dtype) if name in names else array
        np.testing.assert_array_equal(other.get_parameter(name), want, name)
    assert (model.dtype, other.dtype) == ("float32", dtype)
    assert same(copies(model), state)


def test_int8_is_of_the_blocks_with_a_scale_for_each_output() -> None:
    model = model_of()
    other = model.to("int8")
    assert other.dtype == "int8"
    for name, dtype in other._dtypes().items():
        matrix = name.startswith("blocks.") and name in matrices(model.param_shapes())
        assert vitpool.model.dtypes.is_integer(dtype) == matrix, name
        if not matrix:
            continue
        integers, scale = other._integers(name)
        assert (integers.dtype, scale.dtype) == (np.int8, np.float32)
        wide = integers.astype(np.float32) * scale[:, None]
        np.testing.assert_array_equal(other.get_parameter(name), wide)
        assert np.abs(integers).max(1).tolist() == [127] * len(integers)


@pytest.mark.parametrize("dtype", ["int8", "int8_a16"])
def test_integers_are_within_half_a_step(dtype: str) -> None:
    model = model_of()
    other = in_dtype(model, dtype)
    for name in matrices(model.param_shapes()):
        integers, scale = other._integers(name)
        weight = model.get_parameter(name)
        np.testing.assert_array_equal(scale, scales_of(weight))
        step = scale.reshape(-1, *[1] * (weight.ndim - 1))
        off = np.abs(weight - other.get_parameter(name)) / step
        assert integers.shape == weight.shape
        assert off.max() < 0.5 + 1e-4, name


def test_there_and_back_keeps_the_numbers() -> None:
    for dtype in ASKED:
        other = model_of().to(dtype)
        wide = other.to("float32")
        assert set(wide._dtypes().values()) == {"float32"}
        for name in other.param_shapes():
            np.testing.assert_array_equal(
                wide.get_parameter(name), other.get_parameter(name)
            )
        again = in_dtype(wide, dtype) if dtype != "int8" else other.to("int8")
        assert bits(again) == bits(other)


def test_what_is_so_already_is_the_model_itself() -> None:
    for dtype in ("float32", *ASKED):
        model = model_of().to(dtype)
        assert model.to(dtype) is model
        assert model.to("cpu") is model.to() is model
    assert model_of().to("bfloat16").float().dtype == "float32"


def test_dtypes_are_taken_as_names_and_objects() -> None:
    model = small()
    for given in ("bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)):
        assert model.to(given).dtype == "bfloat16"
    for given in ("float16", np.float16, np.dtype("f2")):
        assert model.to(dtype=given).dtype == "float16"
    for given in ("int8", np.int8, np.dtype("i1")):
        assert model.to("cpu", given).dtype == "int8"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("bf16",), ValueError, "'bf16'"),
        (("int8_a16",), ValueError, "int8_a16"),
        (("uint8",), ValueError, "float32, bfloat16, float16, int8"),
        (("cuda",), ValueError, "CPU"),
        ((None, "int8", "cuda:0"), ValueError, "cuda:0"),
        (("int8", "float16"), ValueError, "one dtype"),
    ],
)
def test_another_device_or_dtype_is_refused(
    arguments: Any, error: Any, words: str
) -> None:
    model = small()
    with refused(error, words, model=model):
        model.to(*arguments)


def test_a_change_of_dtype_keeps_all_else() -> None:
    class Own(VisionTransformer):
        """A subclass."""

    model = Own(**BASE, drop_rate=0.1, seed=0)
    model.pretrained_cfg = {"architecture": "x", "tag": "y"}
    model.note = ["mine"]
    state = {k: v for k, v in copies(model).items() if k.startswith("head.")}
    model.load_state_dict(state, strict=False)
    other = model.to("bfloat16")
    assert type(other) is Own
    assert other.pretrained_cfg == model.pretrained_cfg
    assert (other.note, other.drop_rates) == (["mine"], {"drop_rate": 0.1})
    assert other.config == model.config
    assert other.untrained() == model.untrained() != []
    assert "head.weight" not in other.untrained()


@pytest.mark.parametrize("number", [65520.0, -1e6, 3e38])
def test_numbers_that_float16_has_not_are_refused(number: float) -> None:
    model = model_of()
    state = copies(model)
    state[QKV][3, 5] = number
    model.load_state_dict(state)
    with refused(ValueError, QKV, "65504", model=model):
        model.to("float16")
    low = model_of().to("float16")
    with refused(ValueError, QKV, "65504", model=low):
        low.load_state_dict(state)
    assert model.to("float16", keep=QKV).dtype == "float16"
    for least in (65519.0, np.inf, np.nan):
        state[QKV][3, 5] = least
        model.load_state_dict(state)
        model.to("float16")


# -- keep --


@pytest.mark.parametrize(
    ("keep", "wide"),
    [
        ("head", {"head.weight"}),
        (["blocks.1.mlp.fc2.weight"], {"blocks.1.mlp.fc2.weight"}),
        ("blocks.*.mlp.fc2", {f"blocks.{i}.mlp.fc2.weight" for i in (0, 1)}),
        (("blocks.1.attn", "head"), None),
        ("blocks.0.*", None),
        ("blocks.0", None),
        (iter(["attn_pool"]), None),
        ("norm", set()),
    ],
)
def test_what_a_pattern_matches_stays_float32(keep: Any, wide: Any) -> None:
    names = matrices((model := model_of()).param_shapes())
    if wide is None:
        starts = keep if isinstance(keep, tuple) else (keep,)
        starts = ("attn_pool.",) if not isinstance(keep, (str, tuple)) else starts
        wide = {n for n in names if n.startswith(tuple(s.rstrip("*") for s in starts))}
        assert len(wide) >= 3
    dtypes = model.to("bfloat16", keep=keep)._dtypes()
    assert {n for n in names if dtypes[n] == "float32"} == wide


def test_kept_matrices_have_their_own_bits() -> None:
    model = model_of()
    other = model.to("int8", keep="blocks.1.*")
    for name in matrices(model.param_shapes()):
        kept = not name.startswith("blocks.0.")
        equal = np.array_equal(other.get_parameter(name), model.get_parameter(name))
        assert equal == kept, name
    # of what is int8 already, nothing is rounded again
    more = other.to("int8", keep="blocks.0.attn")
    assert more._dtypes()[QKV] == "float32"
    assert more._integers("blocks.0.mlp.fc1.weight")[1].tobytes() == (
        other._integers("blocks.0.mlp.fc1.weight")[1].tobytes()
    )


def test_a_pattern_that_matches_nothing_says_what_comes_near() -> None:
    model = small()
    with refused(ValueError, "'blocks.0.mlp.fc3'", "blocks.0.mlp.fc1", model=model):
        model.to("int8", keep=["head", "blocks.0.mlp.fc3"])
    with refused(ValueError, "'blocks.11.*'", model=model):
        model.to("int8", keep="blocks.11.*")
    with refused(TypeError, "int", model=model):
        model.to("int8", keep=[11])
    with refused(TypeError, "keep must be names, not int", model=model):
        model.to("int8", keep=11)
    with refused(TypeError, "keep", model=model):
        model.to("cpu", keep="head")
    with refused(ValueError, "images", model=model):
        model.to("float16", images=X)


# -- the constructor --


@pytest.mark.parametrize("dtype", ["float32", *ASKED])
def test_a_model_is_built_in_a_dtype_as_converted_to_it(dtype: Any) -> None:
    want = VisionTransformer(**BASE, seed=3).to(dtype)
    model = VisionTransformer(**BASE, seed=3, dtype=dtype)
    assert bits(model) == bits(want)
    assert model.untrained() == want.untrained()
    state = copies(small())
    given = VisionTransformer(**BASE, weights=state, dtype=dtype)
    assert bits(given) == bits(small().to(dtype))
    assert given.untrained() == []


def test_a_model_is_built_from_the_state_dict_of_any_dtype() -> None:
    for dtype in ("float32", *ASKED):
        state = small().to(dtype).state_dict()
        wide = VisionTransformer(**BASE, weights=state)
        assert wide.dtype == "float32"
        same_again = VisionTransformer(**BASE, weights=state, dtype=dtype)
        assert bits(same_again) == bits(small().to(dtype))


def test_what_the_constructor_refuses() -> None:
    with refused(ValueError, "dtype", "'bf16'"):
        VisionTransformer(**BASE, dtype="bf16")
    with refused(TypeError, "dtype", "int"):
        VisionTransformer(**BASE, dtype=8)
    with refused(ValueError, "device", "cuda"):
        VisionTransformer(**BASE, device="cuda")
    assert VisionTransformer(**BASE, device="cpu", seed=0)
    state = small().to("int8").state_dict()
    scale = f"{QKV}_scale"
    with refused(ValueError, "unexpected", "x_scale"):
        VisionTransformer(**BASE, weights=state | {"x_scale": state[scale]})
    del state[scale]
    with refused(TypeError, scale, "missing"):
        VisionTransformer(**BASE, weights=state)


# -- what says it --


def test_memory_is_that_of_the_dtype() -> None:
    model = small(embed_dim=192, depth=4, num_classes=0)
    whole = model.memory_bytes()["weights"]
    for dtype, most in {"bfloat16": 0.53, "float16": 0.53, "int8": 0.30}.items():
        other = in_dtype(model, dtype)
        assert other.memory_bytes()["weights"] < most * whole
    del other
    # what stays is shared, and what goes is freed
    live = _core._allocations()
    other = model.to("bfloat16")
    del other
    assert _core._allocations() == live


def test_a_model_says_its_dtype_and_how_it_computes() -> None:
    model = model_of()
    assert "dtype" not in repr(model)
    for dtype in ASKED:
        other = model.to(dtype)
        says = vitpool.show_config()["dtypes"][dtype]["arithmetic"]
        assert f"dtype={dtype}: {says}" in repr(other)
        assert f"bias=True, dtype={dtype})" in repr(other.blocks[0].mlp.fc1)
        assert dtype in other.summary().facts["dtype"]
        assert says in other.summary().facts["products"]
        assert dtype in str(other.summary())
        assert dtype in other._repr_html_()
    assert model.summary().facts["dtype"] == "float32"
    assert "products" not in model.summary().facts


def test_show_config_says_how_each_dtype_is_computed() -> None:
    config = vitpool.show_config()
    assert list(config["dtypes"]) == ["float32", *KEPT]
    assert config["dtypes"]["float32"]["micro_kernel"] == config["micro_kernel"]
    for dtype, found in config["dtypes"].items():
        kind, _, target = (
            found["micro_kernel"].removeprefix("vp_gemm_").rpartition("__")
        )
        letters = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
        assert kind.split("_")[0].endswith(letters.get(dtype, "s8" + dtype[5:]))
        assert target in config["targets"]
        assert ("integers" in found["arithmetic"]) == dtype.startswith("int8")


def test_a_digest_tells_dtypes_apart() -> None:
    model = small().to("bfloat16").to("float32")
    names = list(model.param_shapes())
    models = [model, *(in_dtype(model, dtype) for dtype in KEPT)]
    assert len({digest(m, names) for m in models}) == len(models)
    assert digest(copy.copy(models[-1]), names) == digest(models[-1], names)


def test_a_difference_tells_what_is_kept_otherwise() -> None:
    model = small().to("bfloat16").to("float32")
    other = model.to("bfloat16")
    found = other.diff(model)
    assert set(found.changed) == set(matrices(model.param_shapes()))
    assert found.dtypes == dict.fromkeys(found.changed, ("float32", "bfloat16"))
    assert set(found.largest.values()) == {0.0}
    assert "head.weight: changed, float32 -> bfloat16" in str(found)
    assert not other.diff(other.snapshot())


# -- changes of a model that is not float32 --


@of_every_dtype
def test_a_new_head_is_float32_and_the_rest_stays(dtype: str) -> None:
    model = in_dtype(model_of(), dtype)
    before = bits(model)
    model.reset_classifier(7)
    dtypes = model._dtypes()
    assert dtypes.pop("head.weight") == "float32"
    assert {*dtypes.values()} == {"float32", dtype}
    kept = bits(model)
    assert all(kept[k] == before[k] for k in before if k[:5] != "head." != k[:5]
               and k != "dtypes")  # fmt: skip
    weight = np.arange(64, dtype=np.float32).reshape(2, 32) / 7
    model.set_head(weight)
    np.testing.assert_array_equal(model.head.weight, weight)


@of_every_dtype
def test_other_changes_keep_dtypes(dtype: str) -> None:
    for change in (
        lambda m: m.set_input_size(48, 8),
        lambda m: m.prune_intermediate_layers([0]),
        lambda m: setattr(m.blocks[0].mlp.fc1, "weight", np.ones((128, 32), "f4")),
        lambda m: m.load_state_dict({"head.bias": np.ones(10, "f4")}, strict=False),
        lambda m: m.reset_classifier(10, "avg"),
    ):
        model = in_dtype(model_of(), dtype)
        before = model._dtypes()
        change(model)
        for name, kept in model._dtypes().items():
            assert kept == before[name] or name == "head.weight", name
        assert np.isfinite(model(np.zeros((1, 3, *model.img_size), np.float32))).all()
    assert model._dtypes()[QKV] == dtype


def test_a_gate_and_its_value_must_be_of_one_dtype() -> None:
    model = small(mlp_layer="SwiGLU")
    with refused(ValueError, "fc1_g.weight", "fc1_x.weight", model=model):
        model.to("bfloat16", keep="*.fc1_g")
    kept = model.to("bfloat16", keep="*.fc1_?")._dtypes()
    assert kept["blocks.0.mlp.fc1_x.weight"] == "float32"


@pytest.mark.parametrize("dtype", ASKED)
def test_without_memory_nothing_has_changed(dtype: str) -> None:
    model = model_of()
    state = model.to(dtype).state_dict()
    held = model.to("float16" if dtype != "float16" else "bfloat16")
    before, live = bits(held), _core._allocations()
    for call in (lambda: model.to(dtype), lambda: held.load_state_dict(state)):
        for after in range(0, 1000, 5):
            assert bits(held) == before
            _core._fail_allocations_after(after)
            try:
                call()
                break
            except MemoryError:
                pass
            finally:
                _core._fail_allocations_after(-1)
            assert _core._allocations() == live
        assert 20 < after < 995
    assert bits(held) != before
