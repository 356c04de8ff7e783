# SPDX-License-Identifier: Apache-2.0
"""Training pictures: what is drawn, refusals. That pixels are timm's: tests/timm."""

from __future__ import annotations

import io
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vitpool
from vitpool.train import Augment, create_augment
from vitpool.transforms import ImageError, create_transform
from vitpool.transforms.augment import RandAugment
from vitpool.transforms.augment.crop import RANDOM, crop_box
from vitpool.transforms.augment.erasing import erase
from vitpool.transforms.augment.ops import OPS

EVERYTHING: dict[str, Any] = {
    "auto_augment": "rand-m9-mstd0.5-inc1", "force_color_jitter": True, "vflip": 0.3,
    "color_jitter": (0.4, 0.4, 0.4, 0.1), "grayscale_prob": 0.2, "re_prob": 0.5,
    "re_mode": "pixel", "re_count": 2,
}  # fmt: skip


def noise(height: int = 50, width: int = 70, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


# ------------------------------------------------------------------------ what is drawn


def test_a_picture_of_an_epoch_is_the_same_in_any_thread_and_order() -> None:
    augment = Augment(32, **EVERYTHING)
    picture = noise()
    one_by_one = [augment(picture, seed=5, epoch=2, index=i) for i in range(40)]
    backwards = list(reversed(range(40)))
    with ThreadPoolExecutor(4) as pool:
        drawn = list(
            pool.map(lambda i: augment(picture, seed=5, epoch=2, index=i), backwards)
        )
    for index, array in zip(backwards, drawn, strict=True):
        np.testing.assert_array_equal(array, one_by_one[index])


def test_the_global_random_streams_are_neither_read_nor_moved() -> None:
    augment = Augment(32, **EVERYTHING)
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = augment(noise())
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    random.seed(2)
    np.random.seed(2)
    np.testing.assert_array_equal(augment(noise()), first)


def test_seed_epoch_and_index_each_draw_another_picture() -> None:
    augment = Augment(32)
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (11, 0, 0), (1, 10, 0)]
    drawn = {
        augment(noise(), seed=s, epoch=e, index=i).tobytes() for s, e, i in keys
    }  # fmt: skip
    assert len(drawn) == len(keys)


def test_an_augment_is_made_again_of_its_options_and_of_a_pickle() -> None:
    augment = Augment((3, 24, 40), scale=(0.5, 0.9), **EVERYTHING)
    array = augment(noise(), index=3)
    assert (array.shape, array.dtype) == ((3, 24, 40), np.float32)
    assert array.flags.c_contiguous
    for again in (Augment(**augment.options), pickle.loads(pickle.dumps(augment))):
        assert repr(again) == repr(augment)
        np.testing.assert_array_equal(again(noise(), index=3), array)


def test_with_nothing_to_draw_it_is_the_evaluation_of_a_resize() -> None:
    still = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0}
    augment = Augment(32, color_jitter=None, interpolation="bicubic", **still)
    evaluation = create_transform((3, 32, 32), "bicubic", crop_pct=1.0)
    picture = noise(64, 64)
    np.testing.assert_array_equal(augment(picture), evaluation(picture))


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    ratio=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted),
    seed=st.integers(0, 1000),
)
def test_a_crop_is_a_part_of_the_picture(
    size: tuple[int, int], scale: list[float], ratio: list[float], seed: int
) -> None:
    box = crop_box(size, tuple(scale), tuple(ratio), random.Random(seed))
    left, top, right, bottom = box
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


def test_crops_have_the_areas_and_shapes_that_were_asked_for() -> None:
    rng = random.Random(0)
    areas, shapes = [], []
    for _ in range(2000):
        left, top, right, bottom = crop_box((1000, 1000), (0.1, 0.5), (0.5, 2.0), rng)
        areas.append((right - left) * (bottom - top) / 1e6)
        shapes.append((right - left) / (bottom - top))
    assert 0.098 < min(areas) < 0.11
    assert 0.49 < max(areas) < 0.502
    assert 0.495 < min(shapes) < 0.53
    assert 1.9 < max(shapes) < 2.02
    assert abs(np.log(shapes).mean()) < 0.05  # as often wide as high


def test_flips_come_as_often_as_asked() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16, :16] = 255
    still = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "color_jitter": None}
    augment = Augment(32, hflip=0.5, vflip=0.25, **still)
    corners = np.zeros(4, int)
    for index in range(1000):
        array = np.asarray(augment.image(picture, index=index))
        corners += array[[0, 0, 31, 31], [0, 31, 0, 31], 0] == 255
    for count, wanted in zip(corners, (0.375, 0.375, 0.125, 0.125), strict=True):
        assert abs(count / 1000 - wanted) < 0.06
    for name, corner in (("hflip", (0, 31)), ("vflip", (31, 0))):
        sure = {"hflip": 0.0, "vflip": 0.0, name: 1.0}
        array = np.asarray(Augment(32, **sure, **still).image(picture))
        assert array[(*corner, 0)] == 255


def test_grey_models_get_grey_pictures() -> None:
    augment = Augment((1, 20, 20), mean=0.5, std=0.5, **EVERYTHING)
    for index in range(30):
        array = augment(noise(), index=index)
        assert array.shape == (1, 20, 20)
        assert np.isfinite(array).all()


