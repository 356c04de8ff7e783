# SPDX-License-Identifier: Apache-2.0
"""Training pictures byte for byte as timm's, where both draw the same numbers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import prepare  # noqa: F401
import pytest
import skimage
import timm.data
import timm.data.auto_augment
import timm.data.random_erasing
import timm.data.transforms
import torch
import torchvision.transforms
import torchvision.transforms.functional as tv
from PIL import Image

from vitpool.transforms.augment import Augment, RandAugment, color, rand_augment
from vitpool.transforms.augment.crop import RANDOM, crop_box
from vitpool.transforms.augment.erasing import erase
from vitpool.transforms.augment.ops import OPS

FOLDER = Path(skimage.__file__).parent / "data"
NAMES = ("chelsea.png", "coffee.png", "rocket.jpg", "page.png", "logo.png")
MEAN = (0.485, 0.456, 0.406)
FILL = tuple(round(255 * v) for v in MEAN)
AUTO = timm.data.auto_augment
POSTERIZE = AUTO.posterize


def picture(name: str = "chelsea.png", mode: str = "RGB") -> Image.Image:
    with Image.open(FOLDER / name) as image:
        return image.convert(mode)


def pixels_equal(ours: Any, theirs: Any) -> None:
    assert ours.mode == theirs.mode
    assert ours.size == theirs.size
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


class Draws:
    """NumPy's and torch's random calls of timm's pipeline, out of one `Random`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.random = rng, self  # self stands for numpy: np.random.choice

    @staticmethod
    def sum(*args: Any) -> Any:
        return np.sum(*args)

    @staticmethod
    def array(*args: Any) -> Any:
        return np.array(*args)

    def choice(self, ops: list[Any], count: int, replace: bool, p: Any) -> list[Any]:
        if replace:
            return [self.rng.choice(ops) for _ in range(count)]
        left = dict(zip(ops, p, strict=True))
        drawn = []
        for _ in range(count):
            drawn += self.rng.choices(list(left), list(left.values()))
            del left[drawn[-1]]
        return drawn

    def jitter(self, *ranges: Any) -> tuple[Any, ...]:
        """In place of ColorJitter.get_params."""
        order = list(range(4))
        self.rng.shuffle(order)
        return order, *(r and self.rng.uniform(*r) for r in ranges)

    def rand(self, _: int) -> torch.Tensor:
        return torch.tensor(self.rng.random(), dtype=torch.float64)

    @staticmethod
    def posterized(image: Image.Image, bits: int, **_: Any) -> Image.Image:
        """timm's posterize; for no bits what Pillow gave before 13, where it raises."""
        if bits < 1:
            return Image.new(image.mode, image.size)
        return POSTERIZE(image, bits)

    def erased(self, per_pixel: bool, rand: bool, shape: Any, **_: Any) -> torch.Tensor:
        """In place of random_erasing._get_pixels."""
        if not per_pixel and not rand:
            return torch.zeros((shape[0], 1, 1))
        normal = np.random.default_rng(self.rng.getrandbits(64))
        shape = shape if per_pixel else (shape[0], 1, 1)
        return torch.from_numpy(normal.standard_normal(shape, np.float32))


