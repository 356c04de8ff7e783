# SPDX-License-Identifier: Apache-2.0
"""Going on with embeddings: whose parts they are, what failed, what is left over."""

from __future__ import annotations

import copy
import errno
import fcntl
import io
import json
import os
import subprocess
import sys
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

import vitpool
from vitpool import embed
from vitpool.files import locked
from vitpool.transforms import ImageError, create_transform

OPTIONS: dict[str, Any] = {"part_size": 3, "batch_size": 2, "num_workers": 2}
TRANSFORM = create_transform(32)


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Eight pictures: two whole parts of three, and one of two."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{i}.png") for i in range(8)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return paths


def model(**options: Any) -> Any:
    return small(**{"num_classes": 0, "depth": 2, "num_heads": 4, **options})


def read(folder: Path) -> pa.Table:
    return pyarrow.dataset.dataset(folder, format="parquet").to_table()


def meta(part: Path) -> dict[str, Any]:
    return json.loads(pq.read_schema(part).metadata[b"vitpool"])


def vectors(folder: Path) -> pa.Table:
    """The rows without the pictures' times, which a test that repairs one changes."""
    return read(folder).drop_columns("mtime")


def spoil(path: str) -> bytes:
    """Cut a file short; gives what it was."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:200])
    return content


# -------------------------------------------------------------------- whose parts these


def test_parts_of_another_model_are_refused_by_what_differs(pictures, tmp_path) -> None:
    out, plain = tmp_path / "out", model()
    embed.embed_images(plain, pictures[:3], out, **OPTIONS)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    tuned = copy.copy(plain)
    last = {"blocks.1.mlp.fc2.bias": np.ones(32, np.float32)}
    tuned.load_state_dict(last, strict=False)
    for other, words in (
        (tuned, "part-000000.parquet: made with other weights; give another -o"),
        (model(act_layer="quick_gelu"), "made with other act_layer"),
        (
            model(num_heads=2, act_layer="relu"),
            "made with other act_layer, num_heads",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            embed.embed_images(other, pictures, out, **OPTIONS)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: run.pop("format"), "made by vitpool 0.1.0, which did not note"),
        (lambda run: run.update(format=2), "made in format 2, which is 3 now"),
    ],
)
def test_parts_of_another_version_are_refused(pictures, tmp_path, change, words):
    out = tmp_path / "out"
    embed.embed_images(model(), pictures, out, **OPTIONS)
    part = out / "part-000000.parquet"
    told, table = meta(part), pq.read_table(part)
    change(told["run"])
    told = {b"vitpool": json.dumps(told).encode()}
    pq.write_table(table.replace_schema_metadata(told), part)
    with pytest.raises(ValueError, match=f"{words}.*; give another -o, or delete"):
        embed.embed_images(model(), pictures, out, **OPTIONS)


def test_a_run_is_of_the_model_as_it_began(pictures, tmp_path) -> None:
    net = model()
    expected = net(net.preprocess(pictures))

    def progress(rows: int) -> None:
        zeros = {"norm.weight": np.zeros(32, np.float32)}
        net.load_state_dict(zeros, strict=False)

    embed.embed_images(net, pictures, tmp_path / "out", progress=progress, **OPTIONS)
    got = np.array(read(tmp_path / "out")["token"].to_pylist(), np.float32)
    np.testing.assert_array_equal(got, expected)


# -------------------------------------------------------------------------- what failed


def test_what_failed_is_tried_again(pictures, tmp_path) -> None:
    net = model()
    embed.embed_images(net, pictures, tmp_path / "once", **OPTIONS)
    out = tmp_path / "out"
    spoiled = {i: spoil(pictures[i]) for i in (0, 2, 5, 7)}
    assert embed.embed_images(net, pictures, out, **OPTIONS)[:3] == (8, 4, 0)
    for i in (7, 0, 2):
        Path(pictures[i]).write_bytes(spoiled[i])
    told: list[str] = []
    again = embed.embed_images(
        net, pictures, out, report=lambda path, reason: told.append(path), **OPTIONS
    )
    assert (again[:3], told) == ((8, 1, 4), [pictures[5]])
    assert [meta(p)["failed"] for p in sorted(out.glob("*.parquet"))] == [0, 1, 0]
    Path(pictures[5]).write_bytes(spoiled[5])
    assert embed.embed_images(net, pictures, out, **OPTIONS)[:3] == (8, 0, 7)
    assert vectors(out).equals(vectors(tmp_path / "once"))
    assert embed.embed_images(net, pictures, out, **OPTIONS)[:3] == (8, 0, 8)


def test_what_fails_as_before_leaves_its_part_alone(pictures, tmp_path) -> None:
    out = tmp_path / "out"
    content = spoil(pictures[1])
    embed.embed_images(model(), pictures, out, **OPTIONS)
    parts = sorted(out.glob("*.parquet"))
    stamps = [part.stat().st_ino for part in parts]
    embed.embed_images(model(), pictures, out, **OPTIONS)
    assert [part.stat().st_ino for part in parts] == stamps
    os.unlink(pictures[1])  # now for another reason
    embed.embed_images(model(), pictures, out, **OPTIONS)
    assert read(out)["error"][1].as_py() == "No such file or directory"
    with pytest.raises(ImageError, match=r"1\.png: No such file"):
        embed.embed_images(model(), pictures, out, strict=True, **OPTIONS)
    Path(pictures[1]).write_bytes(content)
    done = embed.embed_images(model(), pictures, out, strict=True, **OPTIONS)
    assert done[:3] == (8, 0, 7)


def test_a_retry_may_name_the_pools_in_another_order(pictures, tmp_path) -> None:
    out, options = tmp_path / "out", {"pools": ["avg", "token"], **OPTIONS}
    embed.embed_images(model(), pictures, tmp_path / "once", **options)
    content = spoil(pictures[4])
    embed.embed_images(model(), pictures[:5], out, **options)
    Path(pictures[4]).write_bytes(content)
    options["pools"] = ["token", "avg"]
    assert embed.embed_images(model(), pictures, out, **options)[:3] == (8, 0, 4)
    assert vectors(out).equals(vectors(tmp_path / "once"))


# -------------------------------------------------------------------- what is left over


@pytest.mark.parametrize("name", ["other.parquet", "part-1.parquet", "0_0.parquet"])
def test_other_parquet_files_are_refused_before_the_work(pictures, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    pq.write_table(pa.table({"a": [1]}), out / name)
    with pytest.raises(ValueError, match=f"{name} there is no part of ours"):
        embed.embed_images(model(), pictures, out, **OPTIONS)
    assert not list(out.glob("part-000*.parquet"))


OBSERVED = """
import os, sys
from vitpool import create_model, embed
folder, *pictures = sys.argv[1:]
renamed = []
def observe(event, args):
    if event == "open" and str(args[0]).startswith(folder):
        hidden = os.path.basename(str(args[0])).startswith(".")
        if not hidden and args[2] & (os.O_WRONLY | os.O_RDWR):
            raise SystemExit(f"{args[0]} is written under its own name")
    if event == "os.rename":
        renamed.append(os.path.basename(args[1]))
