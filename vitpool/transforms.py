# SPDX-License-Identifier: Apache-2.0
"""Pictures to model input: timm's evaluation pipeline on Pillow, without PyTorch.

resize (Pillow) -> centre crop or pad -> (u / 255 - mean) / std in C, as float32 CHW.
Up to the normalisation the pixels are byte for byte those of timm with torchvision,
whose rounding is repeated here number for number.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from . import _core

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_PCT = 0.875
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
    "lanczos": Image.Resampling.LANCZOS,
}

# A resized picture larger than this is refused: a side of one pixel beside one of
# 100,000 would else ask for 20 GB. It is twice Pillow's own limit for a decoded one.
MAX_RESIZED_PIXELS = 178_956_970


class ImageError(ValueError):
    """A picture could not be read or used; the message begins with its name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


# --------------------------------------------------------------------------- reading


def image_name(source: Any) -> str:
    """Say what a picture is in a message: its path, or its kind."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or f"<{source.mode} image>"
    if isinstance(source, np.ndarray):
        return f"<array {source.shape}>"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<{len(source)} bytes>"
    return f"<{type(source).__name__}>"


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise TypeError(
            f"image array: dtype {array.dtype}, allowed is uint8 (for float input "
            "call the model on a normalised (B, C, H, W) array instead)"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ValueError(
            f"image array: shape {array.shape}, allowed are (H, W), (H, W, 1), "
            "(H, W, 3) and (H, W, 4)"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def load_image(source: Any, mode: str | None = "RGB", *, exif: bool = False) -> Any:
    """Open and decode one picture.

    source: path, bytes, PIL image or uint8 array (H, W[, 1|3|4]). mode: the Pillow
    mode to convert to, as Pillow converts (None leaves it). exif: turn the picture
    as its EXIF orientation says; timm does not, so neither does the default.

    Raises ImageError for what Pillow cannot read, FileNotFoundError and the like for
    a path that cannot be opened, TypeError for anything else.
    """
    if isinstance(source, np.ndarray):
        image = _from_array(source)
        return image if mode in (None, image.mode) else image.convert(mode)
    if isinstance(source, (bytes, bytearray, memoryview)):
        stream: Any = io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        stream = open(source, "rb")  # noqa: SIM115 - closed below, or by the caller
    elif isinstance(source, Image.Image):
        stream = None
    else:
        raise TypeError(
            f"image: {type(source).__name__}, allowed are a path, bytes, a PIL image "
            "and a uint8 array"
        )
    try:
        image = source if stream is None else Image.open(stream)
        if exif:
            image = ImageOps.exif_transpose(image)
        image.load()
        return image if mode in (None, image.mode) else image.convert(mode)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every type there is
        if isinstance(error, UnidentifiedImageError):
            reason = "not a picture that Pillow can read"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(image_name(source), reason) from error
    finally:
        if stream is not None:
            stream.close()


# -------------------------------------------------------------------- configuration


def _pair(size: int | Sequence[int], name: str) -> tuple[int, int]:
    values = (size, size) if isinstance(size, int) else tuple(size)
    if len(values) == 3:
        values = values[1:]
    if len(values) != 2 or any(isinstance(v, bool) or v < 1 for v in values):
        raise ValueError(
            f"{name}: {size!r}, allowed is H, (H, W) or (C, H, W), each > 0"
        )
    return int(values[0]), int(values[1])


# More than any picture has; a config's claim is not believed beyond it.
_MOST_CHANNELS = 4096


def _number(kind: type, value: Any, name: str) -> Any:
    """value as int or float; ValueError where it is too large to be one."""
    try:
        return kind(value)
    except OverflowError as error:
        raise ValueError(f"{name}: {value!s:.40} is too large") from error


def _channels(values: Any, channels: int, name: str) -> tuple[float, ...]:
    """One value for each channel; one value serves all, as in timm."""
    numbers = (values,) if isinstance(values, (int, float)) else tuple(values)
    if len(numbers) not in (1, channels):
        raise ValueError(
            f"{name}: {len(numbers)} values, allowed are 1 or one for each of "
            f"{channels} channels"
        )
    out = tuple(_number(float, v, name) for v in numbers)
    return out if len(out) == channels else out * channels


def resolve_data_config(
    model: Any = None, *, use_test_size: bool = False, **overrides: Any
) -> dict[str, Any]:
    """How pictures must be prepared for a model: timm's `resolve_data_config`.

    model: a VisionTransformer, its `default_cfg`, or None for timm's defaults.
    overrides (None means "not given"): input_size (C, H, W), img_size (H or (H, W)),
    in_chans, interpolation, mean, std, crop_pct, crop_mode.
    use_test_size: prefer the config's test_input_size and test_crop_pct.

    Returns input_size, interpolation, mean, std, crop_pct and crop_mode. Unlike timm
    the size and the channels are those of the model itself where it has been built for
    others than its config names, so that the result always fits the model; and a mean
    of three for a model of another channel count becomes their average.
    """
    given = {k: v for k, v in overrides.items() if v is not None}
    known = {
        "input_size", "img_size", "in_chans", "interpolation", "mean", "std",
        "crop_pct", "crop_mode",
    }  # fmt: skip
    unknown = sorted(set(given) - known)
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}, allowed: {sorted(known)}")
    if model is None or isinstance(model, Mapping):
        cfg, built = dict(model or {}), None
    else:
        cfg, built = dict(model.pretrained_cfg or {}), model

    size: Any = cfg.get("input_size") or (3, 224, 224)
    if use_test_size and cfg.get("test_input_size"):
        size = cfg["test_input_size"]
    channels, height, width = (_number(int, v, "input_size") for v in size)
    if built is not None:
        channels = built.in_chans
        if not (built.dynamic_img_size and cfg.get("input_size")):
            height, width = built.img_size
    channels = _number(int, given.get("in_chans", channels), "in_chans")
    if "img_size" in given:
        height, width = _pair(given["img_size"], "img_size")
    if "input_size" in given:
        if len(given["input_size"]) != 3:
            raise ValueError(
                f"input_size: {given['input_size']!r}, allowed is (C, H, W)"
            )
        channels = _number(int, given["input_size"][0], "input_size")
        height, width = _pair(given["input_size"], "input_size")

    if not 0 < channels <= _MOST_CHANNELS:
        raise ValueError(
            f"input_size: {channels} channels, allowed are 1 to {_MOST_CHANNELS}"
        )

    out: dict[str, Any] = {"input_size": (channels, height, width)}
    out["interpolation"] = (
        given.get("interpolation") or cfg.get("interpolation") or "bicubic"
    )
    for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        values = given.get(key)
        if values is None:
            values = cfg.get(key) or default
            if not isinstance(values, (int, float)) and len(values) != channels:
                values = sum(_number(float, v, key) for v in values) / len(values)
        out[key] = _channels(values, channels, key)
    crop_pct = cfg.get("crop_pct") or CROP_PCT
    if use_test_size and cfg.get("test_crop_pct"):
        crop_pct = cfg["test_crop_pct"]
    out["crop_pct"] = _number(float, given.get("crop_pct") or crop_pct, "crop_pct")
    out["crop_mode"] = given.get("crop_mode") or cfg.get("crop_mode") or "center"
    return out


# -------------------------------------------------------------------------- transform


def _short_side(size: tuple[int, int], target: int) -> tuple[int, int]:
    """torchvision's Resize(int): the short side becomes target; (H, W) to (H, W)."""
    height, width = size
    if width <= height:
        return int(target * height / width), target
    return target, int(target * width / height)


