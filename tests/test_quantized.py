# SPDX-License-Identifier: Apache-2.0
"""How int8 models are made: folds that change no bit, and what is planted is found."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import vitpool
from vitpool.model import Eva, VisionTransformer
from vitpool.model.dtypes import in_blocks, matrices
from vitpool.model.folding import folded, folds_of
from vitpool.model.generated import pictures_for
from vitpool.model.noise import Measure
from vitpool.model.quantized import inputs_of, plan_int8, sqnr

SMALL: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4,
    "num_classes": 7, "seed": 3,
}  # fmt: skip
# Blocks, norms and MLPs, and how many norms of a block can be folded.
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "plain": ({}, 2),
    "no bias": ({"qkv_bias": False, "proj_bias": False}, 2),
    "rms": ({"norm_layer": "rmsnorm"}, 2),
    "qk_norm": ({"qk_norm": True}, 2),
    "inner norms": ({"scale_attn_norm": True, "scale_mlp_norm": True}, 4),
    "swiglu": ({"mlp_layer": "swiglu"}, 2),
    "packed": ({"mlp_layer": "swiglupacked"}, 2),
    "packed, inner norm": ({"mlp_layer": "swiglupacked", "scale_mlp_norm": True}, 3),
    "res-post": ({"block_fn": "ResPostBlock"}, 0),
    "parallel things": ({"block_fn": "ParallelThingsBlock"}, 4),
    "parallel": ({"block_fn": "ParallelScalingBlock"}, 1),
    "differential": ({"attn_layer": "diff"}, 2),
    "eva": ({"class": Eva}, 2),
    "eva, three matrices": (
        {"class": Eva, "qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True,
         "scale_attn_inner": True, "use_rot_pos_emb": True},
        4,
    ),
    "eva, shared heads": (
        {"class": Eva, "qkv_fused": False, "attn_type": "rope", "num_kv_heads": 2,
         "qk_norm": True, "use_rot_pos_emb": True},
        2,
    ),
    "eva, norms after": ({"class": Eva, "use_post_norm": True}, 0),
}  # fmt: skip
NOBODY: frozenset[str] = frozenset()


def model_of(options: dict[str, Any] | None = None) -> VisionTransformer:
    """A small model whose norms have gains and biases as trained ones do."""
    given = dict(options or {})
    model = given.pop("class", VisionTransformer)(**SMALL, **given)
    rng = np.random.default_rng(5)
    state = model.state_dict()
    for name, array in state.items():
        if "norm" in name and array.ndim == 1:
            shape = array.shape
            state[name] = np.exp(rng.normal(0, 1, shape)).astype(np.float32)
    model.load_state_dict(state)
    return model


def pictures(n: int = 3) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, 3, 32, 32)).astype(np.float32)


def with_weights(model: Any, weights: dict[str, np.ndarray]) -> Any:
    other = copy.copy(model)
    other._replace(None, weights, (), {})
    return other


@pytest.mark.parametrize("kind", KINDS)
def test_a_fold_changes_no_bit_of_what_float32_computes(kind: str) -> None:
    options, per_block = KINDS[kind]
    model = model_of(options)
    folds = list(folds_of(model))
    assert len(folds) == per_block * SMALL["depth"]
    other = with_weights(model, folded(folds))
    changed = [n for n in model.param_shapes() if n in folded(folds)]
    for name in changed:
        assert not np.array_equal(
            other.get_parameter(name), model.get_parameter(name)
        ), name
    x = pictures()
    assert other(x).tobytes() == model(x).tobytes()
    assert other.forward_features(x).tobytes() == model.forward_features(x).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_of_every_kind_of_block_is_planned(kind: str) -> None:
    model = model_of(KINDS[kind][0])
    dtypes, _ = plan_int8(model, None, NOBODY)
    assert list(dtypes) == in_blocks(matrices(model.param_shapes()))
    assert set(dtypes.values()) <= {"int8", "int8_a16"}
    other = model.to("int8")
    x = pictures()
    got, want = other.forward_features(x), model.forward_features(x)
    assert 0 < np.linalg.norm(got - want) < 0.1 * np.linalg.norm(want)
    assert len(sqnr(model, other)) == len(dtypes)


def test_a_fold_that_would_leave_the_range_of_float32_is_left() -> None:
    model = model_of()
    names = ("blocks.1.norm1.weight", "blocks.1.norm1.bias")
    gain, bias = (model.get_parameter(name).copy() for name in names)
    gain[5], bias[5] = 1.3e-38, 1e6
    other = with_weights(model, dict(zip(names, (gain, bias), strict=True)))
    norms = [fold.norm[0] for fold in folds_of(other)]
    assert "blocks.0.norm1.weight" in norms
    assert "blocks.1.norm1.weight" not in norms


def test_channels_that_are_off_are_not_folded() -> None:
    model = model_of()
    gain = model.get_parameter("blocks.1.norm1.weight").copy()
    bias = model.get_parameter("blocks.1.norm1.bias").copy()
    gain[:3] = bias[:3] = 0
    names = ("blocks.1.norm1.weight", "blocks.1.norm1.bias")
    other = with_weights(model, dict(zip(names, (gain, bias), strict=True)))
    weights = folded(folds_of(other))
    key = "blocks.1.attn.qkv.weight"
    np.testing.assert_array_equal(weights[key][:, :3], model.get_parameter(key)[:, :3])
    assert (
        other(pictures()).tobytes()
        == with_weights(other, weights)(pictures()).tobytes()
    )


# ------------------------------------------------------------------- planted and found


def with_loud_fc2(model: Any) -> Any:
    """fc2 of block 2 gets one enormous input, which it hardly reads."""
    up, bias, down = (
        f"blocks.2.mlp.{name}" for name in ("fc1.weight", "fc1.bias", "fc2.weight")
    )
    state = {name: model.get_parameter(name).copy() for name in (up, bias, down)}
    state[up][9] = 0
    state[bias][9] = 3000
    state[down][:, 9] *= 1e-4
    return with_weights(model, state)


@pytest.mark.parametrize("given", [False, True])
def test_an_outlier_of_fc2_takes_activations_of_16_bits(given: bool) -> None:
    model = with_loud_fc2(model_of())
    images = pictures() if given else None
    dtypes, _ = plan_int8(model, images, NOBODY)
    wide = [name for name, dtype in dtypes.items() if dtype == "int8_a16"]
    assert wide == ["blocks.2.mlp.fc2.weight"]
    other = model.to("int8", images=images)
    assert other.dtype == "int8"
    assert other._dtypes()["blocks.2.mlp.fc2.weight"] == "int8_a16"
    narrow = copy.copy(other)
    narrow._replace(None, {}, (), {wide[0]: "int8"})
    x = pictures()
    errors = [np.linalg.norm(m(x) - model(x)) for m in (other, narrow)]
    assert 4 * errors[0] < errors[1]


def test_the_halves_of_a_swiglu_have_one_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an outlier that both read, and that no fold takes away."""
    monkeypatch.setattr("vitpool.model.quantized.folds_of", lambda model: iter(()))
    model = model_of({"mlp_layer": "swiglu"})
    bias = "blocks.1.norm2.bias"
    halves = [f"blocks.1.mlp.{name}.weight" for name in ("fc1_g", "fc1_x")]
    state = {name: model.get_parameter(name).copy() for name in (bias, *halves)}
    state[bias][7] = 20000
    for name in halves:
        state[name][:, 7] *= 1e-5
    dtypes, _ = plan_int8(with_weights(model, state), None, NOBODY)
    wide = [name for name, dtype in dtypes.items() if dtype == "int8_a16"]
    assert wide == halves


