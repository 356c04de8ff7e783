# SPDX-License-Identifier: Apache-2.0
"""What a model looks at: the numbers, then that pictures and figures show them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import vitpool
from vitpool import plot


def make(**options: object) -> vitpool.VisionTransformer:
    base = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3}
    base |= {"num_heads": 4, "num_classes": 5, "seed": 0}
    return vitpool.VisionTransformer(**{**base, **options})


MODELS = {
    "token": {"reg_tokens": 2},
    "avg": {"global_pool": "avg", "class_token": False},
    "map": {"global_pool": "map", "class_token": False},
    "map with prefix": {"global_pool": "map", "reg_tokens": 1},
    "prr": {"global_pool": "prr"},
    "prr without class token": {
        "global_pool": "prr", "class_token": False, "reg_tokens": 2,
    },
}  # fmt: skip


@pytest.fixture(params=MODELS, ids=lambda n: n.replace(" ", "_"))
def model(request: pytest.FixtureRequest) -> vitpool.VisionTransformer:
    return make(**MODELS[request.param])


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)


PICTURE = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)


def test_maps_are_the_attention_on_patches(model, x) -> None:
    _, maps = model.forward(x, return_attn=[1])
    heat = plot.attention_maps(model, x, 1)
    prefix = model.num_prefix_tokens
    rows = maps[1][:, :, 0] if model.has_class_token else maps[1].mean(axis=2)
    np.testing.assert_array_equal(heat.reshape(2, 4, 16), rows[..., prefix:])
    np.testing.assert_array_equal(plot.attention_maps(model, x, -2), heat)


def test_pool_maps_sum_to_one_with_the_prefix(model, x) -> None:
    if model.attn_pool is None:
        with pytest.raises(ValueError, match="no attention"):
            plot.attention_maps(model, x, "pool")
        return
    heat = plot.attention_maps(model, x, "pool")
    assert heat.shape[0] == 2
    assert heat.shape[2:] == (4, 4)
    total = heat.sum(axis=(2, 3))
    if model.global_pool == "map":
        np.testing.assert_allclose(total, 1, rtol=1e-5)
    else:
        assert (total < 1).all()


def test_rollout_is_the_product_of_the_blocks(x) -> None:
    model = make()
    _, maps = model.forward(x, return_attn=[0, 1, 2])
    flow = np.eye(17)
    for block in range(3):
        flow = (maps[block][1].mean(axis=0) + np.eye(17)) / 2 @ flow
    expected = flow[0, 1:].reshape(4, 4)
    np.testing.assert_allclose(plot.rollout(model, x)[1], expected, rtol=1e-5)


@pytest.mark.parametrize("reg_tokens", [0, 3])
def test_rollout_of_a_map_pool_begins_at_the_patches_it_sees(x, reg_tokens) -> None:
    model = make(global_pool="map", reg_tokens=reg_tokens)
    _, maps = model.forward(x, return_attn=[0, 1, 2, "attn_pool"])
    prefix, tokens = 1 + reg_tokens, 17 + reg_tokens
    flow = np.eye(tokens)
    for block in range(3):
        flow = (maps[block][1].mean(axis=0) + np.eye(tokens)) / 2 @ flow
    seen = maps["attn_pool"][1].mean(axis=0)[0]
    assert seen.shape == (16,)
    expected = (seen @ flow[prefix:])[prefix:].reshape(4, 4)
    np.testing.assert_allclose(plot.rollout(model, x)[1], expected, rtol=1e-5)


def test_rollout_of_every_pool_is_a_share(model, x) -> None:
    heat = plot.rollout(model, x)
    assert heat.shape == (2, 4, 4)
    assert (heat > 0).all()
    assert (heat.sum(axis=(1, 2)) <= 1 + 1e-5).all()


def test_pool_weights_are_shares_of_patches(model, x) -> None:
    for pool in plot.pools_of(model):
        heat = plot.pool_weights(model, x, pool)
        assert heat.shape == (2, 4, 4)
        np.testing.assert_allclose(heat.sum(axis=(1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(plot.pool_weights(model, x, "avg"), 1 / 16)
    features = model.forward_features(x)[0, model.num_prefix_tokens :]
    share = np.bincount(features.argmax(axis=0), minlength=16) / features.shape[1]
    got = plot.pool_weights(model, x, "max")[0].ravel()
    np.testing.assert_allclose(got, share, rtol=1e-6)


def test_what_cannot_be_shown_says_what_can(x) -> None:
    model = make(global_pool="avg", class_token=False)
    for call, words in (
        (lambda: plot.attention_maps(model, x, 3), "layer: 3, allowed is -3 to 2"),
        (lambda: plot.attention_maps(model, x, "top"), "layer: 'top'"),
        (lambda: plot.pool_weights(model, x, "token"), "no class token"),
        (lambda: plot.pool_weights(model, x, "map"), "has 'avg'"),
        (lambda: plot.pool_weights(model, x, "gem"), "allowed are token"),
        (lambda: plot.attention_row(model, None, PICTURE, head=9), "head: 9"),
        (lambda: plot.attention_row(model, None, PICTURE, head="x"), "head: 'x'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_dynamic_sizes_with_padding_have_their_own_grid() -> None:
    model = make(dynamic_img_size=True, dynamic_img_pad=True)
    x = np.zeros((1, 3, 30, 50), np.float32)
    assert plot.attention_maps(model, x, 0).shape == (1, 4, 4, 7)


def test_overlay_is_brightest_where_the_heat_is() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 5
    drawn = np.asarray(plot.overlay(Image.new("RGB", (64, 64), "grey"), heat)).sum(-1)
    row, column = np.unravel_index(drawn.argmax(), drawn.shape)
    assert 16 <= row < 32
    assert 32 <= column < 48
    for odd in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
        plot.overlay(Image.new("L", (9, 7)), odd)


def test_colours_grow_in_lightness() -> None:
    ramp = plot.colours(np.linspace(0, 1, 50, dtype=np.float32)).astype(float)
    lightness = ramp @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


def test_rows_and_sheets(model) -> None:
    rows = [
        plot.attention_row(model, None, PICTURE, layer=layer, head=head)
        for layer, head in ((0, "mean"), (-1, "all"), ("rollout", "mean"), ("auto", 0))
    ]
    assert rows[0].width == 2 * 224 + 8
    assert rows[1].width == 5 * 224 + 4 * 8
    sheet = plot.stack_rows(rows)
    assert sheet.width >= rows[1].width
    with pytest.raises(ValueError, match="none"):
        plot.stack_rows([])


def test_figures_show_what_they_say(model) -> None:
    for figure, count in (
        (plot.attention_figure(model, PICTURE, 1), 5),
        (plot.attention_figure(model, PICTURE, -1, head="mean"), 2),
        (plot.rollout_figure(model, PICTURE), 2),
        (plot.layers_figure(model, PICTURE), 4 + (model.attn_pool is not None)),
        (plot.pools_figure(model, PICTURE), 1 + len(plot.pools_of(model))),
    ):
        drawn = [axis for axis in figure.axes if axis.images]
        assert len(drawn) == count
        assert all(axis.get_title() for axis in drawn)
        figure.canvas.draw()


def test_plain_pictures_need_no_matplotlib() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np, vitpool\n"
        "from vitpool import plot\n"
        "m = vitpool.create_model('vit_digits', pretrained=True)\n"
        "p = np.zeros((9, 9, 3), np.uint8)\n"
        "plot.attention_row(m, None, p)\n"
        "try: plot.rollout_figure(m, p)\n"
        "except ImportError as e: print(e)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "vitpool[viz]" in run.stdout
