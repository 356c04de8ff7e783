# SPDX-License-Identifier: Apache-2.0
"""Embeddings stay true: pictures replaced, added, gone; stopped at any moment."""

from __future__ import annotations

import errno
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if sys.version_info < (3, 11):
    reason = "pyarrow 26, the first with nulls in fixed-size lists, needs Python 3.11"
    pytest.skip(reason, allow_module_level=True)

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from models import small
from PIL import Image

from vitpool import cli, embed
from vitpool.embed import known, local

OPTIONS: dict[str, Any] = {"part_size": 3, "batch_size": 2, "num_workers": 2}
Summary = embed.Summary


@pytest.fixture(scope="module")
def model() -> Any:
    return small(num_classes=0)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Eight pictures: two whole parts of three, and one of two."""
    (tmp_path / "pictures").mkdir()
    return [picture(tmp_path, i) for i in range(8)]


def picture(tmp_path: Path, number: int, seed: int | None = None) -> str:
    path = tmp_path / "pictures" / f"{number}.png"
    rng = np.random.default_rng(number if seed is None else seed)
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return str(path)


def read(folder: Path) -> pa.Table:
    return pyarrow.dataset.dataset(folder, format="parquet").to_table()


def rows(folder: Path) -> dict[str, Any]:
    """Every row by its path, one each; and no half written file."""
    table = read(folder)
    found = {row.pop("path"): row for row in table.to_pylist()}
    assert len(found) == len(table)
    return found


def run(model: Any, images: Any, out: Path, **options: Any) -> Summary:
    return embed.embed_images(model, images, out, **{**OPTIONS, **options})


def inodes(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_ino for p in out.glob("*.parquet")}


def test_a_replaced_picture_is_noticed(model, pictures, tmp_path) -> None:
    out = tmp_path / "out"
    run(model, pictures, out)
    before, parts = read(out), inodes(out)
    assert run(model, pictures, out) == Summary(8, 0, 8, 0, 0, 0)
    assert inodes(out) == parts
    picture(tmp_path, 4, seed=99)  # another content
    stamp = os.stat(pictures[6])
    content = Path(pictures[6]).read_bytes()
    Path(pictures[6]).write_bytes(content + b"\0")  # another size, the same time
    os.utime(pictures[6], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(model, pictures, out) == Summary(8, 0, 6, 2, 0, 0)
    after = read(out)
    same = [a == b for a, b in zip(before["token"], after["token"], strict=True)]
    assert same == [i != 4 for i in range(8)]
    assert after["path"].equals(before["path"])
    told = [os.stat(path) for path in pictures]
    assert after["size"].to_pylist() == [t.st_size for t in told]
    assert after["mtime"].to_pylist() == [t.st_mtime_ns for t in told]
    assert run(model, pictures, out) == Summary(8, 0, 8, 0, 0, 0)
    run(model, pictures, tmp_path / "once")
    assert after.equals(read(tmp_path / "once"))


def test_a_picture_that_changes_before_it_is_read_is_made_again(
    model, pictures, tmp_path, monkeypatch
) -> None:
    out = tmp_path / "out"

    def stamp_of(path: str) -> Any:
        told = os.stat(path)
        picture(tmp_path, int(Path(path).stem), seed=99)
        return told.st_size, told.st_mtime_ns

    with monkeypatch.context() as patch:
        patch.setattr(local, "stamp_of", stamp_of)
        assert run(model, pictures[:3], out) == Summary(3, 0, 0, 0, 0, 0)
    assert run(model, pictures[:3], out) == Summary(3, 0, 0, 3, 0, 0)


def test_a_picture_that_became_unreadable_loses_its_vector(model, pictures, tmp_path):
    """It is the vector of a picture that is there no more."""
    out = tmp_path / "out"
    run(model, pictures, out)
    Path(pictures[3]).write_bytes(b"broken")
    assert run(model, pictures, out) == Summary(8, 1, 7, 1, 0, 0)
    row = rows(out)[pictures[3]]
    assert (row["token"], row["size"]) == (None, 6)
    assert row["error"] == "not a picture that Pillow can read"
    picture(tmp_path, 3)
    assert run(model, pictures, out) == Summary(8, 0, 7, 0, 0, 0)


@pytest.mark.parametrize("where", [0, 4, 8])
def test_pictures_added_anywhere_are_all_that_is_computed(
    model, pictures, tmp_path, where
) -> None:
    out = tmp_path / "out"
    run(model, pictures, out)
    parts = inodes(out)
    added = [picture(tmp_path, 100 + i) for i in range(3)]
    listed = [*pictures[:where], *added, *pictures[where:]]
    seen: list[int] = []
    done = run(model, listed, out, progress=seen.append)
    assert (done, sum(seen)) == (Summary(11, 0, 8, 0, 0, 0), 11)
    # the last part is filled, and the rest follows
    assert read(out)["path"].to_pylist() == [*pictures, *added]
    changed = {n for n, inode in inodes(out).items() if parts.get(n) != inode}
    assert changed == {"part-000002.parquet", "part-000003.parquet"}
    run(model, listed, tmp_path / "once")
    assert rows(out) == rows(tmp_path / "once")


def test_the_order_of_a_list_does_not_matter(model, pictures, tmp_path) -> None:
    out = tmp_path / "out"
    run(model, pictures, out)
    before = inodes(out)
    shuffled = random.Random(0).sample(pictures, 8)
    assert run(model, shuffled, out) == Summary(8, 0, 8, 0, 0, 0)
    assert run(model, pictures, out, part_size=5) == Summary(8, 0, 8, 0, 0, 0)
    assert inodes(out) == before


def test_rows_of_pictures_that_are_not_listed_stay_unless_pruned(
    model, pictures, tmp_path
) -> None:
    out = tmp_path / "out"
    run(model, pictures, out)
    before, parts = rows(out), inodes(out)
    listed = pictures[1:6]  # one of the first part, and all of the last
    assert run(model, listed, out) == Summary(5, 0, 5, 0, 0, 3)
    assert inodes(out) == parts
    assert run(model, listed, out, prune=True) == Summary(5, 0, 5, 0, 0, 3)
    assert rows(out) == {path: before[path] for path in listed}
    assert inodes(out).keys() == {"part-000000.parquet", "part-000001.parquet"}
    assert inodes(out)["part-000001.parquet"] == parts["part-000001.parquet"]
    assert run(model, listed, out, prune=True) == Summary(5, 0, 5, 0, 0, 0)
    assert run(model, pictures, out) == Summary(8, 0, 5, 0, 0, 0)
    assert rows(out) == before


def test_the_command_says_what_it_kept_and_prunes_what_it_has_seen_alone(
    pictures, tmp_path, capsys, monkeypatch
) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    (folder / "more").mkdir()
    Path(pictures[0]).rename(folder / "more" / "0.png")
    command = ["embed", str(folder), "-o", str(out), "-q"]
    assert cli.main(command) == 0
    before = rows(out)
    picture(tmp_path, 1, seed=99)
    Path(pictures[2]).unlink()
    assert cli.main(command) == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        "vitpool: 7 pictures, 6 of them from before, 1 replaced since and made again, "
        "0 not readable, 1 rows of pictures not listed (kept: --prune deletes them)"
    )
    scandir = os.scandir

    def unreadable(path: str) -> Any:
        if os.path.basename(path) == "more":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", unreadable)
        assert cli.main([*command, "--prune"]) == 2
    assert f"{folder / 'more'}: Permission denied" in capsys.readouterr().err
    assert rows(out).keys() == before.keys()
    assert cli.main([*command, "--prune"]) == 0
    assert "1 rows of pictures not listed (deleted)" in capsys.readouterr().err
    assert rows(out).keys() == before.keys() - {pictures[2]}


def test_one_run_adds_mends_and_prunes_at_once(model, pictures, tmp_path) -> None:
    out = tmp_path / "out"
    Path(pictures[7]).write_bytes(b"broken")
    run(model, pictures, out)
    picture(tmp_path, 7)
    picture(tmp_path, 1, seed=99)
    added = [picture(tmp_path, 100 + i) for i in range(5)]
    listed = [*added, *pictures[1:6], pictures[7]]
    done = run(model, iter(listed), out, prune=True)
    assert done == Summary(11, 0, 4, 1, 0, 2)
    run(model, listed, tmp_path / "once")
    assert rows(out) == rows(tmp_path / "once")


def test_a_picture_that_is_not_there_now_keeps_its_row(model, pictures, tmp_path):
    """A disk that is not mounted at the moment costs no vector."""
    out = tmp_path / "out"
    run(model, pictures, out)
    before = read(out)
    (tmp_path / "pictures").rename(tmp_path / "away")
    assert run(model, pictures, out) == Summary(8, 0, 8, 0, 8, 0)
    assert read(out).equals(before)


def test_a_picture_listed_twice_has_two_rows(model, pictures, tmp_path) -> None:
    out, listed = tmp_path / "out", [pictures[0], pictures[1], pictures[0]]
    assert run(model, listed, out) == Summary(3, 0, 0, 0, 0, 0)
    assert run(model, listed, out) == Summary(3, 0, 3, 0, 0, 0)
    assert run(model, listed[1:], out, prune=True) == Summary(2, 0, 2, 0, 0, 1)
    assert Counter(read(out)["path"].to_pylist()) == Counter(listed[1:])
    assert run(model, [*listed, pictures[0]], out) == Summary(4, 0, 2, 0, 0, 0)
    found = read(out)
    tokens = [row["token"] for row in found.to_pylist() if row["path"] == pictures[0]]
    assert len(tokens) == 3
    assert tokens[0] == tokens[1] == tokens[2]


def test_paths_of_one_digest_are_told_apart_by_their_files(
    model, pictures, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(known, "_key", lambda path: np.uint64(len(path) % 2))
    out = tmp_path / "out"
    run(model, pictures, out)
    picture(tmp_path, 9)
    done = run(model, [*pictures, picture(tmp_path, 9)], out)
    assert (done.rows, done.unlisted) == (9, 0)
    run(model, [*pictures, picture(tmp_path, 9)], tmp_path / "once")
    assert rows(out).keys() == rows(tmp_path / "once").keys()


def test_a_time_beyond_what_a_column_holds_is_no_obstacle(model, pictures, tmp_path):
    os.utime(pictures[0], (2**33, 2**34 - 2**31))  # the year 2446, ext4's last
    out = tmp_path / "out"
    assert run(model, pictures, out) == Summary(8, 0, 0, 0, 0, 0)
    assert run(model, pictures, out) == Summary(8, 0, 8, 0, 0, 0)


class Stopped(BaseException):
    """As an interrupt, or a kill."""


@pytest.mark.parametrize("seed", range(12))
def test_a_run_stopped_at_any_write_loses_nothing(
    model, pictures, tmp_path, monkeypatch, seed
) -> None:
    """Whatever the list becomes, and whenever a run stops: all rows that are valid."""
    rng, out = random.Random(seed), tmp_path / "out"
    run(model, pictures, out)
    number = 100
    replace, unlink = os.replace, Path.unlink
    for _ in range(4):
        before = rows(out)
        listed = rng.sample(pictures, rng.randint(2, len(pictures)))
        for _ in range(rng.randint(0, 5)):
            listed.insert(rng.randint(0, len(listed)), picture(tmp_path, number))
            number += 1
        changed = rng.sample(listed, 2)
        for path in changed:
            picture(tmp_path, int(Path(path).stem), seed=rng.randint(0, 10**6))
        left = rng.randint(0, 4)

        def stop(*args: Any) -> None:
            nonlocal left
            if left == 0 and str(args[-1]).endswith(".parquet"):
                raise Stopped
            left -= 1

        def stopping_replace(*args: Any) -> None:
            stop(*args)
            replace(*args)

        def stopping_unlink(path: Path, **options: Any) -> None:
            if path.name.startswith("part"):
                stop(path)
            unlink(path, **options)

        prune = rng.random() < 0.5
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stopping_replace)
            patch.setattr(Path, "unlink", stopping_unlink)
            try:
                run(model, listed, out, prune=prune)
            except Stopped:
                there = rows(out)
                valid = set(before) & set(listed) - set(changed)
                assert all(there[path] == before[path] for path in valid)
        run(model, listed, out, prune=True)
        once = tmp_path / f"once{number}-{rng.random()}"
        run(model, listed, once)
        assert rows(out) == rows(once)
        pictures = listed
    for part in out.glob("*.parquet"):
        pq.read_table(part)
    assert {p.suffix for p in out.iterdir()} == {".parquet", ""}
