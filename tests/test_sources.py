# SPDX-License-Identifier: Apache-2.0
"""Where pictures come from: files, films, one object twice; and what cannot be read."""

from __future__ import annotations

import io
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from vitpool.transforms import (
    ImageError,
    create_transform,
    default_cpus,
    default_workers,
    load_image,
    preprocess,
    stream,
)

TRANSFORM = create_transform(8)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)


def encoded(kind: str = "PNG", seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(seed)).save(file, kind)
    return file.getvalue()


def streamed(sources: Any, **options: Any) -> np.ndarray:
    """The inputs of a stream in which nothing fails."""
    batches = list(stream(sources, TRANSFORM, batch_size=2, **options))
    assert not any(batch.errors for batch in batches)
    return np.concatenate([batch.inputs for batch in batches])


# -------------------------------------------------------------------------------- files


class Pipe(io.RawIOBase):
    """A file that cannot seek, as a socket's."""

    def __init__(self, content: bytes) -> None:
        self.rest = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.rest.readinto(buffer)


def test_an_open_file_is_one_picture(tmp_path: Path) -> None:
    content = encoded("JPEG")
    expected = TRANSFORM(content)[None]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    spooled = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - an upload
    spooled.write(content)  # and not rewound
    with open(path, "rb") as file:
        for upload in (io.BytesIO(content), file, spooled, Pipe(content)):
            np.testing.assert_array_equal(preprocess(upload, TRANSFORM), expected)
            assert not upload.closed
    many = [io.BytesIO(content), path, io.BytesIO(content)]
    np.testing.assert_array_equal(preprocess(many, TRANSFORM), expected.repeat(3, 0))


def test_an_open_file_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(b"no picture")
    with open(path, "rb") as file, pytest.raises(ImageError, match=r"bad\.jpg: not a"):
        preprocess(file, TRANSFORM)
    with pytest.raises(ImageError, match="<BytesIO>: not a picture"):
        preprocess(io.BytesIO(b"no picture"), TRANSFORM)


# -------------------------------------------------------------------------------- films


def gif_frames() -> Iterator[Image.Image]:
    """Four frames in one PIL image that goes on to the next."""
    frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(4)]
    film = io.BytesIO()
    frames[0].save(film, "GIF", save_all=True, append_images=frames[1:])
    return iter(ImageSequence.Iterator(Image.open(film)))


def one_buffer() -> Iterator[np.ndarray]:
    """Four frames in one array, as a camera gives them."""
    frame = np.zeros((16, 16, 3), np.uint8)
    for i in range(4):
        frame[:] = (60 * i, 0, 0)
        yield frame


def one_file() -> Iterator[io.BytesIO]:
    """Four pictures in one open file."""
    file = io.BytesIO()
    for i in range(4):
        file.seek(0)
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(file, "BMP")
        yield file


class Clip:
    """No iterator, but no list either: each pass refills one array."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return one_buffer()


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("film", [gif_frames, one_buffer, one_file, Clip])
def test_a_frame_is_read_before_the_next_is_asked_for(film: Any, workers: int) -> None:
    for batch in (
        preprocess(film(), TRANSFORM, num_workers=workers),
        streamed(film(), num_workers=workers),
    ):
        reds = batch[:, 0, 0, 0] * 0.229 + 0.485
        np.testing.assert_allclose(reds * 255, [0, 60, 120, 180], atol=0.01)


# --------------------------------------------------------------------- one object twice


class Watched(io.BytesIO):
    """Fails where two threads read at once, as Pillow's decoders do without a word."""

    busy = False

    def read(self, size: int | None = -1) -> bytes:
        assert not self.busy, "two threads read one file"
        self.busy = True
        time.sleep(0.001)
        content = super().read(size)
        self.busy = False
        return content


@pytest.mark.parametrize("opened", [Image.open, lambda file: file], ids=["PIL", "file"])
def test_one_picture_may_be_there_many_times(opened: Any) -> None:
    content = encoded("JPEG")
    expected = TRANSFORM(content)[None].repeat(6, 0)
    for make in (list, tuple):
        pictures = make([opened(Watched(content))] * 6)
        got = preprocess(pictures, TRANSFORM, num_workers=6)
        np.testing.assert_array_equal(got, expected)
        pictures = make([opened(Watched(content))] * 6)
        np.testing.assert_array_equal(streamed(pictures, num_workers=6), expected)


