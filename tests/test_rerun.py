# SPDX-License-Identifier: Apache-2.0
"""The line that a failing test prints runs it again, with the same examples."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import rerun
from dice import Dice

HERE = Path(__file__).parent
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
FAILING = """
from hypothesis import given, settings, strategies as st

@settings(derandomize=True, max_examples=5, database=None)
@given(st.integers(0, 2**60))
def test_numbers(n):
    print("drawn", n)
    assert n < 1000
"""


def run(folder: Path, command: list[str], **variables: str) -> str:
    outside = {
        key: value
        for key, value in os.environ.items()
        if key != "CI" and not key.startswith("VITPOOL_")
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=outside | {"PYTHONPATH": str(HERE)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def drawn(output: str) -> list[str]:
    return re.findall(r"^drawn (\d+)$", output, re.M)


def test_a_failing_test_says_how_to_run_it_again(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from rerun import *\n")
    (tmp_path / "test_it.py").write_text(FAILING)
    plain = run(tmp_path, PYTEST)
    assert drawn(plain)[-1] == "1000"  # shrunk
    seeded = run(tmp_path, PYTEST, VITPOOL_TEST_SEED="7")
    assert "VITPOOL_TEST_SEED: 7" in seeded
    assert drawn(plain) != drawn(seeded)
    (line,) = re.findall(r"^-+ again -+\n(.*)$", seeded, re.M)
    setting, *command = shlex.split(line)
    assert setting == "VITPOOL_TEST_SEED=7"
    assert command[-1] == "test_it.py::test_numbers"
    again = run(tmp_path, command, VITPOOL_TEST_SEED="7")
    assert drawn(again) == drawn(seeded)


NUMBERS = """
import dice, pytest, rerun
from hypothesis import given, strategies as st

@rerun.settings(4)
@given(st.integers(0, 2**60))
def test_numbers(n):
    print("drawn", n)

@pytest.mark.parametrize("example", dice.examples(4))
def test_dice(example):
    print("drawn", dice.Dice("here", example).integer(0, 2**60))

def test_last():
    assert 0
"""


def test_more_examples_are_run_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from rerun import *\n")
    (tmp_path / "test_it.py").write_text(NUMBERS)
    command = [*PYTEST, "-rP"]
    few = drawn(run(tmp_path, command))
    assert len(few) == 8
    many = drawn(run(tmp_path, command, VITPOOL_TEST_EXAMPLES="3"))
    assert len(many) == 24
    assert set(few[4:]) < set(many[12:])


def test_dice_follow_the_test_the_example_and_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def draw(test: str, example: int) -> list[int]:
        dice = Dice(test, example)
        return [dice.integer(0, 2**60) for _ in range(3)]

    first = draw("one", 0)
    assert draw("one", 0) == first
    assert first[0] == 1120323737160880512  # everywhere
    seen = [first, draw("one", 1), draw("other", 0)]
    monkeypatch.setattr(rerun, "SEED", "1")
    seen.append(draw("one", 0))
    assert len(set(map(tuple, seen))) == 4


def test_nothing_is_shrunk_under_ci(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from rerun import *\n")
    (tmp_path / "test_it.py").write_text(FAILING)
    assert "1000" not in drawn(run(tmp_path, PYTEST, CI="true"))
