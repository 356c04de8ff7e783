# SPDX-License-Identifier: Apache-2.0
"""The include arrows of csrc/: downwards only, as csrc/README.md draws them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
BELOW = {
    "base": set(),
    "kernels": {"base"},
    "ukernels": {"kernels", "base"},
    "gemm": {"ukernels", "kernels", "base"},
    "ops": {"gemm", "ukernels", "kernels", "base"},
    "model": {"ops", "gemm", "ukernels", "kernels", "base"},
    "python": {"model", "base"},
}
FILES = sorted(p for p in CSRC.rglob("*") if p.suffix in {".c", ".h"})


def includes(path: Path) -> list[str]:
    """The targets of a file's #include lines, with their quotes or brackets."""
    return re.findall(r'^\s*#\s*include\s+([<"][^>"]+[>"])', path.read_text(), re.M)


def same_op(a: str, b: str) -> bool:
    """An op that outgrew one file is split into op.c and op_<part>.c."""
    return a == b or a.startswith(f"{b}_") or b.startswith(f"{a}_")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(CSRC)))
def test_includes_go_downwards_only(path: Path) -> None:
    room = path.relative_to(CSRC).parts[0]
    for target in includes(path):
        name = target[1:-1]
        if target[0] == "<":
            assert name != "blis.h" or path.name == "blis.c", "only gemm/blis.c"
            is_python = name == "Python.h" or name.startswith("numpy/")
            assert not is_python or room == "python", "only csrc/python/"
            continue
        assert (CSRC / name).is_file(), f"{target}: name it from csrc/"
        other = Path(name).parts[0]
        assert other == room or other in BELOW[room], f"{room} may not see {other}"
        if room == other == "ops":
            assert same_op(path.stem, Path(name).stem), "ops do not include each other"


def test_every_room_is_known_and_file_names_are_unique() -> None:
    assert FILES, "csrc/ is empty"
    assert {p.relative_to(CSRC).parts[0] for p in FILES} <= set(BELOW)
    assert [n for n, count in Counter(p.name for p in FILES).items() if count > 1] == []
