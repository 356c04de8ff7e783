# SPDX-License-Identifier: Apache-2.0
"""The same pixels as timm with torchvision: byte for byte, then the same floats."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import prepare  # noqa: F401
import pytest
import skimage
import sklearn.datasets
import timm.data
from PIL import Image

import vitpool
from vitpool.transforms import (
    INTERPOLATIONS,
    ImageError,
    create_transform,
    load_image,
)

FOLDERS = (
    Path(skimage.__file__).parent / "data",
    Path(sklearn.datasets.__file__).parent / "images",
)
PICTURES = sorted(
    path
    for folder in FOLDERS
    for path in folder.iterdir()
    if path.suffix in {".png", ".jpg", ".tif", ".gif"}
    and path.name != "multipage_rgb.tif"  # Pillow cannot read it, nor can timm
)
SIGLIP = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 0.9}
CONFIGS = (
    {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bicubic"},
    {"input_size": (3, 224, 224), "interpolation": "bilinear", **SIGLIP},
    {"input_size": (3, 384, 384), "crop_pct": 1.0, "crop_mode": "squash"},
    {"input_size": (3, 97, 61), "crop_pct": 0.95, "crop_mode": "center"},
    {"input_size": (3, 64, 96), "crop_pct": 0.9, "crop_mode": "border"},
    {"input_size": (1, 55, 55), "mean": (0.4,), "std": (0.3,), "crop_mode": "border"},
)


def check(picture: object, config: dict) -> None:
    """Compare one picture under one configuration with timm's own transform."""
    mode = "RGB" if config["input_size"][0] == 3 else "L"
    if isinstance(picture, Path):
        with Image.open(picture) as image:
            image = image.convert(mode)
    elif isinstance(picture, bytes):
        image = Image.open(io.BytesIO(picture)).convert(mode)
    else:
        image = picture.convert(mode)
    ours = create_transform(**config)
    expected = timm.data.create_transform(**config, normalize=False)(image).numpy()
    np.testing.assert_array_equal(ours.pixels(picture).transpose(2, 0, 1), expected)
    floats = timm.data.create_transform(**config)(image).numpy()
    result = ours(picture)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, floats)


def test_enough_pictures_were_found() -> None:
    assert len(PICTURES) >= 30


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c['input_size']}")
@pytest.mark.parametrize("path", PICTURES, ids=lambda p: p.name)
def test_sample_pictures(path: Path, config: dict) -> None:
    check(path, config)


@pytest.mark.parametrize("interpolation", sorted(INTERPOLATIONS))
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_every_interpolation_and_crop_mode(interpolation: str, crop_mode: str) -> None:
    for size, crop_pct in (((3, 224, 224), 0.875), ((3, 30, 200), 0.77)):
        config = {
            "input_size": size, "interpolation": interpolation,
            "crop_mode": crop_mode, "crop_pct": crop_pct,
        }  # fmt: skip
        check(FOLDERS[0] / "chelsea.png", config)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_odd_sizes_and_sides_of_one_pixel(crop_mode: str) -> None:
    rng = random.Random(0)
    sizes = [(1, 1), (1, 2), (3, 1), (1, 40), (40, 1), (31, 33), (223, 225), (224, 224)]
    sizes += [(256, 256), (255, 257), (500, 333)]
    sizes += [(rng.randint(2, 400), rng.randint(2, 400)) for _ in range(60)]
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), np.uint8)
    for height, width in sizes:
        image = Image.fromarray(noise[:height, :width])
        for target in ((3, 224, 224), (3, 33, 33), (3, 50, 77)):
            pct = rng.choice([0.875, 0.9, 0.95, 1.0])
            config = {
                "input_size": target, "crop_mode": crop_mode, "crop_pct": pct,
                "interpolation": "bicubic",
            }  # fmt: skip
            if crop_mode == "border" and max(height / width, width / height) > 30:
                continue  # a side of no pixel: both refuse, see test_transforms.py
            check(image, config)


def encoded(mode: str, kind: str, **options: object) -> bytes:
    """A picture of the given Pillow mode, as the bytes of a file."""
    with Image.open(FOLDERS[0] / "coffee.png") as coffee:
        coffee = coffee.resize((301, 203))
        if mode == "RGBA":
            coffee.putalpha(Image.linear_gradient("L").resize(coffee.size))
        elif mode == "I;16":
            values = np.asarray(coffee.convert("L")).astype(np.uint16) * 257
            coffee = Image.fromarray(values)
        else:
            coffee = coffee.convert(mode)
    buffer = io.BytesIO()
    coffee.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"),
        ("I;16", "PNG"), ("I;16", "TIFF"), ("CMYK", "JPEG"), ("L", "JPEG"),
        ("YCbCr", "JPEG"), ("CMYK", "TIFF"), ("P", "GIF"), ("RGB", "WEBP"),
        ("RGB", "BMP"), ("F", "TIFF"), ("LAB", "TIFF"),
    ],
)  # fmt: skip
def test_modes_of_pictures(mode: str, kind: str) -> None:
    content = encoded(mode, kind)
    for config in CONFIGS:
        if mode == "LAB" and config["input_size"][0] == 1:
            with pytest.raises(ValueError, match="conversion"):  # Pillow, for timm
                Image.open(io.BytesIO(content)).convert("L")
            with pytest.raises(ImageError, match="conversion"):
                create_transform(**config)(content)
        else:
            check(content, config)


def test_palette_with_transparency() -> None:
    check(encoded("P", "PNG", transparency=0), CONFIGS[0])


def test_exif_orientation_is_left_alone_unless_asked() -> None:
    with Image.open(FOLDERS[0] / "coffee.png") as coffee:
        exif = coffee.getexif()
        exif[0x0112] = 6
        buffer = io.BytesIO()
        coffee.convert("RGB").resize((120, 80)).save(buffer, "JPEG", exif=exif)
    check(buffer.getvalue(), CONFIGS[0])
    assert load_image(buffer.getvalue()).size == (120, 80)
    assert load_image(buffer.getvalue(), exif=True).size == (80, 120)


@pytest.mark.parametrize(
    "name",
    [
        "vit_base_patch16_224", "vit_tiny_patch16_384", "vit_small_patch14_dinov2",
        "vit_base_patch16_siglip_224", "vit_base_patch32_clip_448",
        "vit_base_patch16_224_miil", "vit_so400m_patch14_siglip_378",
    ],
)  # fmt: skip
def test_data_config_is_timms(name: str) -> None:
    cfg = timm.get_pretrained_cfg(name).to_dict()
    for test_size in (False, True):
        theirs = timm.data.resolve_data_config({}, cfg, use_test_size=test_size)
        ours = vitpool.resolve_data_config(cfg, use_test_size=test_size)
        assert ours == {k: theirs[k] for k in ours}
        assert ours.keys() == theirs.keys()
    given = {"mean": [0.1], "std": [0.2, 0.3, 0.4], "crop_pct": 0.5,
             "crop_mode": "border", "interpolation": "box", "img_size": 99}  # fmt: skip
    assert vitpool.resolve_data_config(cfg, **given) == timm.data.resolve_data_config(
        given, cfg
    )