def test_a_model_without_an_outlier_takes_none() -> None:
    assert set(plan_int8(model_of(), None, NOBODY)[0].values()) == {"int8"}


def test_at_most_three_matrices_take_16_bits() -> None:
    model = VisionTransformer(**(SMALL | {"depth": 12}))
    state = {}
    for block in range(4):
        for name in ("fc1.weight", "fc1.bias", "fc2.weight"):
            key = f"blocks.{block}.mlp.{name}"
            state[key] = model.get_parameter(key).copy()
        state[f"blocks.{block}.mlp.fc1.weight"][9] = 0
        state[f"blocks.{block}.mlp.fc1.bias"][9] = 3000 + 500 * block
        state[f"blocks.{block}.mlp.fc2.weight"][:, 9] *= 1e-4
    dtypes, _ = plan_int8(with_weights(model, state), None, NOBODY)
    wide = [name for name, dtype in dtypes.items() if dtype == "int8_a16"]
    assert len(wide) == 3
    assert set(wide) < {f"blocks.{block}.mlp.fc2.weight" for block in range(4)}


def with_huge_gain(model: Any) -> Any:
    """norm2 of block 1 gives one channel a huge gain, and fc1 reads little of it."""
    gain, up = "blocks.1.norm2.weight", "blocks.1.mlp.fc1.weight"
    state = {name: model.get_parameter(name).copy() for name in (gain, up)}
    state[gain][7] = 2000
    state[up][:, 7] *= 1e-4
    return with_weights(model, state)


