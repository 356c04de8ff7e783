# SPDX-License-Identifier: Apache-2.0
"""What Windows does in another way, as far as a POSIX system can tell."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from models import small

from vitpool import files
from vitpool.train import features, stored

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc/self")

# Imports every module; what POSIX alone has is gone before.
IMPORTS = """
import importlib, multiprocessing.connection, multiprocessing.process, os, pkgutil
import ctypes, subprocess, sys, tempfile
import numpy, PIL.Image, tqdm
for name in ("fcntl", "grp", "posix", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("O_NONBLOCK", "fork", "killpg", "register_at_fork", "sched_getaffinity",
             "setsid"):
    delattr(os, name)
import vitpool
count = 0
for module in pkgutil.walk_packages(vitpool.__path__, "vitpool."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
        count += 1
    except ImportError as error:  # of another library, which is optional
        assert error.name and error.name.partition(".")[0] in {
            "matplotlib", "pyarrow", "ray", "sklearn", "usearch"}, (module, error)
print(count)
"""


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """vitpool takes this for Windows, whose locks are those of bytes."""
    held: dict[int, tuple[int, int]] = {}  # which byte, of a descriptor

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == (2, 1)
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        byte = os.fstat(descriptor).st_ino, at
        if any(
            held[other] == byte and open_still(other, byte[0])
            for other in held
            if other != descriptor
        ):
            raise PermissionError(13, "Permission denied")
        held[descriptor] = byte

    def open_still(descriptor: int, inode: int) -> bool:
        try:
            return os.fstat(descriptor).st_ino == inode
        except OSError:
            return False

    fake = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(files, "WINDOWS", True)
    monkeypatch.setattr(stored, "WINDOWS", True)


def test_every_module_is_imported_without_what_posix_alone_has() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80


def test_a_byte_that_another_run_has_is_its_lock(windows, tmp_path: Path) -> None:
    with files.locked(tmp_path):
        with pytest.raises(ValueError, match="another run is writing there"):
            with files.locked(tmp_path):
                pass
    with files.locked(tmp_path):
        pass


def test_the_byte_is_none_of_the_file(windows, tmp_path: Path) -> None:
    with open(tmp_path / "a", "w+b") as file:
        file.write(b"abc")
        file.flush()
        files.lock(file)
        file.write(b"def")
    assert (tmp_path / "a").read_bytes() == b"abcdef"


def test_a_folder_is_not_opened(windows, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a").touch()
    files.sync(tmp_path / "a")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
    files.sync(tmp_path)


@LINUX
def test_a_file_takes_its_name_closed_and_not_mapped(
    windows, tmp_path: Path, monkeypatch
) -> None:
    """Where somebody has it open, or mapped, Windows refuses."""
    replace, renamed = os.replace, []

    def closed(old: Path, new: Path) -> None:
        links = [os.path.realpath(p) for p in Path("/proc/self/fd").iterdir()]
        assert str(old) not in links
        assert str(old) not in Path("/proc/self/maps").read_text()
        renamed.append(str(new))
        replace(old, new)

    monkeypatch.setattr(os, "replace", closed)
    x = np.random.default_rng(0).random((7, 3, 32, 32), np.float32)
    found = features(small(), x, train="head", path=tmp_path / "a.npy")
    assert renamed == [str(tmp_path / "a.npy")]
    assert found.mapped
    assert np.array_equal(found[:], np.load(tmp_path / "a.npy"))
