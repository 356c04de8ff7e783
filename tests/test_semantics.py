# SPDX-License-Identifier: Apache-2.0
"""What reset_classifier, pool and the constructor do, case by case.

`row` in a test's name is the case's number in docs and comments: 1 to 20 are
reset_classifier, 21 to 27 construction and pooling. Where timm 1.0.31 differs, it says
so. tests/timm/test_semantics_live.py runs the same rows beside timm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import BASE, X, copies, refused, same, small, unchanged

import vitpool

POOLS = ("avg", "avgmax", "max", "token", "map", "prr")


class Index:
    """An integer by __index__ alone."""

    def __index__(self) -> int:
        return 5


def weights_of(model: Any, prefix: str) -> dict[str, np.ndarray]:
    return {k: v for k, v in copies(model).items() if k.startswith(prefix)}


def all_but_head(model: Any) -> dict[str, np.ndarray]:
    return {k: v for k, v in copies(model).items() if not k.startswith("head.")}


def twin(model: Any, **options: Any) -> Any:
    """A model built with `options` around the weights of `model`."""
    return vitpool.VisionTransformer(**BASE | options, weights=copies(model))


def test_assertions_run_under_python_O_too() -> None:
    with pytest.raises(AssertionError):
        assert not X.size


# reset_classifier


def test_row1_map_is_retained_without_class_token() -> None:
    model = small(global_pool="map", class_token=False)
    pool, before = model.attn_pool, all_but_head(model)
    model.reset_classifier(5, "map")
    assert model.attn_pool is pool
    assert same(all_but_head(model), before)
    assert model(X).shape == (2, 5)
    assert (model.num_classes, model.global_pool) == (5, "map")


@pytest.mark.parametrize(
    ("arguments", "width"), [((5,), 5), ((5, None), 5), ((0, "map"), 32), ((0,), 32)]
)
def test_row2_map_is_retained_by_default(arguments: Any, width: int) -> None:
    model = small(global_pool="map")
    pool, before = model.attn_pool, all_but_head(model)
    model.reset_classifier(*arguments)
    assert model.attn_pool is pool
    assert same(all_but_head(model), before)
    assert model(X).shape == (2, width)
    assert model.global_pool == "map"


def test_attn_pool_is_one_object_with_one_set_of_weights() -> None:
    model = small(global_pool="map")
    pool = model.attn_pool
    latent = np.array(pool.latent)
    for classes in (7, 7, 0, 3):
        model.reset_classifier(classes, "map")
        assert model.attn_pool is pool
        np.testing.assert_array_equal(model.attn_pool.latent, latent)


def test_row3_map_to_avg_drops_the_pool_and_leaves_the_norm() -> None:
    model = small(global_pool="map")
    model.reset_classifier(5, "avg")
    assert model.attn_pool is None
    keys = list(model.state_dict())
    assert "norm.weight" in keys
    assert not [k for k in keys if k.startswith(("attn_pool.", "fc_norm."))]
    other = twin(model, global_pool="avg", fc_norm=False, num_classes=5)
    np.testing.assert_array_equal(model(X), other(X))


def test_row4_no_way_back_to_map_unless_asked() -> None:
    model = small(global_pool="map")
    trained = model.attn_pool
    before = weights_of(model, "attn_pool.")
    model.reset_classifier(5, "avg")
    words = ("global_pool", "'map'", "add_attn_pool")
    with refused(ValueError, *words, model=model):
        model.reset_classifier(6, "map")
    kept = all_but_head(model)
    model.reset_classifier(6, "map", add_attn_pool=True)
    assert model.attn_pool is not None
    assert model.attn_pool is not trained
    fresh = weights_of(model, "attn_pool.")
    assert {k: v.shape for k, v in fresh.items()} == {
        k: v.shape for k, v in before.items()
    }
    latent = fresh["attn_pool.latent"]
    assert (latent != before["attn_pool.latent"]).any()
    assert 0.5 < latent.std() * 32**0.5 < 1.5
    assert not fresh["attn_pool.q.bias"].any()
    assert (fresh["attn_pool.norm.weight"] == 1).all()
    assert 0.015 < fresh["attn_pool.kv.weight"].std() < 0.025
    after = copies(model)
    assert all((after[key] == value).all() for key, value in kept.items())
    assert model(X).shape == (2, 6)
    other = twin(model, global_pool="map", num_classes=6)
    np.testing.assert_array_equal(model(X), other(X))


@pytest.mark.parametrize("pool", ["map", "avg"])
@pytest.mark.parametrize("add", [False, True])
def test_row5_token_needs_the_class_token(pool: str, add: bool) -> None:
    model = small(global_pool=pool, class_token=False)
    with refused(ValueError, "global_pool", "'token'", "class token", model=model):
        model.reset_classifier(5, "token", add_attn_pool=add)


@pytest.mark.parametrize(("old", "new"), [("map", "prr"), ("prr", "map")])
def test_row6_one_attention_pool_does_not_become_the_other(old: str, new: str) -> None:
    model = small(global_pool=old)
    with refused(ValueError, "global_pool", repr(new), "add_attn_pool", model=model):
        model.reset_classifier(5, new)
    model.reset_classifier(5, new, add_attn_pool=True)
    assert model.global_pool == new
    other = twin(model, global_pool=new, num_classes=5)
    np.testing.assert_array_equal(model(X), other(X))


@pytest.mark.parametrize("pool", ["map", "token"])
@pytest.mark.parametrize(
    "name", ["map ", " map", "MAP", "gem", "Avg", "mean", "\0", "é"]
)
def test_row7_unknown_pools(pool: str, name: str) -> None:
    model = small(global_pool=pool)
    words = ["global_pool", *(repr(p) for p in POOLS)]
    with refused(ValueError, *words, model=model):
        model.reset_classifier(5, name)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("map ", "map"),
        (" map", "map"),
        ("MAP", "map"),
        ("Avg", "avg"),
        ("prr ", "prr"),
    ],
)
def test_row7_a_near_miss_is_told_what_was_probably_meant(
    wrong: str, meant: str
) -> None:
    model = small(global_pool="map")
    with pytest.raises(ValueError, match="global_pool") as raised:
        model.reset_classifier(5, wrong)
    assert repr(wrong) in str(raised.value)
    assert f"did you mean {meant!r}" in str(raised.value).lower()


@pytest.mark.parametrize("pool", ["map", "token"])
@pytest.mark.parametrize("value", [0, False, b"avg", ["avg"], 1.5, ("map",), object()])
def test_row7_a_pool_that_is_no_string(pool: str, value: object) -> None:
    model = small(global_pool=pool)
    kind = type(value).__name__
    with refused(TypeError, "global_pool", kind, model=model):
        model.reset_classifier(5, value)


@pytest.mark.parametrize("old", ["token", "avg", ""])
@pytest.mark.parametrize("new", ["map", "prr"])
def test_row8_an_attention_pool_is_added_only_when_asked(old: str, new: str) -> None:
    model = small(global_pool=old)
    with refused(ValueError, "global_pool", repr(new), "add_attn_pool", model=model):
        model.reset_classifier(5, new)
    fc_norm = old == "avg"
    model.reset_classifier(5, new, add_attn_pool=True)
    other = twin(model, global_pool=new, num_classes=5, fc_norm=fc_norm)
    np.testing.assert_array_equal(model(X), other(X))


def test_add_attn_pool_keeps_a_pool_that_is_there() -> None:
    model = small(global_pool="map")
    pool, before = model.attn_pool, all_but_head(model)
    model.reset_classifier(5, "map", add_attn_pool=True)
    assert model.attn_pool is pool
    assert same(all_but_head(model), before)


def test_add_attn_pool_is_by_keyword_only() -> None:
    model = small()
    with refused(TypeError, model=model):
        model.reset_classifier(5, "map", True)


def test_row9_none_is_no_number_of_classes() -> None:
    model = small(global_pool="map")
    pool = model.attn_pool
    with refused(TypeError, "num_classes", "NoneType", model=model):
        model.reset_classifier(None, "avg")
    assert model.attn_pool is pool


@pytest.mark.parametrize("classes", [-3, -1, -(2**31), -(2**70)])
def test_row10_negative_classes(classes: int) -> None:
    model = small()
    with refused(ValueError, "num_classes", classes, model=model):
        model.reset_classifier(classes)


@pytest.mark.parametrize("value", [True, False, np.True_, 5.0, "5", [5], 5j])
def test_row11_classes_are_an_integer_and_no_bool(value: object) -> None:
    model = small()
    with refused(TypeError, "num_classes", type(value).__name__, model=model):
        model.reset_classifier(value)


@pytest.mark.parametrize(
    "value", [np.int64(5), np.uint8(5), np.int32(5), Index(), np.array(5)]
)
def test_an_integer_is_what_has_index(value: object) -> None:
    model = small()
    model.reset_classifier(value)
    assert type(model.num_classes) is int
    assert model.num_classes == 5
    assert model(X).shape == (2, 5)


@pytest.mark.parametrize("classes", [2**44, 2**62, 2**63, 2**70])
def test_more_classes_than_memory(classes: int) -> None:
    model = small(global_pool="map")
    with unchanged(model):
        with pytest.raises((MemoryError, ValueError)):
            model.reset_classifier(classes, "avg")


def test_row12_token_to_avg_does_not_move_the_norm() -> None:
    model = small()
    model.reset_classifier(5, "avg")
    other = twin(model, global_pool="avg", fc_norm=False, num_classes=5)
    np.testing.assert_array_equal(model(X), other(X))
    assert "norm.weight" in model.state_dict()
    assert "fc_norm.weight" not in model.state_dict()


def test_row13_avg_to_token_equals_a_token_model() -> None:
    model = small(global_pool="avg")
    model.reset_classifier(0, "token")
    assert "fc_norm.weight" in model.state_dict()
    weights = copies(model)
    for last in ("weight", "bias"):
        weights[f"norm.{last}"] = weights.pop(f"fc_norm.{last}")
    token = vitpool.VisionTransformer(**BASE | {"num_classes": 0}, weights=weights)
    np.testing.assert_array_equal(model(X), token(X))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_row14_no_pool(pool: str) -> None:
    model = small(global_pool=pool)
    model.reset_classifier(0, "")
    out, tokens = model(X), model.forward_features(X)
    assert out.shape == (2, 5, 32)
    # With avg the norm is fc_norm, which is in the head.
    assert np.array_equal(out, tokens) == (pool == "token")


def test_row15_no_pool_is_kept_and_gives_logits_per_token() -> None:
    model = small()
    model.reset_classifier(0, "")
    model.reset_classifier(5)
    assert model.global_pool == ""
    assert model(X).shape == (2, 5, 5)


@pytest.mark.parametrize("include", [False, True])
def test_row16_prr_gives_pool_include_prefix_back(include: bool) -> None:
    """timm leaves it True after prr, so that avg takes the class token in."""
    model = small(global_pool="prr", pool_include_prefix=include)
    model.reset_classifier(0, "avg")
    tokens = model.forward_features(X)
    mean = (tokens if include else tokens[:, 1:]).mean(axis=1)
    np.testing.assert_allclose(model(X), mean, rtol=1e-5, atol=1e-6)
    options = {"global_pool": "avg", "fc_norm": False, "num_classes": 0}
    other = twin(model, pool_include_prefix=include, **options)
    np.testing.assert_array_equal(model(X), other(X))


@pytest.mark.parametrize("include", [False, True])
def test_pool_of_a_prr_model_goes_by_the_pool_that_is_asked_for(include: bool) -> None:
    """prr takes the prefix tokens in whatever the option says; others do not."""
    model = small(global_pool="prr", pool_include_prefix=include)
    tokens = model.forward_features(X)
    for pool in ("avg", "max", "avgmax"):
        other = small(global_pool=pool, pool_include_prefix=include)
        np.testing.assert_array_equal(model.pool(tokens, pool), other.pool(tokens))


def test_row17_prr_is_retained() -> None:
    model = small(global_pool="prr")
    pool = model.attn_pool
    assert pool is not None
    model.reset_classifier(5, "prr")
    assert model.attn_pool is pool
    assert model(X).shape == (2, 5)


def test_row18_an_equal_number_of_classes_makes_a_new_head() -> None:
    model = vitpool.VisionTransformer(
        **BASE | {"embed_dim": 384, "num_heads": 6, "num_classes": 1000}, seed=3
    )
    before, heads = all_but_head(model), [np.array(model.head.weight)]
    for seed in (None, None, 7, 8, 7):
        model.reset_classifier(1000, seed=seed)
        heads.append(np.array(model.head.weight))
    assert same(all_but_head(model), before)
    for i, head in enumerate(heads[:-1]):
        for other in heads[i + 1 :]:
            assert (head == other).all() == (head is heads[3] and other is heads[5])


def test_row19_map_with_fc_norm_keeps_it() -> None:
    model = small(global_pool="map", fc_norm=True)
    before = weights_of(model, "fc_norm.")
    assert len(before) == 2
    model.reset_classifier(5, "avg")
    assert model.attn_pool is None
    assert same(weights_of(model, "fc_norm."), before)
    assert not weights_of(model, "norm.")
    other = twin(model, global_pool="avg", num_classes=5)
    np.testing.assert_array_equal(model(X), other(X))


def test_row20_no_norm_anywhere() -> None:
    model = small(global_pool="max", final_norm=False)
    model.reset_classifier(5, "avgmax")
    keys = model.state_dict().keys()
    assert not [k for k in keys if k.startswith(("norm.", "fc_norm."))]
    patches = model.forward_features(X)[:, 1:]
    half = 0.5 * (patches.max(axis=1) + patches.mean(axis=1))
    got = model.forward_head(model.forward_features(X), pre_logits=True)
    np.testing.assert_allclose(got, half, rtol=1e-5, atol=1e-6)


# construction and pooling


def test_row21_the_default_pool_needs_the_class_token() -> None:
    with refused(ValueError, "global_pool", "'token'", "class token"):
        vitpool.VisionTransformer(**BASE, class_token=False)


@pytest.mark.parametrize("name", ["gem", "map ", "MAP"])
def test_row21_an_unknown_pool_is_refused_at_construction(name: str) -> None:
    with refused(ValueError, "global_pool", repr(name), *(repr(p) for p in POOLS)):
        vitpool.VisionTransformer(**BASE, global_pool=name)


@pytest.mark.parametrize("value", [None, 0, False, b"avg", ["avg"]])
def test_row21_a_pool_that_is_no_string_at_construction(value: object) -> None:
    with refused(TypeError, "global_pool", type(value).__name__):
        vitpool.VisionTransformer(**BASE, global_pool=value)


def test_row22_an_override_is_honoured_beside_a_map_pool() -> None:
    """timm ignores it and runs the attention pool."""
    model = small(global_pool="map", reg_tokens=1)
    tokens = model.forward_features(X)
    patches = tokens[:, 2:]
    np.testing.assert_array_equal(model.pool(tokens, "token"), tokens[:, 0])
    np.testing.assert_array_equal(model.pool(tokens, ""), tokens)
    np.testing.assert_array_equal(model.pool(tokens, "max"), patches.max(axis=1))
    mean = patches.mean(axis=1)
    np.testing.assert_allclose(model.pool(tokens, "avg"), mean, rtol=1e-5, atol=1e-6)
    pooled = model.pool(tokens)
    np.testing.assert_array_equal(model.pool(tokens, "map"), pooled)
    np.testing.assert_array_equal(model.pool(tokens, None), pooled)


@pytest.mark.parametrize(
    ("pool", "override"),
    [
        ("token", "map"),
        ("token", "prr"),
        ("avg", "map"),
        ("map", "prr"),
        ("prr", "map"),
    ],
)
def test_row23_an_attention_pool_that_is_not_there(pool: str, override: str) -> None:
    model = small(global_pool=pool)
    tokens = model.forward_features(X)
    with refused(ValueError, "pool_type", repr(override), model=model):
        model.pool(tokens, override)


@pytest.mark.parametrize("value", ["gem", "map ", "MAP"])
def test_row23_an_unknown_override(value: str) -> None:
    model = small()
    with refused(ValueError, "pool_type", repr(value), "'avgmax'", model=model):
        model.pool(model.forward_features(X), value)


@pytest.mark.parametrize("value", [0, False, b"avg", ["avg"]])
def test_row23_an_override_that_is_no_string(value: object) -> None:
    model = small()
    with refused(TypeError, "pool_type", type(value).__name__, model=model):
        model.pool(model.forward_features(X), value)


@pytest.mark.parametrize("pool", ["avg", "map", "prr", ""])
def test_row24_token_override_needs_the_class_token(pool: str) -> None:
    """timm does not look, and returns the first patch (or register)."""
    model = small(global_pool=pool, class_token=False)
    tokens = model.forward_features(X)
    with refused(ValueError, "pool_type", "'token'", "class token", model=model):
        model.pool(tokens, "token")


def test_row25_map_leaves_prefix_tokens_out() -> None:
    model = small(global_pool="map", reg_tokens=2)
    tokens = model.forward_features(X)
    other = tokens.copy()
    other[:, :3] = 1e3
    np.testing.assert_array_equal(model.pool(tokens), model.pool(other))


@pytest.mark.parametrize("pool", ["avg", "avgmax", "max"])
def test_the_mean_and_the_maximum_leave_prefix_tokens_out(pool: str) -> None:
    model = small(global_pool=pool, reg_tokens=2)
    tokens = model.forward_features(X)
    other = tokens.copy()
    other[:, :3] = 1e3
    np.testing.assert_array_equal(model.pool(tokens), model.pool(other))


def test_row26_prr_without_class_token_averages_registers_in() -> None:
    model = small(global_pool="prr", class_token=False, reg_tokens=2)
    tokens = model.forward_features(X)
    # (B, H, N, D): the tokens are query, key and value at once.
    heads = tokens.reshape(2, 6, 2, 16).transpose(0, 2, 1, 3).astype(np.float64)
    scores = heads @ heads.transpose(0, 1, 3, 2) / 4
    attention = np.exp(scores - scores.max(axis=-1, keepdims=True))
    attention /= attention.sum(axis=-1, keepdims=True)
    refined = (attention @ heads).transpose(0, 2, 1, 3).reshape(2, 6, 32)
    got = model.pool(tokens)
    np.testing.assert_allclose(got, refined.mean(axis=1), rtol=1e-5, atol=1e-5)


def test_row27_with_avg_intermediates_have_no_norm_to_apply() -> None:
    model = small(global_pool="avg", depth=2)
    plain = model.forward_intermediates(X, norm=False, intermediates_only=True)
    normed = model.forward_intermediates(X, norm=True, intermediates_only=True)
    for a, b in zip(plain, normed, strict=True):
        np.testing.assert_array_equal(a, b)


# any sequence of calls


def test_configuration_after_calls_rebuilds_the_model() -> None:
    for options, calls in (
        ({"global_pool": "map"}, [(5, "avg")]),
        ({"global_pool": "map", "fc_norm": True}, [(0, "map")]),
        ({"global_pool": "avg"}, [(0, "token"), (3, "")]),
        ({"global_pool": "prr"}, [(0, "avg")]),
        ({}, [(5, "max")]),
    ):
        model = small(**options)
        for call in calls:
            model.reset_classifier(*call)
        config = model.config
        other = vitpool.VisionTransformer(**config, weights=copies(model))
        assert other.config == config
        np.testing.assert_array_equal(model(X), other(X))


@pytest.mark.parametrize("pool", ["", *POOLS])
def test_a_new_head_is_initialised_as_the_constructors(pool: str) -> None:
    """In timm it is as torch's nn.Linear draws itself: 0.07 wide here, and its bias."""
    model = small(global_pool=pool, embed_dim=64)
    model.reset_classifier(1000)
    weight, bias = np.array(model.head.weight), np.array(model.head.bias)
    assert abs(weight.std() / 0.02 - 1) < 0.05
    assert abs(weight.mean()) < 0.001
    assert not bias.any()


def test_arrays_taken_before_a_reset_stay_as_they_were() -> None:
    model = small(global_pool="map")
    pool, head = model.attn_pool, model.head
    taken = [pool.latent, pool.kv.weight, head.weight, head.bias]
    kept = [np.array(a) for a in taken]
    model.reset_classifier(3, "avg")
    model(X)
    del pool, head
    for a, b in zip(taken, kept, strict=True):
        np.testing.assert_array_equal(a, b)
