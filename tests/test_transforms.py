# SPDX-License-Identifier: Apache-2.0
"""Preprocessing: sizes, inputs, refusals. That pixels are timm's is in tests/timm."""

from __future__ import annotations

import io
import itertools
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import rerun
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitpool.transforms import (
    CROP_MODES,
    INTERPOLATIONS,
    ImageError,
    create_transform,
    load_image,
    preprocess,
    resolve_data_config,
    stream,
)


def noise(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), np.uint8)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


# ------------------------------------------------------------------------------- pixels


def test_a_picture_of_the_right_size_is_untouched() -> None:
    array = noise(32, 32)
    transform = create_transform((3, 32, 32), crop_pct=1.0)
    np.testing.assert_array_equal(transform.pixels(array), array)


def test_normalisation_is_divide_by_255_subtract_divide_in_float32() -> None:
    array = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    result = create_transform((3, 16, 16), mean=mean, std=std, crop_pct=1.0)(array)
    u = array.astype(np.float32) / np.float32(255)
    expected = (u - np.float32(mean)) / np.float32(std)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, expected.transpose(2, 0, 1))


def test_short_side_is_resized_and_the_long_one_rounded_down() -> None:
    # torchvision: 256 * 500 / 333 = 384.38 -> 384; the crop then begins at column 80
    image = Image.fromarray(noise(333, 500))
    resized = image.resize((384, 256), Image.Resampling.BICUBIC)
    expected = np.asarray(resized.crop((80, 16, 304, 240)))
    transform = create_transform(224, "bicubic", crop_pct=0.875)
    np.testing.assert_array_equal(transform.pixels(image), expected)


@pytest.mark.parametrize("turned", [False, True])
def test_the_long_side_is_rounded_down_not_to_the_nearest(turned: bool) -> None:
    # 256 * 499 / 333 = 383.6 -> 383; the crop then begins at (383 - 224) / 2 -> 80
    array, size, box = noise(333, 499), (383, 256), (80, 16, 304, 240)
    if turned:
        array, size, box = array.transpose(1, 0, 2), size[::-1], (16, 80, 240, 304)
    image = Image.fromarray(np.ascontiguousarray(array))
    expected = image.resize(size, Image.Resampling.BICUBIC).crop(box)
    transform = create_transform(224, "bicubic", crop_pct=0.875)
    np.testing.assert_array_equal(transform.pixels(image), np.asarray(expected))


def test_a_kept_ratio_is_rounded_to_the_nearest() -> None:
    # to fit into 40 x 40: 100 x 29 becomes 40 x 11.6 -> 12
    image = Image.fromarray(noise(29, 100))
    transform = create_transform(40, "bicubic", crop_mode="border", crop_pct=1.0)
    pixels = transform.pixels(image)
    expected = image.resize((40, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels[14:26], np.asarray(expected))
    # a target that is not square: the short side fits, 30 x 41.4 -> 41
    image = Image.fromarray(noise(29, 40))
    expected = image.resize((41, 30), Image.Resampling.BICUBIC).crop((0, 0, 40, 30))
    pixels = create_transform((30, 40), "bicubic", crop_pct=1.0).pixels(image)
    np.testing.assert_array_equal(pixels, np.asarray(expected))


def test_odd_padding_has_its_extra_line_below_and_to_the_right() -> None:
    array = noise(20, 17)
    transform = create_transform(
        20, "bicubic", mean=0.0, crop_mode="border", crop_pct=1.0
    )
    pixels = transform.pixels(array)
    np.testing.assert_array_equal(pixels[:, 1:18], array)
    assert not pixels[:, 0].any()
    assert not pixels[:, 18:].any()
    pixels = transform.pixels(array.transpose(1, 0, 2))
    np.testing.assert_array_equal(pixels[1:18], array.transpose(1, 0, 2))


def test_odd_crop_rounds_half_to_even_as_python_does() -> None:
    # 256 resized, 33 to keep: (256 - 33) / 2 = 111.5 -> 112
    image = Image.fromarray(noise(256, 256))
    transform = create_transform(33, "nearest", crop_pct=33 / 256)
    expected = np.asarray(image)[112:145, 112:145]
    np.testing.assert_array_equal(transform.pixels(image), expected)


def test_border_mode_fills_with_the_mean_colour() -> None:
    transform = create_transform(
        (3, 40, 40), mean=(0.1, 0.5, 0.9), crop_mode="border", crop_pct=1.0
    )
    pixels = transform.pixels(noise(10, 20))
    assert pixels[0, 0].tolist() == [26, 128, 230]
    assert pixels[-1, -1].tolist() == [26, 128, 230]


def test_squash_mode_loses_nothing_and_keeps_no_shape() -> None:
    array = noise(10, 20)
    pixels = create_transform(
        40, "nearest", crop_mode="squash", crop_pct=1.0
    ).pixels(array)  # fmt: skip
    np.testing.assert_array_equal(pixels[::4, ::2], array)


@rerun.settings(60)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(CROP_MODES),
    interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
    pct=st.floats(0.3, 1.0),
)
def test_every_size_comes_out_as_asked(size, target, mode, interpolation, pct) -> None:
    transform = create_transform(
        target, interpolation, crop_pct=pct, crop_mode=mode
    )  # fmt: skip
    if mode == "border":
        ratio = max(size[i] / int(target[i] / pct) for i in (0, 1))
        if min(round(side / ratio) for side in size) < 1:
            with pytest.raises(ImageError, match="would be resized"):
                transform(noise(*size))
            return
    assert transform(noise(*size)).shape == (3, *target)


