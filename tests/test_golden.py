# SPDX-License-Identifier: Apache-2.0
"""vitpool against timm's stored outputs; golden/make_goldens.py writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pytest
from golden import recipe

import vitpool

CASES = {record["name"]: record for record in recipe.cases()}


def build(record: dict[str, Any]) -> Any:
    """The case's model after its calls, with the recipe's weights."""
    model = vitpool.VisionTransformer(**record["options"])
    for name, args, kwargs in record.get("calls", []):
        getattr(model, name)(*args, **kwargs)
    model.load_state_dict(recipe.weights(record["parameters"]))
    for name, args, kwargs in record.get("calls_after", []):
        getattr(model, name)(*args, **kwargs)
    return model


def outputs(model: Any, record: dict[str, Any]) -> dict[str, Any]:
    return dict(recipe.flat(recipe.run(model, record, recipe.inputs(record))))


def ratios(name: str) -> list[float]:
    """Checks every output of a case; returns our errors over timm's."""
    record = CASES[name]
    exact = recipe.outputs(record)
    got = outputs(build(record), record)
    assert list(got) == list(exact)
    found = []
    for path, value in exact.items():
        timm = measure.Error(record["outputs"][path]["timm_error"])
        found.append(measure.check(got[path], value, timm, f"{name} {path}"))
    return found


@pytest.mark.parametrize("name", CASES)
def test_outputs_agree_with_timm(name: str) -> None:
    assert ratios(name)


@pytest.mark.parametrize("name", CASES)
def test_keys_and_shapes_are_timms(name: str) -> None:
    record = CASES[name]
    model = vitpool.VisionTransformer(**record["options"])
    for method, args, kwargs in record.get("calls", []):
        getattr(model, method)(*args, **kwargs)
    shapes = {key: tuple(shape) for key, shape in model.param_shapes().items()}
    assert list(shapes.items()) == list(record["parameters"].items())
    state = {key: value.shape for key, value in model.state_dict().items()}
    assert list(state.items()) == list(record["parameters"].items())


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("calls_")])
def test_a_model_built_from_weights_is_the_loaded_one(name: str) -> None:
    record = CASES[name]
    if "calls_after" in record:
        record = record | {"calls_after": [], "shape": (2, 3, 32, 32)}
    weights = recipe.weights(record["parameters"])
    straight = vitpool.VisionTransformer(**record["options"], weights=weights)
    ours = outputs(straight, record)
    for path, value in outputs(build(record), record).items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)


def test_errors_are_no_larger_than_timms_on_the_whole() -> None:
    """One small model's largest error is luck; the mean over all of them is not."""
    found = [ratio for name in CASES for ratio in ratios(name)]
    assert len(found) > 900
    assert measure.mean_ratio(found) < 1.1


@pytest.mark.parametrize("name", ["nan_token", "inf_avg", "nan_map", "inf_prr"])
def test_a_spoilt_picture_leaves_its_neighbours_alone(name: str) -> None:
    record = CASES[name]
    model = build(record)
    spoilt = recipe.inputs(record)["x"]
    clean = recipe.picture(spoilt.shape)
    for row in (0, 2):
        np.testing.assert_array_equal(model(spoilt)[row], model(clean)[row])


MANY = [name for name in CASES if name.startswith("tokens_")]
SCRIPT = f"""
import test_golden as t, vitpool
print(vitpool.show_config()["target"])
for name in {MANY!r}:
    t.ratios(name)
"""


@pytest.mark.parametrize(
    "setting",
    [f"VITPOOL_TARGET={t}" for t in vitpool.show_config()["targets"]]
    + ["VITPOOL_UKR=blis"],
)
def test_many_tokens_agree_on_every_target(setting: str) -> None:
    """Keys come in several blocks, which each micro-kernel packs in its own way."""
    assert len(MANY) == 5
    name, value = setting.split("=")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parent,
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert name == "VITPOOL_UKR" or done.stdout.split() == [value]
