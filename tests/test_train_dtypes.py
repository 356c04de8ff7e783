# SPDX-License-Identifier: Apache-2.0
"""Training beside weights that are not float32: below what trains, and never in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from low_precision import KEPT, in_dtype
from models import X, refused, small
from trainings import trained

from vitpool.model import matrices
from vitpool.train import Probes, features, gradients

Y = np.array([1, 0])
of_every_dtype = pytest.mark.parametrize("dtype", KEPT)


def model_of(**options: Any) -> Any:
    return small(**{"depth": 3, "num_classes": 4} | options)


def wide_from(model: Any, dtype: str, *starts: str) -> Any:
    """Every matrix of this dtype, but those whose names start so."""
    other = in_dtype(model, dtype)
    names = [n for n in matrices(model.param_shapes()) if n.startswith(starts)]
    weights = {name: model.get_parameter(name) for name in names}
    other._replace(None, weights, (), dict.fromkeys(names, "float32"))
    return other


@pytest.mark.parametrize("train", ["head", 1, "all", ["norm.bias"], ["head.bias"]])
@of_every_dtype
def test_what_trains_must_be_float32(dtype: str, train: Any) -> None:
    model = in_dtype(model_of(), dtype)
    for call in (
        lambda: gradients(model, X, Y, train=train),
        lambda: trained(model, X, Y, train=train, epochs=1),
    ):
        with refused(ValueError, dtype, "weight", "model.to('float32')", model=model):
            call()
    assert gradients(model.to("float32"), X, Y, train=train)


@pytest.mark.parametrize(
    ("train", "name"),
    [
        (["blocks.1.norm2.bias"], "blocks.1.mlp.fc1.weight"),
        (["blocks.0.norm1.bias"], "blocks.2.mlp.fc2.weight"),
        (["norm.weight"], "head.weight"),
        (["pos_embed"], "blocks.0.attn.qkv.weight"),
        (["attn_pool.latent"], "attn_pool.mlp.fc1.weight"),
        (["norm.weight"], "attn_pool.q.weight"),
        (["blocks.2.mlp.fc2.weight"], "blocks.2.mlp.fc2.weight"),
    ],
)
def test_what_gradients_go_through_must_be_float32(train: Any, name: str) -> None:
    model = model_of(global_pool="map" if "pool" in str((train, name)) else "token")
    model._replace(None, {}, (), {name: "int8"})
    verb = "is to be trained" if name in train else "gradients go through it"
    with refused(ValueError, f"{name} is int8", verb, model=model):
        gradients(model, X, Y, train=train)


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
@pytest.mark.parametrize("train", ["head", "pool", 1, ["blocks.1.mlp.fc1.bias"]])
@of_every_dtype
def test_a_frozen_part_of_any_dtype_trains_what_follows_it(
    dtype: str, train: Any, pool: str
) -> None:
    starts = {"head": ("head.",), "pool": ("head.", "attn_pool.")}.get(
        str(train), ("head.", "attn_pool.", "blocks.1.", "blocks.2.")
    )
    wide = model_of(global_pool=pool)
    model = wide_from(wide, dtype, *starts)
    loss, found = gradients(model, X, Y, train=train)
    want, theirs = gradients(wide, X, Y, train=train)
    assert abs(loss - want) < 0.1 * want
    for name, gradient in found.items():
        largest = np.abs(theirs[name]).max()
        assert np.abs(gradient - theirs[name]).max() <= 0.25 * largest + 1e-6, name
    frozen = {n: v for n, v in model.state_dict().items() if n not in found}
    trained(model, X, Y, train=train, epochs=2)
    after = model.state_dict()
    assert all(after[n].tobytes() == v.tobytes() for n, v in frozen.items())
    assert {n for n in found if (after[n] != wide.state_dict()[n]).any()}


@pytest.mark.parametrize("pool", ["token", "map"])
def test_an_entry_from_images_runs_through_frozen_blocks(pool: str) -> None:
    """The core's own pass, from the images on, as `vitpool.train` does not ask it."""
    model = wide_from(model_of(global_pool=pool), "int8", "head.", "attn_pool.")
    grads = {"head.bias": np.zeros(4, np.float32)}
    targets = np.eye(4, dtype=np.float32)[Y]
    _, logits = model._gradients(X, targets, grads, entry="images")
    want = model(X)
    # in training attention is float32, at inference it may be bfloat16
    assert np.abs(logits - want).max() <= 0.03 * np.abs(want).max()
    assert np.abs(grads["head.bias"]).max() > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_a_new_head_trains_on_a_trunk_of_another_dtype(dtype: str) -> None:
    model = model_of().to(dtype)
    trunk = {n: d for n, d in model._dtypes().items() if not n.startswith("head.")}
    model.reset_classifier(2, seed=0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 3, 32, 32), np.float32)
    y = np.arange(24) % 2
    x[y == 1] += 0.5
    before = gradients(model, x, y, train="head")[0]
    rows = features(model, x, train="head")
    assert (
        np.abs(rows[:] - model.forward_head(model.forward_features(x), True)).max() == 0
    )
    trained(model, rows, y, train="head", epochs=20, lr=0.01)
    assert gradients(model, x, y, train="head")[0] < 0.5 * before
    assert {n: model._dtypes()[n] for n in trunk} == trunk
    assert model._dtypes()["head.weight"] == "float32"


def test_probes_train_on_a_trunk_of_integers() -> None:
    model = model_of().to("int8")
    trunk = {k: v for k, v in model.state_dict().items() if k.startswith("blocks.")}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 3, 32, 32), np.float32)
    Probes(model, pool="avg", lr=0.05, epochs=1, batch_size=8).fit(
        x, np.arange(16) % 4, progress=False
    )
    after = model.state_dict()
    assert all(after[k].tobytes() == v.tobytes() for k, v in trunk.items())
    assert model._dtypes()["head.weight"] == "float32"
