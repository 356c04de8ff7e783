# SPDX-License-Identifier: Apache-2.0
"""`vitpool.quantize` and what `compare` says of a model in two dtypes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_quantized import SMALL, model_of, pictures, with_loud_fc2, with_weights

import vitpool
from vitpool.model import VisionTransformer
from vitpool.model.quantized import sqnr
from vitpool.testing.comparison.precision import agreement
from vitpool.transforms import preprocess

SAMPLES = list(vitpool.samples())


def cosines(model: Any, other: Any, x: np.ndarray) -> np.ndarray:
    """Of the pooled features of each picture."""
    a, b = (
        m.forward_head(m.forward_features(x), pre_logits=True).astype(np.float64)
        for m in (model, other)
    )
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_the_report_says_what_the_models_give() -> None:
    model, x = model_of(), pictures(5)
    found = vitpool.quantize(model, images=x)
    other, report = found.model, found.report
    assert other.dtype == "int8"
    assert model.dtype == "float32"
    want = cosines(model, other, x)
    assert report.features.cosine == pytest.approx(want.mean(), abs=1e-9)
    assert report.features.worst_cosine == pytest.approx(want.min(), abs=1e-9)
    assert report.features.worst == f"picture {want.argmin()}"
    ours, theirs = model(x), other(x)
    errors = np.linalg.norm(theirs - ours, axis=1) / np.linalg.norm(ours, axis=1)
    assert report.logits is not None
    assert report.logits.error == pytest.approx(errors.mean(), rel=1e-5)
    assert report.logits.worst_error == pytest.approx(errors.max(), rel=1e-5)
    assert report.top1 == (ours.argmax(1) == theirs.argmax(1)).sum()
    assert report.pictures == 5
    sizes = [m.memory_bytes()["weights"] for m in (model, other)]
    assert report.bytes == tuple(sizes)
    assert all(seconds > 0 for seconds in report.seconds)
    layers = {name: db for name, _, db in report.layers}
    assert layers == sqnr(model, other, x[:4])
    assert list(layers.values()) == sorted(layers.values())


def test_the_report_is_text_and_json() -> None:
    found = vitpool.quantize(model_of(), images=pictures())
    lines = str(found).splitlines()
    assert lines[0].startswith("float32 -> int8: 16 matrices")
    assert lines[1].split() == [
        "cosine,", "mean", "worst", "error,", "mean", "worst", "worst", "picture",
    ]  # fmt: skip
    assert lines[3].startswith("pooled features  0.99")
    assert lines[4].startswith("logits           0.99")
    assert f"top-1 agrees on {found.report.top1} of 3" in lines
    assert sum("blocks." in line for line in lines) == 8
    assert lines[-1] == "and 8 with less noise"
    told = json.loads(json.dumps(found.report.to_dict()))
    assert told["features"]["worst_cosine"] == found.report.features.worst_cosine
    assert told["layers"][0] == list(found.report.layers[0])
    assert told["bytes"] == list(found.report.bytes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_reported_too(dtype: str) -> None:
    found = vitpool.quantize(model_of(), dtype, images=pictures())
    assert found.model.dtype == dtype
    assert found.report.candidate == dtype
    assert found.report.features.worst_cosine > 0.9999
    assert {kept for _, kept, _ in found.report.layers} == {dtype}


def test_files_are_named_and_prepared_as_the_model_says() -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    found = vitpool.quantize(model, images=SAMPLES)
    assert found.report.pictures == len(SAMPLES)
    assert found.report.features.worst in map(str, SAMPLES)
    assert found.report.top1 == len(SAMPLES)
    same = vitpool.quantize(model, images=preprocess(SAMPLES, model))
    assert same.report.features.cosine == found.report.features.cosine


def test_a_model_without_a_head_or_a_pool_has_no_logits() -> None:
    model = VisionTransformer(**(SMALL | {"num_classes": 0, "global_pool": ""}))
    report = vitpool.quantize(model).report
    assert report.logits is None
    assert report.top1 is None
    assert 0.9 < report.features.worst_cosine < 1


def test_dense_logits_have_no_first_class() -> None:
    model = VisionTransformer(**(SMALL | {"global_pool": ""}))
    report = vitpool.quantize(model).report
    assert report.top1 is None
    assert report.logits is not None


def test_a_model_without_blocks_is_reported_too() -> None:
    model = VisionTransformer(**(SMALL | {"depth": 0}))
    report = vitpool.quantize(model, "bfloat16").report
    assert report.layers == ()
    assert 0.999 < report.features.worst_cosine <= 1  # 1 where roundings agree
    found = vitpool.compare(model, model.to("bfloat16"))
    assert found.precision is not None


def test_a_model_of_nan_is_quantized_and_reported() -> None:
    model = model_of()
    weight = model.get_parameter("blocks.1.mlp.fc1.weight").copy()
    weight[3, 4] = np.nan
    found = vitpool.quantize(with_weights(model, {"blocks.1.mlp.fc1.weight": weight}))
    assert math.isnan(found.report.features.worst_cosine)
    assert json.loads(json.dumps(found.report.to_dict()))["features"]["cosine"] is None


def test_what_is_kept_stays_to_the_bit() -> None:
    model = model_of()
    other = vitpool.quantize(model, keep=["blocks.3", "blocks.*.mlp.fc2"]).model
    kept = {n for n, d in other._dtypes().items() if d == "float32"}
    for name in model.param_shapes():
        if name.startswith("blocks.3.") and name.endswith("qkv.weight"):
            assert name in kept
        if name.endswith("fc2.weight"):
            assert name in kept
            same = np.array_equal(other.get_parameter(name), model.get_parameter(name))
            assert same, name
    with pytest.raises(ValueError, match="matches no parameter"):
        vitpool.quantize(model, keep="blocks.4")


# ------------------------------------------------------------------------------- target


def test_a_target_is_reached_with_few_matrices_wider() -> None:
    model, x = with_loud_fc2(model_of()), pictures(20)
    plain = vitpool.quantize(model, images=x).model
    first = cosines(model, plain, x).min()
    target = 1 - (1 - first) / 3
    found = vitpool.quantize(model, images=x, target_cosine=target)
    assert cosines(model, found.model, x).min() >= target
    assert found.report.features.worst_cosine >= target
    assert found.model.dtype == "int8"
    order = ["int8", "int8_a16", "float32"]
    before, after = plain._dtypes(), found.model._dtypes()
    steps = [order.index(after[n]) - order.index(before[n]) for n in before]
    assert min(steps) == 0
    assert 0 < sum(step > 0 for step in steps) <= 4


def test_a_target_that_is_met_widens_nothing() -> None:
    model, x = model_of(), pictures()
    plain = vitpool.quantize(model, images=x).model
    same = vitpool.quantize(model, images=x, target_cosine=0.9).model
    assert same._dtypes() == plain._dtypes()


def test_float16_is_widened_to_float32_outside_of_blocks_first() -> None:
    model, x = model_of(), pictures()
    plain = vitpool.quantize(model, "float16", images=x).model
    error = 1 - cosines(model, plain, x).min()
    found = vitpool.quantize(
        model, "float16", images=x, target_cosine=1 - error * 0.7
    ).model
    assert 1 - cosines(model, found, x).min() <= error * 0.7
    assert found.dtype == "float16"
    kept = found._dtypes()
    assert set(kept.values()) == {"float16", "float32"}
    assert kept["patch_embed.proj.weight"] == kept["head.weight"] == "float32"


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
@pytest.mark.parametrize("mlp", ["mlp", "swiglu"])
def test_a_target_out_of_reach_is_refused_with_what_was_reached(
    dtype: str, mlp: str
) -> None:
    model = model_of({"mlp_layer": mlp})
    with pytest.raises(
        ValueError,
        match=rf"target_cosine 1.0 takes more than half .* as {dtype} it reached 0\.99",
    ):
        vitpool.quantize(model, dtype, target_cosine=1.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dtype": "float32"}, "int8, bfloat16 or float16"),
        ({"dtype": "int4"}, "int4"),
        ({"target_cosine": 0}, "above 0"),
        ({"target_cosine": 1.5}, "at most 1"),
        ({"target_cosine": math.nan}, "target_cosine"),
        ({"images": np.zeros((0, 3, 32, 32), np.float32)}, "images"),
        ({"images": []}, "at least one picture"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vitpool.quantize(model_of(), **given)


def test_other_things_than_models_are_refused() -> None:
    with pytest.raises(TypeError, match="must be a vitpool model, not str"):
        vitpool.quantize("vit_digits")  # type: ignore[arg-type]


def test_a_model_is_not_quantized_twice() -> None:
    with pytest.raises(ValueError, match="is int8 already"):
        vitpool.quantize(model_of().to("int8"))


# ------------------------------------------------------------------------------ compare


def test_compare_says_the_same_of_a_model_in_two_dtypes(tmp_path: Path) -> None:
    model, x = model_of(), pictures(5)
    found = vitpool.quantize(model, images=x)
    compared = vitpool.compare(model, found.model, x)
    got, want = compared.precision, found.report
    assert got is not None
    for name in ("reference", "candidate", "features", "logits", "top1", "layers"):
        assert getattr(got, name) == getattr(want, name), name
    assert got.bytes == want.bytes
    text = str(compared)
    assert "in two dtypes\n  float32 -> int8: 16 matrices" in text
    assert "signal to noise" in compared._repr_html_()
    told = json.loads(json.dumps(compared.to_dict()))
    assert told["precision"]["features"]["worst"] == want.features.worst
    assert not compared.ok


def test_compare_names_the_worst_file() -> None:
    model = vitpool.create_model("vit_digits", pretrained=True)
    compared = vitpool.compare(model, model.to("int8"), SAMPLES)
    assert compared.precision is not None
    assert compared.precision.features.worst in map(str, SAMPLES)


def test_compare_says_nothing_of_dtypes_where_those_are_the_same() -> None:
    model = model_of()
    assert vitpool.compare(model, model.snapshot()).precision is None
    other = VisionTransformer(**(SMALL | {"depth": 3})).to("int8")
    assert vitpool.compare(model, other).precision is None
    assert "in two dtypes" not in str(vitpool.compare(model, other))


def test_of_another_models_int8_only_what_is_measured_is_said() -> None:
    """Weights of another model are no fold: their noise is that of other weights."""
    model = model_of()
    other = with_weights(
        model,
        {"blocks.0.attn.qkv.weight": -model.get_parameter("blocks.0.attn.qkv.weight")},
    ).to("int8")
    found = sqnr(model, other)
    assert found["blocks.0.attn.qkv.weight"] < 15
    assert (
        min(db for n, db in found.items() if not n.endswith("0.attn.qkv.weight")) > 20
    )


# ---------------------------------------------------------------------------- agreement


def test_the_worst_picture_is_one_of_nan_if_there_is_one() -> None:
    a = np.ones((3, 4), np.float32)
    b = a.copy()
    b[1] = np.nan
    b[2] *= -1
    found = agreement(a, b, ["x", "y", "z"])
    assert found.worst == "y"
    assert math.isnan(found.worst_cosine)


def test_agreement_by_hand() -> None:
    a = np.array([[3, 4], [1, 0]], np.float32)
    b = np.array([[3, 4], [1, 1]], np.float32)
    found = agreement(a, b, ["x", "y"])
    assert found.worst == "y"
    assert found.worst_cosine == pytest.approx(0.5**0.5)
    assert found.cosine == pytest.approx((1 + 0.5**0.5) / 2)
    assert found.error == pytest.approx(0.5)
    assert found.worst_error == pytest.approx(1)