def test_grey_models_get_one_channel() -> None:
    array = noise(20, 20)
    grey = np.asarray(Image.fromarray(array).convert("L"))
    transform = create_transform((1, 20, 20), mean=0.5, std=0.5, crop_pct=1.0)
    np.testing.assert_array_equal(transform.pixels(array)[:, :, 0], grey)
    assert transform(array).shape == (1, 20, 20)


# ------------------------------------------------------------------------------- inputs


def test_all_kinds_of_input_agree(tmp_path: Path) -> None:
    array = noise(30, 50)
    path = tmp_path / "a.png"
    path.write_bytes(png(array))
    transform = create_transform(24)
    expected = transform(array)
    for picture in (
        path, str(path), png(array), bytearray(png(array)), memoryview(png(array)),
        Image.open(path), Image.fromarray(array), array[:, ::-1][:, ::-1],
    ):  # fmt: skip
        np.testing.assert_array_equal(transform(picture), expected)


def test_arrays_may_be_grey_or_have_alpha() -> None:
    transform = create_transform(16, crop_pct=1.0)
    grey = noise(16, 16, channels=1)
    for array in (grey, grey[:, :, 0], grey.repeat(3, 2)):
        assert (transform.pixels(array) == grey).all()
    rgba = noise(16, 16, channels=4)
    np.testing.assert_array_equal(transform.pixels(rgba), rgba[:, :, :3])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_modes_are_converted_as_pillow_does(mode: str) -> None:
    base = Image.fromarray(noise(20, 20))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 257)
    else:
        image = base.convert(mode)
    assert image.mode == mode
    expected = np.asarray(image.convert("RGB"))
    transform = create_transform(20, crop_pct=1.0)
    np.testing.assert_array_equal(transform.pixels(image), expected)


