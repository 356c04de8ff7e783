# SPDX-License-Identifier: Apache-2.0
"""What is given for "pictures" is taken for what it is, by every door alike."""

from __future__ import annotations

import io
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitpool
from vitpool.transforms import (
    ImageError,
    create_transform,
    load_image,
    preprocess,
    sources_of,
    stream,
)

TRANSFORM = create_transform(8)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (10, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, a text, and an empty folder."""
    folder = tmp_path_factory.mktemp("given") / "photos"
    (folder / "empty").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(noise(i)).save(folder / f"{9 + i}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def streamed(images: Any, _: Any) -> np.ndarray:
    batches = list(stream(images, TRANSFORM, batch_size=2, num_workers=2))
    assert not any(batch.errors for batch in batches)
    return np.concatenate([batch.inputs for batch in batches])


DOORS: list[Callable[[Any, Any], np.ndarray]] = [preprocess, streamed]


class Column:
    """A column of a table: values in order, and what pandas' has besides."""

    ndim, shape, dtype = 1, (3,), np.dtype(object)

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.values, dtype)


class ArrowColumn(Column):
    """pyarrow's: its items are no str, and `to_pylist` gives those that are."""

    def __iter__(self) -> Iterator[Any]:
        return iter([SimpleNamespace(value) for value in self.values])

    def to_pylist(self) -> list[Any]:
        return self.values


def paths(folder: Path) -> list[Path]:
    return [folder / f"{9 + i}.png" for i in range(3)]


def texts(folder: Path) -> list[str]:
    return [str(path) for path in paths(folder)]


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in paths(folder)]


def arrays(folder: Path) -> list[np.ndarray]:
    return [noise(i) for i in range(3)]


MANY: dict[str, Callable[[Path], Any]] = {
    "a folder as text": str,
    "a folder as a Path": lambda folder: folder,
    "a folder's own entry": lambda folder: next(
        e for e in os.scandir(folder.parent) if e.name == folder.name
    ),
    "a pattern": lambda folder: str(folder / "*.png"),
    "a pattern as a Path": lambda folder: folder / "[0-9]*.png",
    "a list of Paths": paths,
    "a tuple of texts": lambda folder: tuple(texts(folder)),
    "a generator of Paths": lambda folder: (path for path in paths(folder)),
    "a map": lambda folder: map(str, paths(folder)),
    "a deque": lambda folder: deque(paths(folder)),
    "a dict's values": lambda folder: dict(enumerate(paths(folder))).values(),
    "a list of bytes": contents,
    "a list of files": lambda folder: [io.BytesIO(c) for c in contents(folder)],
    "a generator of files": lambda folder: (io.BytesIO(c) for c in contents(folder)),
    "a list of PIL images": lambda folder: [Image.open(p) for p in paths(folder)],
    "a list of arrays": arrays,
    "a batch (N, H, W, 3)": lambda folder: np.stack(arrays(folder)),
    "an array of texts": lambda folder: np.array(texts(folder)),
    "an array of Paths": lambda folder: np.array(paths(folder), object),
    "a column": lambda folder: Column(texts(folder)),
    "an Arrow column": lambda folder: ArrowColumn(texts(folder)),
    "of all kinds": lambda folder: [
        paths(folder)[0], contents(folder)[1], arrays(folder)[2]
    ],
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", MANY)
def test_many_pictures_come_in_by_every_kind(folder, kind, door) -> None:
    expected = np.stack([TRANSFORM(picture) for picture in arrays(folder)])
    np.testing.assert_array_equal(door(MANY[kind](folder), TRANSFORM), expected)
    assert not sources_of(MANY[kind](folder)).one


ONE: dict[str, Callable[[Path], Any]] = {
    "a text": lambda folder: texts(folder)[0],
    "NumPy's text": lambda folder: np.array(texts(folder))[0],
    "a Path": lambda folder: paths(folder)[0],
    "bytes": lambda folder: contents(folder)[0],
    "a bytearray": lambda folder: bytearray(contents(folder)[0]),
    "a memoryview": lambda folder: memoryview(contents(folder)[0]),
    "a file in memory": lambda folder: io.BytesIO(contents(folder)[0]),
    "an open file": lambda folder: open(paths(folder)[0], "rb"),  # noqa: SIM115
    "a PIL image": lambda folder: Image.open(paths(folder)[0]),
    "an array": lambda folder: arrays(folder)[0],
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ONE)
def test_one_picture_comes_in_by_every_kind(folder, kind, door) -> None:
    given = ONE[kind](folder)
    assert sources_of(given) == ([given], True)
    np.testing.assert_array_equal(door(given, TRANSFORM), TRANSFORM(noise(0))[None])
    if hasattr(given, "close"):
        given.close()


def test_a_file_whose_name_has_brackets_is_no_pattern(tmp_path: Path) -> None:
    name = str(tmp_path / "a[1].png")
    Image.fromarray(noise(0)).save(name)
    assert sources_of(name) == ([name], True)


def test_a_pattern_is_in_natural_order_and_leaves_folders_out(folder: Path) -> None:
    found = sources_of(f"{folder}/*").pictures
    assert found == [*texts(folder), str(folder / "notes.txt")]


TABLE = SimpleNamespace(columns=["path"], ndim=2, __iter__=lambda: iter(["path"]))


class Tensor:
    """What a tensor of torch looks like from here."""

    ndim, shape = 4, (2, 3, 8, 8)

    def __iter__(self) -> Iterator[Any]:
        return iter([self])


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("photos-that-are-not-there", FileNotFoundError, "photos-that-are-not-there"),
        (Path("no/such.png"), FileNotFoundError, "no/such.png"),
        ("", FileNotFoundError, "No such file"),
        ("no/such/*.png", FileNotFoundError, r"no/such/\*.png: no file fits"),
        (f"{__file__}/a.png", NotADirectoryError, "a.png"),
        ("a\0b.png", ImageError, "embedded null"),
        ("https://example.org/a.png", ImageError, "an address.*fetch it first"),
        ("s3://bucket/photos/*.jpg", ImageError, "an address"),
        ("file:///tmp/a.png", ImageError, "an address"),
        ("data:image/png;base64," + "A" * 9000, ImageError, r"A\.\.\.: an address"),
        ({"a.png": 1}, TypeError, "images: dict, allowed are a folder"),
        ({"a.png", "b.png"}, TypeError, "set, which has no order"),
        (TABLE, TypeError, "of a table give one column"),
        (Tensor(), TypeError, r"Tensor; a tensor is the model's own input: model\(x\)"),
        (np.zeros((2, 3, 8, 8), np.float32), TypeError, r"float32.*model\(x\)"),
        (np.zeros((2, 8, 8, 3), np.int64), TypeError, "int64, allowed of pixels is"),
        (np.array([b"a.png"]), TypeError, r"\|S5, allowed of pixels is uint8"),
        (np.zeros((1, 1, 8, 8, 3), np.uint8), ValueError, r"\(1, 1, 8, 8, 3\)"),
        (np.zeros(8, np.uint8), ValueError, r"\(8,\)"),
        (np.array([["a.png"]]), ValueError, r"\(1, 1\), allowed of paths is \(N,\)"),
        (7, TypeError, "images: int, allowed are a folder"),
        (None, TypeError, "images: NoneType, allowed are a folder"),
    ],
)
def test_what_gives_no_pictures_is_refused(door, given, error, words) -> None:
    with pytest.raises(error, match=words):
        door(given, TRANSFORM)


