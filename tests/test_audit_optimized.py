# SPDX-License-Identifier: Apache-2.0
"""What an assert refuses, tried without it: as `python -O` would have it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from vitpool.testing.audit.optimized import WithoutAsserts

SOURCE = """
class Head:
    pools = ("avg", "max")

    def reset(self, pool):
        assert pool in self.pools, f"no {pool}"
        self.kind = check(pool)


def check(pool):
    def lowered():
        assert pool == pool.lower()
        return pool

    if pool == "gem":
        raise ValueError(pool)
    if pool == "hand":
        raise AssertionError("not an assert")
    return lowered()
"""


@pytest.fixture
def heads(tmp_path: Path) -> ModuleType:
    path = tmp_path / "heads_with_asserts.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("pool", "refused"),
    [("avg", False), ("map ", False), ("Avg", False), ("gem", True), ("hand", True)],
)
def test_what_an_assert_alone_refuses_is_taken(
    heads: ModuleType, pool: str, refused: bool
) -> None:
    with WithoutAsserts() as code:
        assert code.refused(lambda: heads.Head().reset(pool)) is refused


def test_asserts_are_back_afterwards(heads: ModuleType) -> None:
    with WithoutAsserts() as code:
        assert not code.refused(lambda: heads.Head().reset("Avg"))
    with pytest.raises(AssertionError, match="no Avg"):
        heads.Head().reset("Avg")