@pytest.fixture
def same(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """A `Random` that timm and torchvision draw from; seed it as ours before a call."""
    rng = random.Random()
    draws = Draws(rng)
    for module in (AUTO, timm.data.transforms, timm.data.random_erasing):
        monkeypatch.setattr(module, "random", rng)
    monkeypatch.setattr(AUTO, "np", draws)
    for name in ("Posterize", "PosterizeIncreasing"):
        monkeypatch.setitem(AUTO.NAME_TO_OP, name, draws.posterized)
    monkeypatch.setattr(timm.data.random_erasing, "_get_pixels", draws.erased)
    monkeypatch.setattr(
        torchvision.transforms.ColorJitter, "get_params", staticmethod(draws.jitter)
    )
    monkeypatch.setattr(torch, "rand", draws.rand)
    return rng


# --------------------------------------------------------------------------- operations


def test_every_operation_of_timms_sets_is_here() -> None:
    sets = (
        AUTO._RAND_TRANSFORMS,
        AUTO._RAND_INCREASING_TRANSFORMS,
        AUTO._RAND_3A,
        AUTO._RAND_WEIGHTED_3A,
        AUTO._RAND_WEIGHTED_0,
    )
    assert set().union(*sets) == set(OPS)
    assert tuple(AUTO._RAND_TRANSFORMS) == rand_augment._PLAIN
    assert tuple(AUTO._RAND_INCREASING_TRANSFORMS) == rand_augment._INCREASING
    assert tuple(AUTO._RAND_3A) == rand_augment._SETS["3a"]
    assert rand_augment._SETS["3aw"] == AUTO._RAND_WEIGHTED_3A
    assert rand_augment._SETS["weights"] == AUTO._RAND_WEIGHTED_0


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", sorted(OPS))
def test_an_operation_gives_timms_pixels(
    name: str, mode: str, same: random.Random
) -> None:
    fill: Any = FILL if mode == "RGB" else FILL[0]
    changed = False
    for source in NAMES:
        image = picture(source, mode).resize((160, 131))
        for magnitude in (0, 1, 4.5, 9, 10):
            theirs = AUTO.AugmentOp(name, 1.0, magnitude, {"img_mean": fill})
            ours = RandAugment("rand-p1", fill, RANDOM)
            ours.magnitude = magnitude
            for seed in range(3):
                same.seed(seed)
                got = ours.apply(name, image, random.Random(seed))
                pixels_equal(got, theirs(image))
                changed |= got.tobytes() != image.tobytes()
    grey_has_none = mode == "L" and name in ("Color", "ColorIncreasing", "Desaturate")
    assert changed != grey_has_none


CONFIGS = (
    "rand",
    "rand-m9-mstd0.5",
    "rand-m9-mstd0.5-inc1",
    "rand-n3-m7-p0.8-mstd101",
    "rand-m15-mmax20-mstd2-inc1",
    "rand-m9-mstd0.5-tweights-n4",
    "rand-t3a-n1-p1",
    "rand-m6-t3aw-inc1-n5",
)


@pytest.mark.parametrize("config", CONFIGS)
def test_rand_augment_draws_and_paints_as_timm(
    config: str, same: random.Random
) -> None:
    theirs = AUTO.rand_augment_transform(config, {"img_mean": FILL})
    ours = RandAugment(config, FILL, RANDOM)
    image = picture().resize((96, 80))
    for seed in range(40):
        same.seed(seed)
        pixels_equal(ours(image, random.Random(seed)), theirs(image))


def test_operations_come_as_often_as_numpys() -> None:
    """Our choice without replacement is NumPy's in distribution, order included."""
    config = "rand-tweights-n2"
    theirs = AUTO.rand_augment_transform(config, {"img_mean": FILL})
    ours = RandAugment(config, FILL, RANDOM)
    rng, count = random.Random(0), 20_000
    generator = np.random.RandomState(0)
    names = [op.name for op in theirs.ops]
    for position in range(2):
        got = dict.fromkeys(names, 0)
        wanted = dict.fromkeys(names, 0)
        for _ in range(count):
            got[ours.draw(rng)[position]] += 1
            chosen = generator.choice(names, 2, replace=False, p=theirs.choice_weights)
            wanted[str(chosen[position])] += 1
        for name in names:  # five deviations of a difference of two counts
            limit = 5 * np.sqrt(got[name] + wanted[name]) + 5
            assert abs(got[name] - wanted[name]) < limit, (position, name)


# ---------------------------------------------------------------------- crop and jitter


@pytest.mark.parametrize("seed", range(4))
def test_crop_boxes_are_timms(seed: int, same: random.Random) -> None:
    sizes = [(300, 451), (1000, 31), (17, 900), (64, 64), (40, 41), (224, 20)]
    ranges = (
        ((0.08, 1.0), (3 / 4, 4 / 3)),
        ((0.9, 1.0), (0.99, 1.01)),
        ((0.5, 0.6), (2.0, 3.0)),
    )
    same.seed(seed)
    rng = random.Random(seed)
    get_params = timm.data.transforms.RandomResizedCropAndInterpolation.get_params
    for size in sizes:
        for scale, ratio in ranges:
            image = Image.new("L", size)
            for _ in range(100):
                top, left, h, w = get_params(image, scale, ratio)
                box = crop_box(size, scale, ratio, rng)
                assert box == (left, top, left + w, top + h)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", NAMES)
def test_colours_change_as_torchvisions(name: str, mode: str) -> None:
    image = picture(name, mode)
    for factor in (0.0, 0.37, 1.0, 1.4, 2.3):
        for ours, theirs in (
            (color.brightness, tv.adjust_brightness),
            (color.contrast, tv.adjust_contrast),
            (color.saturation, tv.adjust_saturation),
        ):
            pixels_equal(ours(image, factor), theirs(image, factor))
    for factor in (-0.5, -0.2, 0.0, 0.1, 0.5):
        pixels_equal(color.hue(image, factor), tv.adjust_hue(image, factor))


@pytest.mark.parametrize("strength", [0.4, (0.3, 0.0, 0.8), (1.5, 0.2, 0.1, 0.25)])
def test_jitter_ranges_are_torchvisions(strength: Any) -> None:
    given = strength if isinstance(strength, tuple) else (strength,) * 3
    theirs = torchvision.transforms.ColorJitter(*given)
    ours = Augment(32, color_jitter=strength)._jitter
    assert ours is not None
    wanted = [theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue]
    assert ours.ranges == wanted


# ---------------------------------------------------------------------------- the whole


@pytest.mark.parametrize("mode", ["const", "rand", "pixel"])
def test_erased_boxes_are_timms(mode: str, same: random.Random) -> None:
    for most in (1, 4):
        theirs = timm.data.random_erasing.RandomErasing(
            0.7, mode=mode, max_count=most, device="cpu"
        )
        for seed in range(60):
            array = np.full((3, 40, 57), 9.0, np.float32)
            same.seed(seed)
            wanted = theirs(torch.from_numpy(array.copy())).numpy()
            erase(array, 0.7, mode, most, random.Random(seed))
            np.testing.assert_array_equal(array, wanted)


WHOLE: tuple[dict[str, Any], ...] = (
    {},
    {"hflip": 0.0, "color_jitter": None, "scale": (0.5, 0.9), "ratio": (1.0, 1.0)},
    {"vflip": 0.5, "color_jitter": (0.2, 0.3, 0.4, 0.1), "interpolation": "lanczos"},
    {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel"},
    {"auto_augment": "rand-m6-n4", "interpolation": "bicubic", "re_prob": 0.5},
    {
        "auto_augment": "rand-m9-t3a-n1", "force_color_jitter": True,
        "color_jitter": 0.3, "re_prob": 1.0, "re_mode": "rand", "re_count": 3,
    },
    {"color_jitter_prob": 0.8, "grayscale_prob": 0.2},
)  # fmt: skip


@pytest.mark.parametrize("options", WHOLE, ids=lambda o: " ".join(o) or "default")
def test_the_whole_transform_gives_timms_floats(
    options: dict[str, Any], same: random.Random
) -> None:
    theirs = timm.data.transforms_factory.transforms_imagenet_train(
        (64, 80), **{"interpolation": "random", **options}
    )
    ours = Augment((3, 64, 80), **options)
    for number, name in enumerate(NAMES * 8):
        same.seed(f"3 1 {number}")
        wanted = theirs(picture(name)).numpy()
        got = ours(FOLDER / name, seed=3, epoch=1, index=number)
        np.testing.assert_array_equal(got, wanted, err_msg=f"{name} {number}")


def test_defaults_are_timms() -> None:
    import inspect

    theirs = inspect.signature(timm.data.transforms_factory.transforms_imagenet_train)
    ours = inspect.signature(Augment)
    resolved = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}  # None, and then this
    for name, parameter in ours.parameters.items():
        if name in theirs.parameters:
            wanted = resolved.get(name, theirs.parameters[name].default)
            assert parameter.default == wanted, name
