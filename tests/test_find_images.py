# SPDX-License-Identifier: Apache-2.0
"""Pictures in a folder: their order, links, and the memory that a name takes."""

from __future__ import annotations

import os
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitpool.text import natural_key
from vitpool.transforms import find_images


def found(folder: Path) -> list[str]:
    return [os.path.relpath(path, folder) for path in find_images(folder)]


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_find_images_goes_in_natural_order(tmp_path: Path) -> None:
    make(tmp_path, "b/1.png", "a/img10.PNG", "a/img9.jpg", "z.jpeg", "a/notes.txt")
    assert found(tmp_path) == ["z.jpeg", "a/img9.jpg", "a/img10.PNG", "b/1.png"]
    with pytest.raises(FileNotFoundError):
        list(find_images(tmp_path / "no"))


ORDERED = [
    *("1.png", "01.png", "001.png", "2.png", "10.png", "a.png", "a0.png", "a00.png"),
    *("a1.png", "a01b.png", "a1b.png", "a2.png", "a10.png", "A10b.png", "b.png"),
]


def test_numbers_count_by_their_value_and_zeros_decide_last(tmp_path: Path) -> None:
    assert sorted(ORDERED, key=lambda n: (natural_key(n), n)) == [
        *("001.png", "01.png", "1.png", "2.png", "10.png", "a0.png", "a00.png"),
        *("a1.png", "a01b.png", "a1b.png", "a2.png", "a10.png", "A10b.png", "a.png"),
        *("b.png",),
    ]


def by_parts(text: str) -> list[int | str]:
    """What natural order means, at length: text and numbers in turn."""
    parts = re.split(r"(\d+)", text.lower())
    return [int(part) if part.isdecimal() else part for part in parts]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab019.٣٩²", max_size=8), min_size=2, max_size=8))
def test_the_key_orders_as_text_and_numbers_in_turn_do(names: list[str]) -> None:
    assert sorted(names, key=natural_key) == sorted(names, key=by_parts)


def test_digits_of_every_script_count(tmp_path: Path) -> None:
    make(tmp_path, "صورة١٠.png", "صورة٩.png", "x²10.png", "x²9.png")
    assert found(tmp_path) == ["x²9.png", "x²10.png", "صورة٩.png", "صورة١٠.png"]
    assert natural_key("9" * 10_000) < natural_key("1" + "0" * 10_000)


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    make(tmp_path, "store/b.png", "store/deep/c.png", "set/a.png")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "set" / "again").symlink_to("linked")
    here = ["b.png", "deep/c.png"]
    assert found(tmp_path / "set") == [
        "a.png", *(f"again/{p}" for p in here), *(f"linked/{p}" for p in here)
    ]  # fmt: skip
    (tmp_path / "door").symlink_to("set")
    assert len(found(tmp_path / "door")) == 5


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    make(tmp_path, "a/b/c.png", "a/d.png")
    (tmp_path / "a" / "b" / "up").symlink_to("..")
    (tmp_path / "a" / "b" / "top").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    (tmp_path / "a" / "gone.png").symlink_to("nowhere.png")
    # links to no picture are told of when they are read
    assert found(tmp_path) == ["a/d.png", "a/gone.png", "a/self.png", "a/b/c.png"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    make(tmp_path, "a.png")
    with pytest.raises(NotADirectoryError):
        found(tmp_path / "a.png")


def test_a_name_is_held_once_with_its_key(tmp_path: Path) -> None:
    """A folder may hold a million; keys in a list beside the names were 434 bytes."""
    make(tmp_path, *(f"IMG_{i:06d}.jpg" for i in range(2000)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in find_images(tmp_path)) == 2000
        assert tracemalloc.get_traced_memory()[1] < 2000 * 150
    finally:
        tracemalloc.stop()