def test_exif_orientation_is_applied_only_when_asked() -> None:
    image = Image.fromarray(noise(20, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert load_image(buffer.getvalue()).size == (40, 20)
    assert load_image(buffer.getvalue(), exif=True).size == (20, 40)
    size = {"input_size": (20, 40), "crop_pct": 1.0, "crop_mode": "squash"}
    plain = create_transform(**size).pixels(buffer.getvalue())
    turned = create_transform(**size, exif=True).pixels(buffer.getvalue())
    np.testing.assert_array_equal(plain, np.asarray(image))
    assert not np.array_equal(turned, plain)


@pytest.mark.parametrize(
    ("picture", "error", "words"),
    [
        (b"no picture", ImageError, "<10 bytes>: not a picture"),
        (b"", ImageError, "<0 bytes>"),
        ("/does/not/exist.png", FileNotFoundError, "/does/not/exist.png"),
        (7, TypeError, "int, allowed are a path"),
        (np.zeros((4, 4, 3), np.float32), TypeError, "float32, allowed is uint8"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"\(4, 4, 2\)"),
        (np.zeros((4,), np.uint8), ValueError, r"\(4,\)"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(picture, error, words) -> None:
    with pytest.raises(error, match=words):
        create_transform(8)(picture)


def test_truncated_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    content = png(noise(64, 64))
    transform = create_transform(8)
    for length in range(0, len(content) - 12, 997):
        path.write_bytes(content[:length])
        with pytest.raises(ImageError, match=r"cut\.png: "):
            transform(path)


def test_no_file_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(noise(9, 9)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        create_transform(8)(path)
        path.write_bytes(b"broken")
        with pytest.raises(ImageError):
            create_transform(8)(path)


@pytest.mark.parametrize("wrong", [32, "vit_digits", [224]])
def test_a_config_is_of_a_model_or_a_mapping(wrong: object) -> None:
    with pytest.raises(TypeError, match="expected a model or a mapping, not"):
        resolve_data_config(wrong)


def test_a_needle_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(ImageError, match="would be resized to 224x"):
        create_transform(224, crop_pct=1.0)(np.zeros((20_000, 1, 3), np.uint8))


def test_image_error_pickles() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.png", "broken")))
    assert (str(error), error.name) == ("a.png: broken", "a.png")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_size": 0}, "input_size must be at least 1, not 0"),
        ({"input_size": (3, 4, 5, 6)}, "input_size"),
        ({"input_size": (4, 8, 8)}, "4 channels"),
        ({"interpolation": "cubic"}, "interpolation: 'cubic'.*bicubic"),
        ({"crop_mode": "middle"}, "crop_mode: 'middle'.*center"),
        ({"crop_pct": -1}, "crop_pct: -1"),
        ({"mean": (0.1, 0.2)}, "mean: 2 values"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"std": (float("nan"), 1.0, 1.0)}, "std"),
    ],
)
def test_wrong_options_say_what_is_allowed(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        create_transform(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"input_size": np.int64(24)},
        {"input_size": (np.int32(24), np.uint8(24))},
        {"input_size": np.array([3, 24, 24])},
        {"mean": np.float32(0.5), "std": np.array(0.25)},
        {"mean": np.full(3, 0.5, np.float32), "crop_pct": np.float32(0.5)},
    ],
    ids=repr,
)
def test_numbers_may_be_numpys(options) -> None:
    plain = {k: np.asarray(v).tolist() for k, v in options.items()}
    transform = create_transform(**options)
    assert repr(transform) == repr(create_transform(**plain))  # and of Python's types
    assert resolve_data_config(**as_config(options)) == resolve_data_config(
        **as_config(plain)
    )
    config = resolve_data_config(dict(as_config(options)))
    assert config == resolve_data_config(dict(as_config(plain)))
    json.dumps(config)


def as_config(options: dict) -> dict:
    """The options of `resolve_data_config` that ask for the same."""
    options = dict(options)
    size = options.pop("input_size", 24)
    key = "input_size" if np.size(size) == 3 else "img_size"
    return {key: size, **options}


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ((3, 24.5, 24), TypeError),
        ((3.5, 24, 24), TypeError),
        ((True, 24, 24), TypeError),
        ((3, 24, 0), ValueError),
        ((0, 24, 24), ValueError),
        ((3, 24), ValueError),
        (24, ValueError),
    ],
)
def test_a_size_is_three_whole_numbers_above_zero(size, error) -> None:
    for call in (
        lambda: resolve_data_config(input_size=size),
        lambda: resolve_data_config({"input_size": size}),
    ):
        with pytest.raises(error, match="input_size"):
            call()


# ------------------------------------------------------------------------------- config


def test_config_defaults_are_timms() -> None:
    assert resolve_data_config() == {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": 0.875,
        "crop_mode": "center",
    }


