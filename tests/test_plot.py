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


GREYS = [Image.new("L", (64, 64), grey) for grey in (0, 90, 255)]
GREYS.append(Image.radial_gradient("L").resize((64, 64)))
GREYS.append(Image.fromarray(PICTURE).resize((64, 64)))


def lightness(image: Image.Image) -> np.ndarray:
    """CIE L*, 0 to 100."""
    part = np.asarray(image.convert("RGB"), np.float64) / 255
    linear = np.where(part > 0.04045, ((part + 0.055) / 1.055) ** 2.4, part / 12.92)
    light = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(light > 0.008856, 116 * np.cbrt(light) - 16, 903.3 * light)


def flat(multiple: float) -> np.ndarray:
    return np.full((4, 4), multiple / 16, np.float32)


def test_an_overlay_grows_lighter_with_attention_over_any_picture() -> None:
    steps = np.linspace(0, 8, 41)
    for picture in GREYS:
        seen = [lightness(plot.overlay(picture, flat(s), top=8)) for s in steps]
        assert (np.diff(seen, axis=0) >= 0).all()
        assert (np.diff(seen[::5], axis=0) > 2).all()


def test_what_is_seen_is_attention_and_not_the_picture() -> None:
    """A quarter of the scale more over black is lighter than less over white."""
    low, high = np.arange(0, 6.1, 0.25), np.arange(2, 8.1, 0.25)
    for less, more in zip(low, high, strict=True):
        over = [lightness(plot.overlay(p, flat(less), top=8)) for p in GREYS]
        under = [lightness(plot.overlay(p, flat(more), top=8)) for p in GREYS]
        assert max(o.max() for o in over) < min(u.min() for u in under)
    # as much attention looks alike, the more so the more there is
    for multiple, most in ((0, 17), (2, 10), (4, 4), (8, 0)):
        seen = [lightness(plot.overlay(p, flat(multiple), top=8)) for p in GREYS]
        assert max(s.max() for s in seen) - min(s.min() for s in seen) <= most


def test_no_attention_shows_the_picture_in_grey() -> None:
    picture = Image.radial_gradient("L").resize((64, 64))
    shown = np.asarray(plot.overlay(picture, flat(0)))
    assert (shown[..., :1] == shown).all()
    order = np.argsort(np.asarray(picture).ravel(), kind="stable")
    assert (np.diff(shown[..., 0].ravel()[order].astype(int)) >= 0).all()
    assert len(np.unique(shown)) > 30


def test_a_uniform_map_is_uniform_and_low() -> None:
    for shape in ((4, 4), (14, 14), (37, 37)):
        heat = np.full(shape, 1 / np.prod(shape), np.float32)
        drawn = plot.overlay(Image.new("L", (70, 70), 128), heat)
        assert len(drawn.getcolors()) == 1
        assert lightness(drawn).max() < 45
        np.testing.assert_allclose(plot.multiples(heat), 1, rtol=1e-6)


def test_an_overlay_is_lightest_where_the_attention_is() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 5
    drawn = np.asarray(plot.overlay(Image.new("RGB", (64, 64), "grey"), heat)).sum(-1)
    inside = np.zeros((64, 64), bool)
    inside[16:32, 32:48] = True  # a patch has one colour, up to its edge
    assert len(np.unique(drawn[inside])) == len(np.unique(drawn[~inside])) == 1
    assert drawn[inside].min() > drawn[~inside].max()
    for odd in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
        plot.overlay(Image.new("L", (9, 7)), odd)


def test_only_fine_maps_are_smoothed_and_never_beyond_their_values() -> None:
    grey = Image.new("L", (320, 320), 128)
    for side, smooth in ((15, False), (16, True), (37, True)):
        heat = np.zeros((side, side), np.float32)
        heat[side // 2, side // 2] = 1
        default = np.asarray(plot.overlay(grey, heat))
        same = np.asarray(plot.overlay(grey, heat, smooth=smooth))
        other = np.asarray(plot.overlay(grey, heat, smooth=not smooth))
        np.testing.assert_array_equal(default, same)
        assert (default != other).any()
        assert (len(np.unique(default)) > 6) is smooth
        smoothed = lightness(plot.overlay(grey, heat, smooth=True))
        ends = lightness(Image.fromarray(plot.colours(np.array([[0.0, 1.0]]))))[0]
        assert ends[0] - 1 <= smoothed.min() <= smoothed.max() <= ends[1]


def test_a_scale_ends_at_a_round_multiple_of_uniform() -> None:
    for multiple, top in (
        (0, 4),
        (1, 4),
        (4, 4),
        (4.1, 5),
        (9, 10),
        (11, 12),
        (250, 250),
    ):
        assert plot.scale_top(flat(multiple)) == pytest.approx(top)
    assert plot.scale_top(flat(1), flat(7)) == 8
    assert plot.scale_top() == 4


def test_what_is_no_map_is_refused() -> None:
    for heat, top, words in (
        (np.zeros(4), None, "heat: shape"), (np.zeros((0, 2)), None, "heat: shape"),
        (flat(1), 0, "top: 0"), (flat(1), float("nan"), "top: nan"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            plot.overlay(GREYS[0], heat, top=top)


def test_colours_grow_in_lightness() -> None:
    ramp = plot.colours(np.linspace(0, 1, 51))
    steps = np.diff(lightness(Image.fromarray(ramp[None]))[0])
    assert (steps > 0.5).all()
    assert (steps < 2.2).all()  # evenly


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
        (scale,) = [axis for axis in figure.axes if not axis.images]
        assert "uniform" in [text.get_text() for text in scale.texts]


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
    assert "pip install matplotlib" in run.stdout
