# SPDX-License-Identifier: Apache-2.0
"""What the command takes for pictures, and what it says of all that it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from terminal import COMMAND
from test_cli import EMBED, SAMPLES, needs_pyarrow, run

from vitpool import transforms
from vitpool.transforms import read


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Two pictures, and what lies beside pictures."""
    folder = tmp_path / "mixed"
    for name in ("a.png", "sub/b.PNG", ".hidden.png", ".cache/c.png", "sub/._b.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SAMPLES[0], folder / name)
    for name in ("notes.txt", "sub/more.TXT", "README", "phone.heic"):
        (folder / name).write_bytes(b"")
    (folder / "sub" / "up").symlink_to("..")
    return folder


SAID = (
    "vitpool: not taken: 3 hidden, 2 .txt, "
    "1 .heic (no decoder: pip install pillow-heif), "
    "1 link back to a folder above, 1 without a suffix"
)


def files(out: str) -> list[str]:
    return [json.loads(line)["file"] for line in out.splitlines()]


def command(*argv: object, **options: Any) -> subprocess.CompletedProcess[Any]:
    options = {"text": True, "timeout": 60, **options}
    return subprocess.run([*COMMAND, *map(str, argv)], capture_output=True, **options)


def rows(out: Path) -> list[str]:
    import pyarrow.parquet as pq

    parts = [pq.read_table(part) for part in sorted(out.glob("part-*"))]
    return [path for part in parts for path in part["path"].to_pylist()]


@needs_pyarrow
def test_what_is_not_taken_is_one_line(capsys, mixed, tmp_path) -> None:
    code, out, err = run(capsys, "classify", "-q", mixed, SAMPLES[1], "--json")
    assert (code, err) == (0, f"{SAID}\n")
    here = [str(mixed / "a.png"), str(mixed / "sub" / "b.PNG")]
    assert files(out) == [*here, str(SAMPLES[1])]
    listing = tmp_path / "list.txt"
    listing.write_text(f"{SAMPLES[2]}\n")
    argv = ["embed", "-q", SAMPLES[1], mixed, listing, "-o", tmp_path / "out"]
    code, _, err = run(capsys, *argv)
    assert (code, err.splitlines()[0]) == (0, SAID)
    assert err.count("not taken") == 1
    assert rows(tmp_path / "out") == [str(SAMPLES[1]), *here, str(SAMPLES[2])]


@needs_pyarrow
def test_a_folder_without_pictures_says_what_is_there(capsys, tmp_path) -> None:
    (tmp_path / "list.csv").write_bytes(b"")
    for argv in (["classify", SAMPLES[0]], ["embed", "-o", tmp_path / "out"]):
        code, out, err = run(capsys, *argv, tmp_path)
        assert (code, out) == (2, "")
        text = f"vitpool: {tmp_path}: no pictures in it (not taken: 1 .csv)\n"
        assert err.endswith(text)


def test_a_folder_that_cannot_be_read_is_not_taken_and_said(capsys, mixed) -> None:
    """As root one may read all: so the folder is gone while it is looked at."""
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        code, out, err = run(capsys, "classify", "-q", mixed, "--json")
        assert (code, files(out)) == (0, [str(mixed / "a.png")])
        assert "1 folder (Permission denied)" in err
        with pytest.raises(PermissionError):
            list(transforms.find_images(mixed))
        code, out, err = run(capsys, "classify", "-q", mixed / "sub", "--json")
        assert (code, out) == (2, "")
        assert err == f"vitpool: {mixed}/sub: Permission denied\n"


# ------------------------------------------------------------------ stdin and pipes


@pytest.mark.parametrize("name", ["classify", EMBED])
@pytest.mark.parametrize("null", [False, True])
def test_paths_come_on_stdin(name, null, mixed, tmp_path) -> None:
    odd = tmp_path / "a\n.png" if null else tmp_path / "é.png"
    shutil.copy(SAMPLES[3], odd)
    end = "\0" if null else "\n"
    text = end.join([str(SAMPLES[1]), str(odd), ""])
    argv = [name, "-q", SAMPLES[2], "-", *(["-z"] if null else [])]
    want = [str(SAMPLES[2]), str(SAMPLES[1]), str(odd)]
    if name == "classify":
        done = command(*argv, "--json", input=text)
        assert (done.returncode, done.stderr) == (0, "")
        assert files(done.stdout) == want
        return
    done = command(*argv, mixed, "-o", tmp_path / "out", input=text)
    assert done.returncode == 0
    assert rows(tmp_path / "out")[:3] == want
    # a pipe is read once, so this comes at the end
    assert done.stderr.splitlines()[0] == SAID


def test_a_list_of_many_pieces_is_split_at_its_ends(tmp_path) -> None:
    names = [f"{'x' * (n % 97)}{n}.png" for n in range(5000)]
    listing = tmp_path / "names"
    listing.write_text("\0".join(names))
    assert list(transforms.images_of([str(listing)], null=True)) == names
    with pytest.raises(ValueError, match="neither a folder nor a text file of paths"):
        list(transforms.images_of([str(listing)]))


def test_nothing_on_stdin_is_an_error() -> None:
    done = command("classify", "-", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "vitpool: -: no pictures in it\n"


def test_a_picture_comes_through_a_pipe(capsys, tmp_path) -> None:
    want = run(capsys, "classify", "-q", SAMPLES[4])[1].splitlines()[1:]
    done = command("classify", "-q", "/dev/stdin", text=False, input=b"")
    assert done.returncode == 1
    assert (
        done.stderr == b"vitpool: /dev/stdin: a pipe that nobody writes to; skipped\n"
    )
    pipe = tmp_path / "x.png"
    os.mkfifo(pipe)
    # one that nobody writes to does not wait for ever
    for argv in (["classify", pipe], ["classify", tmp_path]):
        code, out, err = run(capsys, *argv, "-q", SAMPLES[0], "--topk", 1)
        assert code == 1
        assert err == f"vitpool: {pipe}: a pipe that nobody writes to; skipped\n"
        assert out.startswith(str(SAMPLES[0]))
    with open(pipe, "r+b", buffering=0) as writer:

        def write() -> None:
            writer.write(SAMPLES[4].read_bytes())
            writer.close()

        threading.Timer(0.2, write).start()  # later than it is opened
        code, out, err = run(capsys, "classify", "-q", pipe)
    assert (code, err, out.splitlines()[1:]) == (0, "", want)


def test_hidden_names_are_taken_where_they_are_named(capsys, mixed) -> None:
    argv = ["classify", "-q", "--json", mixed / ".hidden.png", mixed / ".cache"]
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, "")
    assert files(out) == [str(mixed / ".hidden.png"), str(mixed / ".cache" / "c.png")]


# --------------------------------------------------------------------------- HEIC


def test_heic_is_read_where_its_decoder_is(capsys, tmp_path, monkeypatch) -> None:
    picture = tmp_path / "phone.HEIC"
    picture.write_bytes(b"none")
    other = tmp_path / "other.heif"
    shutil.copy(SAMPLES[5], other)  # a PNG by its bytes needs no decoder
    read.reads_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    try:
        code, out, err = run(capsys, "classify", "-q", "--json", picture, other)
        assert (code, len(out.splitlines())) == (1, 2)
        why = "no decoder: pip install pillow-heif"
        assert err == f"vitpool: {picture}: {why}; skipped\n"
        assert run(capsys, "classify", tmp_path)[0] == 2
        read.reads_heif.cache_clear()
        registered: list[bool] = []
        package = types.ModuleType("pillow_heif")
        package.register_heif_opener = lambda: registered.append(True)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pillow_heif", package)
        found = list(transforms.find_images(tmp_path))
        assert (found, registered) == ([str(other), str(picture)], [True])
    finally:
        read.reads_heif.cache_clear()


# ------------------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_is_printed_in_any_encoding(tmp_path, encoding) -> None:
    names = [os.fsencode(tmp_path) + name for name in (b"/\xc3\xa9.png", b"/\xff.png")]
    for name in names:
        with open(name, "wb") as file:
            file.write(SAMPLES[0].read_bytes())
    bad = os.fsencode(tmp_path) + b"/bad\xe2\x82\xac.png"
    with open(bad, "wb") as file:
        file.write(b"none")
    env = os.environ | {"PYTHONIOENCODING": encoding, "LC_ALL": "C.UTF-8"}
    argv = [*COMMAND, "classify", "-q", "--topk", "1", tmp_path]
    done = subprocess.run(argv, capture_output=True, env=env)
    assert done.returncode == 1
    shown = "é" if encoding != "ascii" else r"\xe9"
    text = done.stdout.decode(encoding)
    assert f"{tmp_path}/{shown}.png\n" in text
    assert f"{tmp_path}/\\udcff.png\n" in text
    euro = "€" if encoding == "utf-8" else r"\u20ac"
    assert f"bad{euro}.png: " in done.stderr.decode(encoding)
    done = subprocess.run([*argv, "--json"], capture_output=True, env=env)
    read = [os.fsencode(name) for name in files(done.stdout.decode(encoding))]
    assert sorted(read) == sorted([*names, bad])


def test_the_locale_c_goes_on(tmp_path) -> None:
    picture = tmp_path / "é.png"
    shutil.copy(SAMPLES[0], picture)
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = command("classify", "--json", picture, env=os.environ | env)
    assert done.returncode == 0
    # to Python the name is not text then; it still names the file
    assert os.fsencode(files(done.stdout)[0]) == os.fsencode(picture)
