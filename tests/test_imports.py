# SPDX-License-Identifier: Apache-2.0
"""The imports of vitpool/: downwards only, as vitpool/README.md draws them.

Imports inside functions and for type checkers count.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up; the rooms of one floor do not import each other.
FLOORS = (
    {"_core", "text", "files"},
    {"config", "resample", "resample_rel_pos", "labels"},
    {"transforms"},
    {"model"},
    {"checkpoint"},
    {"registry"},
    {"embed", "plot", "sklearn", "testing", "train"},
    {"cli"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Names for what has moved to a room, and the package's own: nobody inside uses them.
DOORS = {"__init__", "data", "hub", "live_timm", "models", "ray"}
KNOWN = {*FLOOR, *DOORS}
# Whose save_pretrained is the package's function of that name.
METHODS = ROOT / "vitpool" / "model" / "base.py"
FILES = sorted((ROOT / "vitpool").rglob("*.py"))
MOST_LINES = 600
SOURCES = {".py", ".pyi", ".c", ".h", ".sh"}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "vitpool").with_suffix("").parts[0]


def imports(path: Path) -> Iterator[tuple[str, str, str]]:
    """(room, what is taken from it, its name here) of each import of ours.

    The room is '__init__' where it comes through the package's own door.
    """
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [(alias.name.split("."), alias) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = [*base, *(node.module.split(".") if node.module else ())]
            found = [([*module, alias.name], alias) for alias in node.names]
        else:
            continue
        for dotted, alias in found:
            if dotted[0] == "vitpool":
                room = dotted[1] if dotted[1:] and dotted[1] in KNOWN else "__init__"
                yield room, dotted[-1], alias.asname or alias.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards_only(path: Path) -> None:
    room = room_of(path)
    if room in DOORS:
        return
    here = {}  # names here of what is another room's
    for other, name, alias in imports(path):
        if other == room:
            continue
        if other in DOORS:
            own_door = other == "__init__" and (room == "cli" or path == METHODS)
            assert own_door, f"{room} goes through {other}"
            continue
        assert FLOOR[other] < FLOOR[room], f"{room} may not see {other}"
        assert name == "_core" or not name.startswith("_"), f"{name} is {other}'s own"
        here[alias] = other
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            other = here.get(node.value.id)
            own = node.attr.startswith("_") and not node.attr.startswith("__")
            assert not (other and own), f"{node.attr} is {other}'s own"


def test_every_room_is_known() -> None:
    assert {room_of(path) for path in FILES} == KNOWN - {"_core"}


def test_no_file_is_long() -> None:
    folders = ("vitpool", "csrc", "tests", "tools", "benchmarks")
    files = [p for f in folders for p in (ROOT / f).rglob("*.*") if p.suffix in SOURCES]
    lines = {p: p.read_text(encoding="utf-8").count("\n") for p in files}
    long = {str(p.relative_to(ROOT)): n for p, n in lines.items() if n > MOST_LINES}
    assert files
    assert not long


OTHERS = [
    p
    for f in ("tests", "tools", "benchmarks", "docs")
    for p in (ROOT / f).rglob("*.py")
]


@pytest.mark.parametrize("path", sorted(OTHERS), ids=lambda p: str(p.relative_to(ROOT)))
def test_what_others_import_is_there(path: Path) -> None:
    """For the suites, too, that `make test` does not run, as tests/ray."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module.partition(".")[0] != "vitpool":
            continue
        there = importlib.import_module(node.module)
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            found = hasattr(there, alias.name) or importlib.util.find_spec(submodule)
            assert found, f"{node.module} has no {alias.name}"