def test_a_huge_gain_of_a_norm_is_folded_and_the_error_falls() -> None:
    model = with_huge_gain(VisionTransformer(**SMALL))
    dtypes, weights = plan_int8(model, None, NOBODY)
    assert {"blocks.1.norm2.weight", "blocks.1.mlp.fc1.weight"} <= set(weights)
    assert dtypes["blocks.1.mlp.fc1.weight"] == "int8"
    integers = in_blocks(matrices(model.param_shapes()))
    plain = copy.copy(model)
    plain._replace(None, {}, (), dict.fromkeys(integers, "int8"))
    x = pictures()
    errors = [np.linalg.norm(m(x) - model(x)) for m in (model.to("int8"), plain)]
    assert 2 * errors[0] < errors[1]


def test_fresh_weights_are_not_folded() -> None:
    """Fresh norms have gain 1, and fresh columns are alike."""
    assert plan_int8(VisionTransformer(**SMALL), None, NOBODY)[1] == {}


def test_folds_are_those_that_take_noise_away() -> None:
    """Of a model where some do and some do not, as on real weights."""
    model = with_huge_gain(model_of())
    _, weights = plan_int8(model, None, NOBODY)
    measure = Measure(model._snapshot(), pictures_for(model), model)
    helped = []
    for fold in folds_of(model):
        readers = list(fold.readers)
        before, after = (
            sum(measure.noises(readers, "int8", w).values()) for w in ({}, fold.weights)
        )
        helped.append(after < 7 / 8 * before)
        assert (set(fold.weights) <= set(weights)) == helped[-1], fold.norm
    assert 0 < sum(helped) < len(helped)


# ------------------------------------------------------------------------- and the rest


def test_the_same_choice_every_time_on_any_number_of_threads() -> None:
    model = with_huge_gain(with_loud_fc2(model_of()))
    before = vitpool.get_num_threads()
    plans = []
    try:
        for threads in (1, 2, 3):
            vitpool.set_num_threads(threads)
            plans.append(plan_int8(model, None, NOBODY))
    finally:
        vitpool.set_num_threads(before)
    for dtypes, weights in plans[1:]:
        assert dtypes == plans[0][0]
        assert list(weights) == list(plans[0][1])
        for name, array in weights.items():
            assert array.tobytes() == plans[0][1][name].tobytes(), name


def test_pictures_are_the_same_every_time_and_like_normalised_ones() -> None:
    model = model_of()
    x = pictures_for(model)
    assert x.dtype == np.float32
    assert x.shape == (4, 3, 32, 32)
    assert x.tobytes() == pictures_for(model).tobytes()
    np.testing.assert_allclose(x.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std((1, 2, 3)), 1, rtol=1e-5)
    assert len({picture.tobytes() for picture in x}) == 4


def test_pictures_are_few_where_a_model_has_many_tokens() -> None:
    large = VisionTransformer(**(SMALL | {"img_size": (112, 144), "depth": 1}))
    assert pictures_for(large).shape == (2, 3, 112, 144)
    larger = VisionTransformer(**(SMALL | {"img_size": 320, "depth": 1}))
    assert pictures_for(larger).shape == (1, 3, 320, 320)


