# SPDX-License-Identifier: Apache-2.0
"""The list of planted faults fits the code; that tests notice them is `make mutate`."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load() -> Any:
    path = ROOT / "tools" / "mutate.py"
    spec = importlib.util.spec_from_file_location("mutate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutate"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


mutate = load()
FAULTS = {fault.id: fault for fault in mutate.read_faults()}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_can_be_planted_and_its_tests_are_there(name: str) -> None:
    fault = FAULTS[name]
    text = (ROOT / fault.file).read_text()
    assert fault.planted(text) != text
    assert f"X({fault.needs}," in (ROOT / "csrc" / "base" / "targets.h").read_text()
    for test in fault.red:
        path, _, node = mutate.parts(test)[1].partition("::")
        source = (ROOT / path).read_text()
        if node:
            function = re.escape(re.sub(r"\[.*\]$", "", node))
            assert re.search(rf"^def {function}\(", source, re.M), test


def test_the_table_is_the_list() -> None:
    """`python tools/mutate.py --table` writes it."""
    text = mutate.TABLE.read_text()
    assert mutate.with_table(text, FAULTS.values()) == text