def test_erased_boxes_lie_within_the_picture_and_are_filled_as_asked() -> None:
    for mode in ("const", "rand", "pixel"):
        shares = []
        for seed in range(200):
            array = np.full((3, 48, 64), 77.0, np.float32)
            erase(array, 1.0, mode, 1, random.Random(seed))
            gone = (array != 77).all(0)
            assert (gone == (array != 77).any(0)).all()
            rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
            if not len(rows):
                continue  # none of ten boxes fitted
            assert gone.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            shares.append(gone.mean())
            values = array[:, gone]
            if mode == "const":
                assert (values == 0).all()
            elif mode == "rand":
                assert (values == values[:, :1]).all()
                assert len(set(values[:, 0].tolist())) == 3
            else:
                assert len(set(values.ravel().tolist())) > values.size // 2
        assert 0.015 < min(shares) < 0.05
        assert 0.27 < max(shares) < 0.35
        assert len(shares) > 150


def test_no_bits_left_are_black() -> None:
    image = Image.fromarray(noise())
    assert OPS["Posterize"].apply(image, 0).getextrema() == ((0, 0),) * 3
    assert OPS["Posterize"].apply(image, 1).getextrema() == ((0, 128),) * 3


def test_operations_of_a_set_with_weights_do_not_come_twice() -> None:
    rand = RandAugment("rand-tweights-n15", (0, 0, 0), RANDOM)
    rng = random.Random(0)
    assert all(len(set(rand.draw(rng))) == 15 for _ in range(50))


# -------------------------------------------------------------------------- for a model


def test_an_augment_for_a_model_has_its_size_and_normalisation() -> None:
    model = vitpool.create_model("vit_digits")
    augment = create_augment(model, hflip=0.0)
    assert (augment.channels, augment.size) == (3, (32, 32))
    assert augment.mean == augment.std == (0.5, 0.5, 0.5)
    assert (augment.hflip, augment.interpolation) == (0.0, "random")
    assert create_augment(model, img_size=48, std=0.25).size == (48, 48)
    assert create_augment(model, std=0.25).std == (0.25,) * 3
    assert create_augment({"input_size": (1, 8, 9), "mean": 0.1}).size == (8, 9)
    x = np.stack([augment(path, index=i) for i, path in enumerate(vitpool.samples())])
    assert model(x).shape == (10, 10)


# ----------------------------------------------------------------------------- refusals

BAD_CONFIGS = {
    "": None,  # none is asked for
    "augmix-m5": "begins with 'augmix'",
    "original": "begins with 'original'",
    "Rand-m9": "begins with 'Rand'",
    "rand-m9.5": "'m9.5'",
    "rand-": "''",
    "rand-m9-": "''",
    "rand-x3": "'x3'",
    "rand-inc": "'inc'",
    "rand-inc2": "'inc2'",
    "rand-mstdinf": "'mstdinf'",
    "rand-m9-m8": "'m' comes twice",
    "rand-p1.5": "'p1.5'",
    "rand-n0": "'n0'",
    "rand-mmax0": "'mmax0'",
    "rand-tall": "'tall'",
    "rand_m9": "begins with 'rand_m9'",
    "rand-tweights-n16": "1 to 15",
}


@pytest.mark.parametrize("config", BAD_CONFIGS)
def test_a_bad_configuration_hears_what_came_and_what_is_allowed(config: str) -> None:
    said = BAD_CONFIGS[config]
    if said is None:
        assert Augment(32, auto_augment=config).auto_augment is None
        return
    with pytest.raises(ValueError, match="auto_augment") as caught:
        Augment(32, auto_augment=config)
    assert said in str(caught.value)
    assert config in str(caught.value)


BAD_OPTIONS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"hflip": 1.5}, "hflip must be from 0 to 1, not 1.5"),
    ({"vflip": -0.1}, "vflip must be from 0 to 1"),
    ({"re_prob": float("nan")}, "re_prob must be finite"),
    ({"scale": (0.0, 1.0)}, "scale must be"),
    ({"scale": (0.5, 1.2)}, "at most 1"),
    ({"scale": (0.9, 0.5)}, r"\(0.9, 0.5\)"),
    ({"scale": 0.5}, "two numbers"),
    ({"ratio": (-1.0, 1.0)}, "ratio must be"),
    ({"interpolation": "cubic"}, "'cubic', allowed: 'random'"),
    ({"color_jitter": (0.1, 0.2)}, "color_jitter"),
    ({"color_jitter": -0.1}, "negative"),
    ({"color_jitter": (0.1, 0.1, 0.1, 0.6)}, "hue at most 0.5"),
    ({"color_jitter_prob": 2}, "color_jitter_prob"),
    ({"grayscale_prob": 2}, "grayscale_prob"),
    ({"re_mode": "noise"}, "re_mode: 'noise', allowed"),
    ({"re_count": 0}, "re_count must be at least 1"),
    ({"std": 0}, "std"),
    ({"input_size": (4, 8, 8)}, "4 channels"),
)


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS, ids=str)
def test_a_bad_option_hears_what_came_and_what_is_allowed(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Augment(**options)


def test_wrong_types_are_type_errors() -> None:
    for name, value in (
        ("auto_augment", 9),
        ("hflip", "0.5"),
        ("force_color_jitter", 1),
        ("re_count", 1.5),
        ("color_jitter", ["a", "b", "c"]),
    ):
        with pytest.raises(TypeError, match=name):
            Augment(32, **{name: value})
    with pytest.raises(TypeError, match="unknown option 'hflop'; did you mean 'hflip'"):
        create_augment(None, hflop=0.5)
    for name in ("seed", "epoch", "index"):
        with pytest.raises(TypeError, match=name):
            Augment(8)(noise(), **{name: 0.5})
        with pytest.raises(ValueError, match=name):
            Augment(8)(noise(), **{name: -1})


def test_a_picture_that_cannot_be_used_is_named() -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(200, 200)).save(buffer, "JPEG")
    with pytest.raises(ImageError, match="bytes>: "):
        Augment(8)(buffer.getvalue()[:3000])
    with pytest.raises(ImageError, match="empty: 0x5 pixels"):
        Augment(8)(Image.new("RGB", (0, 5)))
