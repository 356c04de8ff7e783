# SPDX-License-Identifier: Apache-2.0
"""ConvStem without timm: vit_base_mci_224's embedding as a user sees it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import refused

import vitpool
from vitpool.train import Trainer

OPTIONS: dict[str, Any] = {
    "img_size": 48,
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 2,
    "num_classes": 5,
    "no_embed_class": True,
    "embed_layer": "ConvStem",
}
STATISTICS = ("running_mean", "running_var")
X = recipe.picture((2, 3, 48, 48))


def stem(**options: Any) -> vitpool.VisionTransformer:
    """A small model whose BatchNorms have seen something."""
    model = vitpool.VisionTransformer(**OPTIONS | options, seed=0)
    draw = np.random.default_rng(1)
    state: dict[str, Any] = dict(model.state_dict())
    for name, value in state.items():
        if name.endswith(STATISTICS):
            state[name] = (draw.random(value.shape) + 0.5).astype(np.float32)
    model.load_state_dict(state)
    return model


def convolved(x: Any, weight: Any, bias: Any) -> Any:
    """A convolution whose kernel is its stride, in float64."""
    k = weight.shape[2]
    batch, channels, height, width = x.shape
    rows, columns = height // k, width // k
    cut = x[:, :, : rows * k, : columns * k].reshape(
        batch, channels, rows, k, columns, k
    )
    maps = np.einsum("bcyixj,ocij->boyx", cut, weight.astype(np.float64))
    return maps + bias.reshape(1, -1, 1, 1)


def by_hand(state: dict[str, Any], x: Any) -> Any:
    """What the stem makes of images: maps (B, C, rows, columns)."""
    from math import erf

    gelu = np.vectorize(lambda v: 0.5 * v * (1 + erf(v / 2**0.5)))
    x = x.astype(np.float64)
    for i in range(3):
        path = f"patch_embed.backbone.{i}"
        bias = state.get(f"{path}.conv.bias", np.zeros(1))
        x = convolved(x, state[f"{path}.conv.weight"], bias)
        if i < 2:
            mean, var, weight, shift = (
                state[f"{path}.bn.{name}"].astype(np.float64).reshape(1, -1, 1, 1)
                for name in (*STATISTICS, "weight", "bias")
            )
            x = gelu((x - mean) / np.sqrt(var + 1e-5) * weight + shift)
    return x


def test_the_embedding_is_three_convolutions_with_batchnorm() -> None:
    model = stem()
    want = by_hand(model.state_dict(), X)
    got = model.patch_embed.backbone(X)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
    rows = want.reshape(2, 32, 9).transpose(0, 2, 1)
    np.testing.assert_allclose(model.patch_embed(X), rows, rtol=2e-5, atol=2e-6)


def test_keys_are_timms_without_the_counters() -> None:
    names = [n for n in stem().state_dict() if n.startswith("patch_embed.")]
    bn = ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"]
    assert names == [
        f"patch_embed.backbone.{i}.{name}"
        for i, parts in enumerate(
            [["conv.weight", *bn], ["conv.weight", *bn], ["conv.weight", "conv.bias"]]
        )
        for name in parts
    ]


def test_a_counter_may_be_there_and_is_not_read() -> None:
    model = stem()
    before = model(X)
    counter = "patch_embed.backbone.1.bn.num_batches_tracked"
    state = {**model.state_dict(), counter: np.int64(9)}
    assert model.load_state_dict(state) == ([], [])
    np.testing.assert_array_equal(model(X), before)
    built = vitpool.VisionTransformer(**OPTIONS, weights=state)
    np.testing.assert_array_equal(built(X), before)
    with refused(ValueError, "unexpected keys", "2.bn.num_batches_tracked"):
        model.load_state_dict({**state, counter.replace("1.bn", "2.bn"): np.int64(9)})


def test_statistics_are_no_parameters() -> None:
    model = stem()
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if name.endswith(STATISTICS)]
    assert set(model.state_dict()) - set(names) == {
        f"patch_embed.backbone.{i}.bn.{name}" for i in (0, 1) for name in STATISTICS
    }
    count = sum(array.size for array in model.parameters())
    assert model.summary().params == count
    assert f"{count:,}" in str(model.summary())


def test_pixels_that_fill_no_patch_are_left_out() -> None:
    model = stem(dynamic_img_size=True)
    x = recipe.picture((1, 3, 63, 37))
    np.testing.assert_array_equal(model(x), model(x[:, :, :48, :32].copy()))
    assert model.patch_embed(x).shape == (1, 3, 2, 32)
    with refused(ValueError, "x", "15 x 48"):
        model(recipe.picture((1, 3, 15, 48)))


def test_one_pixel_of_timms_is_a_patch() -> None:
    """timm counts patches in pixels of what the stem gives."""
    model = vitpool.VisionTransformer(**OPTIONS, patch_size=1)
    assert model.config["embed_layer"] == "ConvStem"
    assert "patch_size" not in model.config
    assert model.patch_embed.feature_ratio == (16, 16)
    assert model.patch_embed.grid_size == (3, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch_size": 8}, ("patch_size", "16", "8")),
        ({"embed_dim": 30, "num_heads": 2}, ("embed_dim", "divisible by 4", "30")),
        ({"embed_norm_layer": "layernorm"}, ("embed_norm_layer", "None")),
        ({"embed_layer": "HybridEmbed"}, ("embed_layer", "ConvStem", "HybridEmbed")),
    ],
    ids=str,
)
def test_what_it_cannot_be_is_refused(change: Any, words: Any) -> None:
    with refused(ValueError, *words):
        vitpool.VisionTransformer(**OPTIONS | change)


def test_other_classes_have_no_such_option() -> None:
    with refused(TypeError, "Eva", "embed_layer"):
        vitpool.Eva(embed_layer="ConvStem")  # type: ignore[call-arg]


def test_another_patch_size_is_refused_and_changes_nothing() -> None:
    model = stem()
    before = model.state_dict()
    with refused(ValueError, "patch_size", "8"):
        model.set_input_size(img_size=96, patch_size=8)
    assert model.img_size == (48, 48)
    after = model.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_it_survives_pickles_folders_and_dtypes(tmp_path: Path) -> None:
    model = stem()
    want = model(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(X), want)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architecture"] == "vit_base_mci_224"
    assert "embed_layer" not in config["model_args"]
    again = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    np.testing.assert_array_equal(again(X), want)
    for dtype in ("bfloat16", "float16", "int8"):
        low = pickle.loads(pickle.dumps(model)).to(dtype)
        assert low.dtype == dtype
        assert 0 < np.abs(low(X) - want).max() < 0.1 * np.abs(want).max()


@pytest.mark.parametrize("dtype", [None, "bfloat16", "int8"])
def test_a_picture_does_not_depend_on_the_others(dtype: Any) -> None:
    model = stem(img_size=112)
    model = model if dtype is None else model.to(dtype)
    x = recipe.picture((3, 3, 112, 112))
    together = model.patch_embed(x), model(x)
    for i in range(3):
        np.testing.assert_array_equal(
            model.patch_embed(x[i : i + 1]), together[0][i : i + 1]
        )
        np.testing.assert_array_equal(model(x[i : i + 1]), together[1][i : i + 1])


def test_its_parts_compute_what_it_does() -> None:
    patch_embed = stem().patch_embed
    maps: Any = X
    for part in patch_embed.backbone:
        maps = part(maps)
    tokens = maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)
    np.testing.assert_allclose(tokens, patch_embed(X), rtol=2e-5, atol=2e-6)


def test_it_does_not_train_and_what_follows_does() -> None:
    model = stem()
    with refused(ValueError, "patch_embed.backbone.0.conv.weight", "does not train"):
        Trainer(model, train="all")
    before = model.state_dict()
    trainer = Trainer(model, train=1, optimizer="sgd", lr=0.1)
    first = float(trainer.step(X, np.array([0, 1])))
    assert float(trainer.step(X, np.array([0, 1]))) < first
    changed = {n for n, a in model.state_dict().items() if np.any(a != before[n])}
    assert "head.weight" in changed
    assert "blocks.0.attn.qkv.weight" in changed
    assert not [name for name in changed if name.startswith("patch_embed.")]