def test_config_takes_overrides_and_refuses_unknown_ones() -> None:
    cfg = {"input_size": (3, 32, 32), "crop_pct": 0.9, "test_input_size": (3, 48, 48)}
    assert resolve_data_config(cfg)["input_size"] == (3, 32, 32)
    assert resolve_data_config(cfg, use_test_size=True)["input_size"] == (3, 48, 48)
    assert resolve_data_config(cfg, img_size=16)["input_size"] == (3, 16, 16)
    assert resolve_data_config(cfg, img_size=None, crop_pct=0.5)["crop_pct"] == 0.5
    assert resolve_data_config(cfg, mean=0.5)["mean"] == (0.5, 0.5, 0.5)
    with pytest.raises(TypeError, match="crop_percentage"):
        resolve_data_config(cfg, crop_percentage=0.5)


def test_a_mean_of_three_becomes_a_grey_models_average() -> None:
    cfg = {"input_size": (3, 32, 32), "mean": (0.1, 0.2, 0.6), "std": (0.2, 0.3, 0.7)}
    config = resolve_data_config(cfg, in_chans=1)
    assert config["mean"] == pytest.approx((0.3,))
    assert config["std"] == pytest.approx((0.4,))


def test_config_is_of_the_model_as_built() -> None:
    import vitpool

    model = vitpool.create_model("vit_tiny_patch16_224", img_size=64, in_chans=1)
    config = resolve_data_config(model)
    assert config["input_size"] == (1, 64, 64)
    assert len(config["mean"]) == len(config["std"]) == 1
    assert model(create_transform(**config)(noise(80, 90))[None]).shape == (1, 1000)


# -------------------------------------------------------------------------------- batch


def test_preprocess_is_the_transform_of_each_whatever_the_threads() -> None:
    pictures = [noise(20 + i, 30 - i, seed=i) for i in range(9)]
    cfg = {"input_size": (3, 16, 16)}
    transform = create_transform(**resolve_data_config(cfg))
    expected = np.stack([transform(p) for p in pictures])
    for workers in (None, 0, 1, 4):
        result = preprocess(pictures, cfg, num_workers=workers)
        np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(preprocess(pictures[0], transform), expected[:1])
    np.testing.assert_array_equal(preprocess(png(pictures[0]), cfg), expected[:1])
    assert preprocess([], cfg).shape == (0, 3, 16, 16)


def test_preprocess_raises_with_the_name_of_the_bad_one(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"xx")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        preprocess([noise(8, 8), tmp_path / "bad.jpg"], {})
    with pytest.raises(TypeError, match="images: int"):
        preprocess(7)


def test_model_preprocess_makes_what_the_model_takes() -> None:
    import vitpool

    model = vitpool.create_model("vit_digits", pretrained=True)
    batch = model.preprocess([noise(96, 96), noise(10, 10)])
    assert batch.shape == (2, 3, 32, 32)
    assert model(batch).shape == (2, 10)


def test_stream_keeps_order_and_every_failure() -> None:
    pictures: list = [png(noise(20, 20, seed=i)) for i in range(10)]
    pictures[3] = b"broken"
    pictures[9] = "/does/not/exist.png"
    transform = create_transform(8)
    batches = list(stream(pictures, transform, batch_size=4, num_workers=3))
    assert [b.good for b in batches] == [[0, 1, 2], [0, 1, 2, 3], [0]]
    assert [sorted(b.errors) for b in batches] == [[3], [], [1]]
    assert "No such file" in batches[2].errors[1]
    got = np.concatenate([b.inputs for b in batches])
    whole = [p for i, p in enumerate(pictures) if i not in (3, 9)]
    np.testing.assert_array_equal(got, np.stack([transform(p) for p in whole]))


def test_stream_reads_no_further_than_it_must() -> None:
    taken = itertools.count()
    sources = ((next(taken), noise(4, 4))[1] for _ in itertools.count())
    batches = stream(sources, create_transform(4), batch_size=5, num_workers=2)
    for _ in range(4):
        next(batches)
    batches.close()
    assert next(taken) <= 4 * 5 + 3 * 5


def test_a_masked_picture_is_refused() -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    masked = np.ma.masked_equal(pixels, 0)
    with pytest.raises(TypeError, match="masked"):
        load_image(masked)
    assert load_image(masked.filled(7)).getpixel((0, 0)) == (7, 7, 7)
