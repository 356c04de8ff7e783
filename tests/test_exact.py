# SPDX-License-Identifier: Apache-2.0
"""A model in float64: the exact answer, with which two float32 results are judged."""

from __future__ import annotations

import math
import tracemalloc
import warnings
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from concepts import CONCEPTS, small_of
from configurations import configuration, input_size
from dice import Dice, examples
from golden import recipe
from models import X, small
from test_golden import CASES, build

import vitpool
from vitpool.testing.comparison import float64 as f64
from vitpool.testing.comparison.exact import ExactVit
from vitpool.testing.comparison.ours import Ours

# Goldens are stored with 32 bits after the point.
STORED = 2.0**-32
# Two orders of a sum in float64, of the largest number.
ROUNDING = 1e-12
# A stage alone in float32, of the largest number.
FLOAT32 = 1e-5


def stages(side: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    return dict(side.stages(images))


def views(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """forward, forward_features and pre_logits of a pass."""
    names = list(found)
    before = names.index("pool") - 1
    logits = names[-1] == "head"
    return {
        "forward": found[names[-1]],
        "pre_logits": found[names[-2 if logits else -1]],
        "forward_features": found[names[before]],
    }


# What a side is asked for has no mask and is one forward pass. The calls after loading
# are set_input_size, which resamples weights: those are rounded to float32 for good.
PLAIN = [
    name
    for name, record in CASES.items()
    if not {"mask", "is_causal", "views", "calls_after"} & set(record)
]


@pytest.mark.parametrize("name", PLAIN)
def test_it_is_timms_float64(name: str) -> None:
    record = CASES[name]
    found = views(stages(ExactVit(build(record)), recipe.inputs(record)["x"]))
    for path, want in recipe.outputs(record).items():
        got = found[path]
        assert got.dtype == np.float64
        assert got.shape == want.shape
        finite = np.isfinite(want)
        largest = np.abs(want[finite]).max(initial=0)
        np.testing.assert_allclose(got, want, STORED, ROUNDING * largest, err_msg=path)


@pytest.mark.parametrize("name", [n for n in CONCEPTS if "naflex" not in n])
def test_every_class_can_be_had_in_float64(name: str) -> None:
    model, x = small_of(name), recipe.picture((2, 3, 32, 48))
    for images in [x, recipe.picture((1, 3, 64, 32))][: 1 + model.dynamic_img_size]:
        rounded, exact = Ours(model).stages(images), ExactVit(model).stages(images)
        given, last = None, images
        for stage, got in rounded:
            same, want = exact.send(given)
            assert same == stage
            largest = np.abs(want).max()
            np.testing.assert_allclose(got, want, FLOAT32, FLOAT32 * largest)
            given = last = got
        with pytest.raises(StopIteration):
            exact.send(given)
        np.testing.assert_allclose(last, model(images), FLOAT32, FLOAT32)


def test_what_cannot_be_had_in_float64_says_so() -> None:
    model = vitpool.NaFlexVit(depth=1, embed_dim=32, num_heads=2, patch_size=8, seed=0)
    with pytest.raises(TypeError, match="NaFlexVit cannot be had in float64"):
        ExactVit(model)


@pytest.mark.parametrize("example", examples(60))
def test_each_stage_is_ours_but_for_rounding(example: int) -> None:
    """Each from the same input, so that no rounding is carried on."""
    dice = Dice("exact", example)
    options, seed = configuration(dice), dice.integer(0, 2**32)
    print(f"options = {options!r}, seed = {seed}")
    shapes = vitpool.VisionTransformer(**options, seed=0).param_shapes()
    model = vitpool.VisionTransformer(**options, weights=recipe.weights(shapes, seed))
    x = recipe.picture((2, *input_size(options)), seed)
    rounded = Ours(model).stages(x)
    instead = None
    for name, exact in ExactVit(model).stages(x):
        same, got = rounded.send(instead)
        assert same == name
        assert got.shape == exact.shape
        assert np.abs(got - exact).max() <= FLOAT32 * np.abs(exact).max()
        instead = exact.astype(np.float32)
    with pytest.raises(StopIteration):
        rounded.send(instead)


def test_what_is_sent_stands_for_the_output() -> None:
    model = small(depth=3)
    side = ExactVit(model)
    whole = stages(side, X)
    run = side.stages(X)
    for name in whole:
        got, _ = run.send(None)
        assert got == name
        if name == "blocks.1.attn":
            break
    twice = 2 * whole["blocks.1.attn"]
    name, out = run.send(twice)
    assert name == "blocks.1.mlp"
    want = model.blocks[1]
    twice32 = twice.astype(np.float32)
    alone = twice32 + want.mlp(want.norm2(twice32))
    assert np.abs(out - alone).max() < FLOAT32 * np.abs(out).max()
    name, out = run.send(whole["blocks.1.mlp"])
    assert np.array_equal(out, whole["blocks.2.attn"])


def test_it_is_of_the_model_as_it_was() -> None:
    model = small()
    side = ExactVit(model)
    before = stages(side, X)
    model.reset_classifier(3, "avg")
    model.load_state_dict({"cls_token": np.ones((1, 1, 32))}, strict=False)
    after = stages(side, X)
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_it_has_what_a_side_has() -> None:
    model = small(global_pool="avg")
    side, ours = Ours(model).exact(), Ours(model)
    assert isinstance(side, ExactVit)
    assert side.exact() is side
    assert side.name == ours.name
    assert side.input_size == (3, 32, 32)
    assert side.facts() == ours.facts()
    assert list(side.parameters()) == list(model.param_shapes())
    drawn, again = (s.drawn(4).exact() for s in (side, ours))
    assert isinstance(drawn, ExactVit)
    one, other = stages(drawn, X), stages(again, X)
    assert all(np.array_equal(one[name], other[name]) for name in other)
    assert not np.array_equal(one["head"], stages(side, X)["head"])


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="this model takes 32 x 32"):
        next(ExactVit(small()).stages(X[:, :, :16]))


@pytest.mark.parametrize("spoil", [np.nan, np.inf, 1e300])
def test_numbers_of_any_kind_pass_without_a_warning(spoil: float) -> None:
    x = X.astype(np.float64)
    x[1, 0, 0, 0] = spoil
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = stages(ExactVit(small(act_layer="silu")), x)["head"]
    assert np.isfinite(out[0]).all()


def test_no_more_than_one_heads_scores_are_in_memory() -> None:
    model = small(img_size=512, embed_dim=32, num_heads=8)
    tokens = 32 * 32 + 1
    x = recipe.picture((2, 3, 512, 512))
    run = ExactVit(model).stages(x)
    for name, _ in run:
        if name == "pos_embed":
            break
    tracemalloc.start()
    next(run)  # attention
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * tokens * tokens * 8  # of 16 heads


def exact_erfc(x: float) -> Decimal:
    """1 - erf(x) by erf's series, with digits enough for what cancels."""
    with localcontext() as context:
        context.prec = 120
        number, pi = Decimal(x), Decimal(PI)
        term = total = number
        for n in range(1, 900):
            term *= -number * number / n
            total += term / (2 * n + 1)
        return 1 - 2 * total / pi.sqrt()


PI = (
    "3.14159265358979323846264338327950288419716939937510582097494459230781640628620"
    "899862803482534211706798214808651"
)


@pytest.mark.parametrize("x", [*np.linspace(-12, 9, 43), 1e-300, -1e-9, 0.0])
def test_gelu_is_right_to_its_last_digits(x: float) -> None:
    """Where 1 + erf cancels too."""
    point = np.array([x])
    got = float(f64.ACTIVATIONS["gelu"](point)[0])
    arg = -x * math.sqrt(0.5)
    want = Decimal(float(x)) / 2 * exact_erfc(arg)
    # Of the argument a rounding is more: erfc'(a) / erfc(a) is about -2 a.
    allowed = Decimal(4e-16 * (1 + 2 * arg * arg))
    assert abs(Decimal(got) - want) <= allowed * abs(want)


def test_the_complement_of_erf_is_right_to_1e_15() -> None:
    points = np.concatenate([np.linspace(-5, 8, 131), [0.0, 1e-300, -1e-9]])
    for x, got in zip(points.tolist(), f64.erfc(points).tolist(), strict=True):
        want = exact_erfc(x)
        assert abs(Decimal(got) - want) <= Decimal("1e-15") * want