model = create_model("vit_digits", pretrained=True)
sys.addaudithook(observe)
embed.embed_images(model, pictures, folder, part_size=3)
assert renamed == [f"part-00000{i}.parquet" for i in range(3)], renamed
"""


def test_a_part_has_its_name_only_once_it_is_whole(pictures, tmp_path) -> None:
    run = [sys.executable, "-c", OBSERVED, str(tmp_path / "out"), *pictures]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_leaves_no_half_part(pictures, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            embed.embed_images(model(), pictures, out, **OPTIONS)
    assert not list(out.glob("*.parquet"))
    assert embed.embed_images(model(), pictures, out, **OPTIONS)[:3] == (8, 0, 0)
    assert {p.name for p in out.iterdir() if p.suffix != ".parquet"} == {".lock"}


# -------------------------------------------------------------------------------- locks


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def test_no_locks_are_no_other_run(pictures, tmp_path, monkeypatch, name) -> None:
    def flock(file: Any, operation: int) -> None:
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(RuntimeWarning, match="out: no locks there") as caught:
        done = embed.embed_images(model(), pictures, tmp_path / "out", **OPTIONS)
    assert done[:3] == (8, 0, 0)
    assert caught[0].filename == __file__


def test_a_lock_that_fails_is_told_as_it_is(tmp_path, monkeypatch) -> None:
    def flock(file: Any, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with locked(tmp_path), pytest.raises(ValueError, match="another run is writing"):
        with locked(tmp_path):
            pass
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match=r"Input/output error.*\.lock"):
        with locked(tmp_path):
            pass


# ---------------------------------------------------------------------- lists and paths


def test_a_list_may_come_from_windows(pictures, tmp_path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_bytes(("\ufeff" + "\r\n".join(pictures[:2]) + "\r\n").encode())
    assert list(embed.list_images(listing)) == pictures[:2]
    odd = f"{tmp_path}/a\rb.png"  # a name may hold what other lists end a line with
    Image.new("RGB", (8, 8)).save(odd)
    listing.write_text(f"{odd}\n{pictures[0]}\n", newline="")
    assert list(embed.list_images(listing)) == [odd, pictures[0]]


def test_a_list_may_come_through_a_pipe(pictures, tmp_path) -> None:
    run = [sys.executable, "-m", "vitpool", "embed", "/dev/stdin", "-q"]
    done = subprocess.run(
        [*run, "-o", str(tmp_path / "out"), "--pool", "avg"],
        input="\n".join(pictures), capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        0,
        "vitpool: 8 pictures, 0 not readable\n",
    )
    assert read(tmp_path / "out").num_rows == 8


def test_each_line_of_a_list_is_a_row(pictures, tmp_path) -> None:
    listing = tmp_path / "list.txt"
    lines = [pictures[0], str(tmp_path), pictures[0], "a\ud800", "b\0c"]
    listing.write_text("\n".join(lines[:3]))
    images = [*embed.list_images(listing), *lines[3:]]
    done = embed.embed_images(model(), images, tmp_path / "out", **OPTIONS)
    assert done[:3] == (5, 3, 0)
    table = read(tmp_path / "out")
    assert table["path"].to_pylist() == [*lines[:3], "a\\ud800", "b\0c"]
    assert table["token"][0].equals(table["token"][2])  # listed twice, made twice
    errors = table["error"].to_pylist()
    assert errors[:3] == [None, "Is a directory", None]
    assert "surrogates not allowed" in errors[3]
    assert errors[4] == "embedded null byte"
    done = embed.embed_images(model(), images, tmp_path / "out", **OPTIONS)
    assert done[:3] == (5, 3, 2)


def test_a_folder_is_taken_for_its_pictures(pictures, tmp_path) -> None:
    """It was cut into characters, each a row that failed."""
    folder, net = tmp_path / "pictures", model()
    for number, images in enumerate((str(folder), folder)):
        out = tmp_path / f"out{number}"
        assert embed.embed_images(net, images, out, **OPTIONS)[:3] == (8, 0, 0)
        assert read(out)["path"].to_pylist() == pictures
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(pictures[:2]))
    done = embed.embed_images(net, listing, tmp_path / "listed", **OPTIONS)
    assert done[:3] == (2, 0, 0)
    for images in (
        [Path(path) for path in pictures], tuple(pictures), iter(pictures),
        (path for path in pictures), pa.array(pictures), np.array(pictures),
    ):  # fmt: skip
        done = embed.embed_images(net, images, tmp_path / "out0", **OPTIONS)
        assert done[:3] == (8, 0, 8)


def test_what_is_no_path_is_refused(pictures, tmp_path) -> None:
    out = tmp_path / "out"
    with open(pictures[0], "rb") as file:
        for wrong in (
            b"bytes", bytearray(b"bytes"), io.BytesIO(), file, [file], [b"bytes"],
            [None], [7], [pictures[0], io.BytesIO()], [np.zeros((8, 8, 3), np.uint8)],
            np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.uint8),
            Image.new("RGB", (8, 8)), [Image.new("RGB", (8, 8))],
            {"a": pictures[0]}, {pictures[0]}, 7, None, pa.table({"path": pictures}),
        ):  # fmt: skip
            with pytest.raises(TypeError, match=r"^images: ") as caught:
                embed.embed_images(model(), wrong, out, **OPTIONS)
            assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        embed.embed_images(model(), tmp_path / "no", out, **OPTIONS)
    assert not out.exists()
    with pytest.raises(TypeError, match="BytesIO, allowed are paths, by which"):
        embed.embed_images(model(), iter([pictures[0], io.BytesIO()]), out, **OPTIONS)


def test_the_pictures_of_a_part_are_counted_in_whole_numbers(pictures, tmp_path):
    for wrong in (0, 1.5, "3"):
        with pytest.raises((TypeError, ValueError), match="part_size"):
            embed.embed_images(model(), pictures, tmp_path / "no", part_size=wrong)
    options = {"part_size": np.int64(3), "batch_size": np.int64(2)}
    embed.embed_images(model(), pictures, tmp_path / "out", **options)
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert [meta(part)["rows"] for part in parts] == [3, 3, 2]


def test_parts_say_which_versions_made_them(pictures, tmp_path) -> None:
    import PIL

    embed.embed_images(model(), pictures, tmp_path / "out", **OPTIONS)
    told = meta(tmp_path / "out" / "part-000000.parquet")["versions"]
    assert told == {"vitpool": vitpool.__version__, "pillow": PIL.__version__}