def test_pictures_are_of_whole_patches_where_the_models_size_is_not() -> None:
    size = {"img_size": (41, 34), "dynamic_img_size": True}
    model = VisionTransformer(**(SMALL | size))
    assert pictures_for(model).shape[2:] == (40, 32)
    assert model.to("int8").dtype == "int8"


def test_what_is_kept_is_not_planned() -> None:
    model = with_loud_fc2(model_of())
    kept = frozenset(n for n in model.param_shapes() if n.startswith("blocks.2."))
    dtypes, _ = plan_int8(model, None, kept)
    assert not kept & set(dtypes)
    assert set(dtypes.values()) == {"int8"}
    everything = frozenset(model.param_shapes())
    assert plan_int8(model, None, everything) == ({}, {})
    other = model.to("int8", keep="blocks.2")
    assert {d for n, d in other._dtypes().items() if n in kept} == {"float32"}


def test_noise_of_a_matrix_is_the_same_beside_any_others() -> None:
    model = model_of()
    measure = Measure(model._snapshot(), pictures(), model)
    names = in_blocks(matrices(model.param_shapes()))
    all_of_them = measure.noises(names, "int8")
    for name in names[::5]:
        assert measure.noises([name], "int8") == {name: all_of_them[name]}


def test_noise_is_measured_on_pictures_one_by_one_or_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of()
    names = in_blocks(matrices(model.param_shapes()))
    together = Measure(model._snapshot(), pictures(5), model).noises(names, "int8")
    monkeypatch.setattr("vitpool.model.noise._NUMBERS", 1)
    alone = Measure(model._snapshot(), pictures(5), model).noises(names, "int8")
    for name in names:
        assert alone[name] == pytest.approx(together[name], rel=1e-5)


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (np.zeros((0, 3, 32, 32), np.float32), ValueError, "at least one"),
        (np.zeros((3, 32, 32), np.float32), ValueError, "images must have shape"),
        (np.full((1, 3, 32, 32), np.nan, np.float32), ValueError, "but 0 have NaN"),
        (np.zeros((1, 3, 33, 32), np.float32), ValueError, "32"),
        ("photos", TypeError, "images"),
    ],
)
def test_images_that_are_none_are_refused(
    images: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        model_of().to("int8", images=images)


def test_pictures_of_another_size_than_the_models_are_measured_on() -> None:
    model = VisionTransformer(**SMALL, dynamic_img_size=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 48, 40)).astype(np.float32)
    assert model.to("int8", images=x).dtype == "int8"


def test_a_model_without_blocks_has_nothing_to_plan() -> None:
    model = VisionTransformer(**(SMALL | {"depth": 0}))
    assert plan_int8(model, None, NOBODY) == ({}, {})


def test_calibrated_on_a_hundred_pictures_16_are_measured_on() -> None:
    model = with_loud_fc2(model_of())
    x = pictures(100)
    given = plan_int8(model, x, NOBODY)
    some = plan_int8(model, x[np.arange(16) * 100 // 16], NOBODY)
    assert given[0] == some[0]
    assert list(given[1]) == list(some[1])


def test_of_a_large_model_fewer_pictures_are_measured_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of()
    one = 16 * SMALL["embed_dim"] * (SMALL["depth"] + 1)
    monkeypatch.setattr("vitpool.model.quantized._MOST_NUMBERS", 3 * one)
    x = pictures(10)
    assert inputs_of(model, x).tobytes() == x[[0, 3, 6]].tobytes()
    monkeypatch.setattr("vitpool.model.quantized._MOST_NUMBERS", 1)
    assert inputs_of(model, x).tobytes() == x[:1].tobytes()


def test_three_more_bits_are_18_db_where_float32_multiplies() -> None:
    """float16 against bfloat16, of which only the weights are rounded on such a unit;
    where a unit multiplies bfloat16, its activations are rounded as well."""
    model = model_of()
    fine, coarse = (
        np.median(list(sqnr(model, model.to(dtype)).values()))
        for dtype in ("float16", "bfloat16")
    )
    assert 15 < fine - coarse < 24