# ------------------------------------------------------------------ what cannot be read


class Unnamed(os.PathLike):
    """A path whose name cannot be told."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __fspath__(self) -> str:
        raise self.error


def closed_image() -> Image.Image:
    image = Image.open(io.BytesIO(encoded()))
    image.close()
    return image


def closed_file() -> io.BytesIO:
    file = io.BytesIO(encoded())
    file.close()
    return file


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a\0b.png", "embedded null byte"),
        ("\ud800.png", "surrogates not allowed"),
        ("/", "Is a directory"),
        ("", "No such file"),
        (None, "NoneType, allowed are a path"),
        (7, "int, allowed are a path"),
        ({"path": "a.png"}, "dict, allowed are a path"),
        (np.zeros((4, 4, 3), np.float32), "float32, allowed is uint8"),
        (np.zeros((4, 4, 3), object), "object, allowed is uint8"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (b"", "not a picture"),
        (encoded()[:60], "."),
        (closed_image(), "[Cc]losed"),
        (closed_file(), "closed file"),
        (Unnamed(ZeroDivisionError()), "^ZeroDivisionError$"),
        (Unnamed(KeyError("name")), "name"),
        (Unnamed(MemoryError()), "out of memory"),
    ],
)
def test_whatever_fails_is_that_pictures_error(source: Any, reason: str) -> None:
    for kind in (list, iter):
        sources = kind([noise(0), source, noise(1)])
        (batch,) = stream(sources, TRANSFORM, batch_size=3, num_workers=2)
        assert (batch.good, list(batch.errors)) == ([0, 2], [1])
        assert re.search(reason, batch.errors[1])
        expected = np.stack([TRANSFORM(noise(0)), TRANSFORM(noise(1))])
        np.testing.assert_array_equal(batch.inputs, expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_stops_a_program_stops_a_stream(error: type[BaseException]) -> None:
    with pytest.raises(error):
        list(stream([noise(), Unnamed(error())], TRANSFORM, batch_size=2))


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png"])
def test_a_path_that_no_file_can_have_is_refused_by_name(name: str) -> None:
    with pytest.raises(ImageError) as caught:
        preprocess([name], TRANSFORM)
    assert caught.value.name == name


def test_workers_and_batches_are_counted_in_whole_numbers() -> None:
    for wrong in ({"num_workers": -1}, {"batch_size": 0}, {"batch_size": 1.5}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            next(stream([noise()], TRANSFORM, **{"batch_size": 1, **wrong}))
    with pytest.raises(ValueError, match="num_workers"):
        preprocess(noise(), TRANSFORM, num_workers=-1)
    options = {"batch_size": np.int64(1), "num_workers": np.uint8(2)}
    assert len(list(stream([noise()] * 2, TRANSFORM, **options))) == 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_workers_are_the_processors_that_we_may_use(monkeypatch) -> None:
    cpus = os.sched_getaffinity(0)
    assert 1 <= default_cpus() <= len(cpus)
    assert default_workers() == min(default_cpus(), 8)
    monkeypatch.setenv("VITPOOL_NUM_THREADS", "77")  # of the computing, not of us
    assert default_cpus() <= len(cpus)
    try:
        os.sched_setaffinity(0, {min(cpus)})
        assert default_cpus() == default_workers() == 1
    finally:
        os.sched_setaffinity(0, cpus)


# -------------------------------------------------------------------------- whole files


def test_a_film_is_its_first_frame() -> None:
    frames = [Image.fromarray(noise(i)) for i in range(3)]
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        file = io.BytesIO()
        options = {"lossless": True} if kind == "WEBP" else {}
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], **options)
        with Image.open(io.BytesIO(file.getvalue())) as first:
            assert getattr(first, "n_frames", 1) == 3, kind
            expected = np.asarray(first.convert("RGB"))
        np.testing.assert_array_equal(np.asarray(load_image(file)), expected)


def test_a_picture_too_large_to_be_meant_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    (batch,) = stream([encoded(), encoded()], TRANSFORM, batch_size=2)
    assert not batch.good
    assert "decompression bomb" in batch.errors[0]
