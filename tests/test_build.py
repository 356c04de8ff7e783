# SPDX-License-Identifier: Apache-2.0
"""What the build promises: which BLIS it takes, what the module exports."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import vitpool
from vitpool import _core

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from find_blis import blis_to_link, find_blis  # noqa: E402

STATIC, SHARED = "libblis.a", "libblis.so"


@pytest.fixture
def blis_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("BLIS_INCLUDEDIR", "BLIS_LIBDIR", "BLIS_DIR"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "include" / "blis").mkdir(parents=True)
    (tmp_path / "include" / "blis" / "blis.h").touch()
    (tmp_path / "lib").mkdir()
    return tmp_path


def test_named_folder_wins(blis_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (blis_dir / "lib" / STATIC).touch()
    monkeypatch.setenv("BLIS_DIR", str(blis_dir))
    blis = find_blis()
    assert blis is not None
    assert blis.include_dir == blis_dir / "include" / "blis"
    assert blis.link_args == [str(blis_dir / "lib" / STATIC)]
    monkeypatch.delenv("BLIS_DIR")
    monkeypatch.setenv("BLIS_LIBDIR", str(blis_dir / "lib"))
    monkeypatch.setenv("BLIS_INCLUDEDIR", str(blis_dir / "include"))
    again = find_blis()
    assert again is not None
    assert again.library == blis.library


def test_named_folder_without_blis_is_not_replaced_by_another(
    blis_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLIS_DIR", str(blis_dir))
    assert find_blis() is None


def test_a_build_without_blis_is_asked_for_or_not_linuxs(
    blis_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLIS_DIR", str(blis_dir))  # where there is none yet
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(SystemExit, match="BLIS not found"):
        blis_to_link()
    monkeypatch.setattr(sys, "platform", "win32")
    assert blis_to_link() is None
    monkeypatch.setenv("VITPOOL_BLIS", "1")
    with pytest.raises(SystemExit, match="BLIS not found"):
        blis_to_link()
    (blis_dir / "lib" / STATIC).touch()
    assert blis_to_link() == find_blis() is not None
    monkeypatch.setenv("VITPOOL_BLIS", "0")
    assert blis_to_link() is None
    monkeypatch.setenv("VITPOOL_BLIS", "no")
    with pytest.raises(SystemExit, match="'no', neither 0 nor 1"):
        blis_to_link()


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux's libraries")
def test_static_library_is_preferred(
    blis_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLIS_DIR", str(blis_dir))
    (blis_dir / "lib" / SHARED).touch()
    blis = find_blis()
    assert blis is not None
    assert not blis.static
    assert f"-Wl,-rpath,{blis_dir / 'lib'}" in blis.link_args
    (blis_dir / "lib" / STATIC).touch()
    blis = find_blis()
    assert blis is not None
    assert blis.static


@pytest.mark.parametrize("name", ["bli_init", "bli_sgemm", "sgemm_", "vp_vit_create"])
def test_module_exports_nothing_but_its_init(name: str) -> None:
    module = ctypes.CDLL(_core.__file__)
    assert hasattr(module, "PyInit__core")
    assert not hasattr(module, name)


def git(*arguments: str) -> set[str]:
    """The lines that a git command prints."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines())


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="compares with git's files")
def test_the_sdist_has_what_git_has(tmp_path: Path) -> None:
    # the build's, not the tests': a venv has none, or (Python 3.10) an older one
    pytest.importorskip("setuptools", minversion="77")
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "egg_info",
        "--egg-base",
        str(tmp_path),
    ]
    command += ["sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        files = [member.name for member in archive if member.isfile()]
    content = {name.partition("/")[2] for name in files} - {"PKG-INFO", "setup.cfg"}
    tracked = {name for name in git("ls-files") if (ROOT / name).exists()}
    new = git("ls-files", "--others", "--exclude-standard")  # not yet added
    assert tracked - content == set()
    assert content - tracked - new == set()


def test_version_is_the_projects() -> None:
    line = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert line is not None
    assert vitpool.__version__ == line[1]