def test_an_empty_folder_is_told_and_an_empty_list_is_empty(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"empty: no pictures in this folder"):
        sources_of(folder / "empty")
    for nothing in ([], (), iter([]), np.array([], object)):
        assert list(sources_of(nothing).pictures) == []


def test_no_picture_is_asked_for_before_it_is_wanted() -> None:
    count = itertools.count()
    sources_of(next(count) for _ in range(3))
    stream((next(count) for _ in range(3)), TRANSFORM, batch_size=1)
    assert next(count) == 0


def test_an_iterator_that_raises_half_way_raises_here() -> None:
    def half() -> Iterator[np.ndarray]:
        yield noise(0)
        raise RuntimeError("the disk is gone")

    for door in DOORS:
        with pytest.raises(RuntimeError, match="the disk is gone"):
            door(half(), TRANSFORM)


def test_a_strict_stream_raises_what_the_picture_raised(folder: Path) -> None:
    for bad, error in (
        (folder / "no.png", FileNotFoundError),
        (folder / "notes.txt", ImageError),
        (None, TypeError),
    ):
        given = [noise(0), noise(1), bad, noise(2)]
        batches = stream(given, TRANSFORM, batch_size=2, strict=True)
        assert next(batches).good == [0, 1]
        with pytest.raises(error):
            next(batches)


def test_an_address_among_many_is_that_pictures_error() -> None:
    (batch,) = stream([noise(0), "http://a.b/c.png"], TRANSFORM, batch_size=2)
    assert batch.errors[1].startswith("an address, and nothing is downloaded here")


def test_a_file_opened_as_text_says_so(folder: Path) -> None:
    with open(paths(folder)[0], encoding="latin-1") as file:
        with pytest.raises(TypeError, match=r"9\.png: opened as text; open it as 'rb'"):
            load_image(file)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX")
def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(name, "wb") as file:
            Image.fromarray(noise(0)).save(file, "PNG")
    except OSError:
        pytest.skip("this file system has no such names")
    for given in (tmp_path, f"{tmp_path}/*.png", os.fsdecode(name)):
        expected = TRANSFORM(noise(0))[None]
        np.testing.assert_array_equal(preprocess(given, TRANSFORM), expected)


def test_the_samples_are_ten_digits_in_order() -> None:
    assert [path.name for path in vitpool.samples()] == [
        f"digit_{digit}.png" for digit in range(10)
    ]
    assert preprocess(vitpool.samples(), TRANSFORM).shape == (10, 3, 8, 8)