def _keep_ratio(
    size: tuple[int, int], target: tuple[int, int], longest: float
) -> tuple[int, int]:
    """timm's ResizeKeepRatio: fit the long (1.0) or the short (0.0) side."""
    ratios = size[0] / target[0], size[1] / target[1]
    ratio = max(ratios) * longest + min(ratios) * (1.0 - longest)
    return round(size[0] / ratio), round(size[1] / ratio)


def _centre(image: Any, size: tuple[int, int], fill: tuple[int, ...]) -> Any:
    """Pad what is too small, then cut the middle out: size is (H, W)."""
    (height, width), (w, h) = size, image.size
    pad_w, pad_h = max(width - w, 0), max(height - h, 0)
    if pad_w or pad_h:
        canvas = Image.new(image.mode, (w + pad_w, h + pad_h), fill)
        canvas.paste(image, (pad_w // 2, pad_h // 2))
        image = canvas
        w, h = image.size
    top, left = round((h - height) / 2.0), round((w - width) / 2.0)
    return image.crop((left, top, left + width, top + height))


class Transform:
    """One picture to one model input; made by `create_transform`.

    `transform(picture)` gives float32 (C, H, W); `transform.pixels(picture)` the uint8
    (H, W, C) before normalisation; `transform.image(picture)` the same as a PIL image.
    Safe to call from several threads.
    """

    def __init__(
        self,
        input_size: int | Sequence[int] = 224,
        interpolation: str = "bilinear",
        mean: float | Sequence[float] = IMAGENET_MEAN,
        std: float | Sequence[float] = IMAGENET_STD,
        crop_pct: float | None = None,
        crop_mode: str | None = None,
        exif: bool = False,
    ) -> None:
        self.size = _pair(input_size, "input_size")
        self.channels = 3
        if not isinstance(input_size, int) and len(input_size) == 3:
            self.channels = int(input_size[0])
        if self.channels not in (1, 3):
            raise ValueError(
                f"input_size: {self.channels} channels, but pictures give 1 or 3; call "
                "the model on your own (B, C, H, W) array instead"
            )
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation: {interpolation!r}, allowed: {sorted(INTERPOLATIONS)}"
            )
        self.crop_mode = crop_mode or "center"
        if self.crop_mode not in CROP_MODES:
            raise ValueError(f"crop_mode: {crop_mode!r}, allowed: {list(CROP_MODES)}")
        self.crop_pct = float(crop_pct or CROP_PCT)
        if not 0.0 < self.crop_pct <= 16.0:
            raise ValueError(f"crop_pct: {crop_pct!r}, allowed is above 0, at most 16")
        self.interpolation = interpolation
        self.mean = _channels(mean, self.channels, "mean")
        self.std = _channels(std, self.channels, "std")
        if any(not v > 0 for v in self.std):
            raise ValueError(f"std: {std!r}, allowed is above 0")
        self.exif = exif

    def __repr__(self) -> str:
        size = (self.channels, *self.size)
        return (
            f"Transform(input_size={size}, interpolation={self.interpolation!r}, "
            f"mean={self.mean}, std={self.std}, crop_pct={self.crop_pct}, "
            f"crop_mode={self.crop_mode!r}, exif={self.exif})"
        )

    @property
    def mode(self) -> str:
        """The Pillow mode pictures are converted to."""
        return "RGB" if self.channels == 3 else "L"

    def image(self, picture: Any) -> Any:
        """Decode, convert, resize and crop; returns a PIL image."""
        image = load_image(picture, self.mode, exif=self.exif)
        high, wide = self.size
        scale = math.floor(high / self.crop_pct), math.floor(wide / self.crop_pct)
        size = image.size[1], image.size[0]
        fill: tuple[int, ...] = (0,) * self.channels
        if 0 in size:
            raise ImageError(image_name(picture), f"empty: {size[1]}x{size[0]} pixels")
        if self.crop_mode == "squash":
            new = scale
        elif self.crop_mode == "border":
            new = _keep_ratio(size, scale, longest=1.0)
            fill = tuple(round(255 * v) for v in self.mean)
        elif scale[0] == scale[1]:
            new = _short_side(size, scale[0])
        else:
            new = _keep_ratio(size, scale, longest=0.0)
        if min(new) < 1 or new[0] * new[1] > MAX_RESIZED_PIXELS:
            raise ImageError(
                image_name(picture),
                f"{size[1]}x{size[0]} pixels would be resized to {new[1]}x{new[0]}",
            )
        if new != size:
            image = image.resize((new[1], new[0]), INTERPOLATIONS[self.interpolation])
        fill_value: Any = fill if self.channels == 3 else fill[0]
        return _centre(image, self.size, fill_value)

    def pixels(self, picture: Any) -> NDArray[np.uint8]:
        """Decode, convert, resize and crop; returns uint8 (H, W, C)."""
        return np.asarray(self.image(picture)).reshape(*self.size, self.channels)

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (H, W, C) or (B, H, W, C) to float32 (C, H, W) or (B, C, H, W)."""
        if pixels.ndim == 3:
            one: NDArray[np.float32] = _core.normalize_u8(pixels, self.mean, self.std)
            return one
        out = np.empty((len(pixels), self.channels, *pixels.shape[1:3]), np.float32)
        for index, image in enumerate(pixels):
            out[index] = _core.normalize_u8(image, self.mean, self.std)
        return out

    def __call__(self, picture: Any) -> NDArray[np.float32]:
        """Decode, convert, resize, crop and normalise; returns float32 (C, H, W)."""
        return self.normalize(self.pixels(picture))


def create_transform(
    input_size: int | Sequence[int] = 224,
    interpolation: str = "bilinear",
    mean: float | Sequence[float] = IMAGENET_MEAN,
    std: float | Sequence[float] = IMAGENET_STD,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    *,
    exif: bool = False,
) -> Transform:
    """timm's evaluation transform: `create_transform(**resolve_data_config(model))`.

    input_size: H, (H, W) or (C, H, W), C 1 (grey) or 3. interpolation: nearest,
    bilinear, bicubic, box, hamming, lanczos. crop_pct: the part of the resized picture
    that is kept (default 0.875). crop_mode: center (short side resized, middle kept),
    squash (both sides resized, shape lost), border (long side resized, the rest filled
    with the mean colour). exif: apply the EXIF orientation (timm does not).
    """
    return Transform(input_size, interpolation, mean, std, crop_pct, crop_mode, exif)


def preprocess(
    images: Any,
    config: Any = None,
    *,
    num_workers: int | None = None,
    **options: Any,
) -> NDArray[np.float32]:
    """Many pictures to one batch, float32 (B, C, H, W), decoded in a thread pool.

    images: an iterable of paths, bytes, PIL images or uint8 arrays, or one of them.
    config: a Transform, a model, a dict as `resolve_data_config` returns, or None.
    num_workers: decoding threads; default the processors, at most 8; 0 for none.
    options: overrides as in `resolve_data_config`, and `exif`.

    The first picture that cannot be read raises, and its name is in the message.
    """
    if isinstance(config, Transform):
        if options:
            raise TypeError("options cannot be given together with a Transform")
        transform = config
    else:
        exif = bool(options.pop("exif", False))
        transform = create_transform(
            **resolve_data_config(config, **options), exif=exif
        )
    single = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike))
    single = single or isinstance(images, Image.Image)
    if single or (isinstance(images, np.ndarray) and images.ndim in (2, 3)):
        images = [images]
    elif not isinstance(images, Iterable):
        raise TypeError(f"images: {type(images).__name__}, allowed is an iterable")
    sources = list(images)
    batch = np.empty((len(sources), *transform.size, transform.channels), np.uint8)

    def fill(index: int) -> None:
        batch[index] = transform.pixels(sources[index])

    workers = default_workers() if num_workers is None else num_workers
    if workers < 0:
        raise ValueError(f"num_workers: {num_workers}, allowed is 0 or more")
    if workers < 2 or len(sources) < 2:
        for index in range(len(sources)):
            fill(index)
    else:
        with ThreadPoolExecutor(min(workers, len(sources))) as pool:
            for _ in pool.map(fill, range(len(sources))):
                pass
    return transform.normalize(batch)


def default_workers() -> int:
    """Decoding threads: the processors this process may use, at most 8."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), 8)
    return min(os.cpu_count() or 1, 8)


# ---------------------------------------------------------------------------- stream


class Batch(NamedTuple):
    """Some pictures on their way through a model; `stream` yields these in order."""

    sources: list[Any]  # as they came
    good: list[int]  # which of them could be read
    errors: dict[int, str]  # why the others could not, by index into sources
    inputs: NDArray[np.float32]  # (len(good), C, H, W)


def stream(
    sources: Iterable[Any],
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int | None = None,
) -> Iterator[Batch]:
    """Read pictures batch by batch, ahead of the consumer and in bounded memory.

    While the consumer computes, num_workers threads (default as `preprocess`) decode
    up to two batches ahead. sources may be endless; it is read as needed. A picture
    that cannot be read becomes an entry of `errors`, whatever the reason.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}, allowed is 1 or more")
    workers = max(1, default_workers() if num_workers is None else num_workers)

    def read(source: Any) -> NDArray[np.uint8] | str:
        try:
            return transform.pixels(source)
        except ImageError as error:
            return error.reason
        except OSError as error:
            return error.strerror or str(error)
        except MemoryError:
            return "out of memory"

    def collect(group: list[tuple[Any, Future[Any]]]) -> Batch:
        results = [future.result() for _, future in group]
        good = [i for i, r in enumerate(results) if not isinstance(r, str)]
        errors = {i: r for i, r in enumerate(results) if isinstance(r, str)}
        shape = (0, *transform.size, transform.channels)
        pixels = np.stack([results[i] for i in good]) if good else np.empty(shape, "u1")
        return Batch([s for s, _ in group], good, errors, transform.normalize(pixels))

    pool = ThreadPoolExecutor(workers)
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    try:
        for source in sources:
            waiting.append((source, pool.submit(read, source)))
            if len(waiting) == 3 * batch_size:  # one to give out, two decoding ahead
                yield collect([waiting.popleft() for _ in range(batch_size)])
        while waiting:
            size = min(batch_size, len(waiting))
            yield collect([waiting.popleft() for _ in range(size)])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# What a folder is searched for. Files that are named one by one may have any name.
SUFFIXES = {
    *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
}


def _natural_key(name: str) -> list[Any]:
    return [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name.lower())]


def find_images(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Walk a folder for pictures, by suffix, in natural order (img9 before img10).

    Yields as it goes, so memory does not grow with the number of pictures; a folder's
    own files come before its subfolders'. Raises OSError for one that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders.sort(key=lambda name: (_natural_key(name), name))
        for name in sorted(files, key=lambda name: (_natural_key(name), name)):
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                yield os.path.join(root, name)
