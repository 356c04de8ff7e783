# SPDX-License-Identifier: Apache-2.0
"""The line that a failing test prints runs it again, with the same examples."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FAILING = """
from hypothesis import given, settings, strategies as st

@settings(derandomize=True, max_examples=5, database=None)
@given(st.integers(0, 2**60))
def test_numbers(n):
    print("drawn", n)
    assert n < 0
"""


def run(folder: Path, command: list[str], **variables: str) -> str:
    outside = {k: v for k, v in os.environ.items() if not k.startswith("VITPOOL_")}
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
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    plain = run(tmp_path, pytest)
    seeded = run(tmp_path, pytest, VITPOOL_TEST_SEED="7")
    assert "VITPOOL_TEST_SEED: 7" in seeded
    assert drawn(plain) != drawn(seeded)
    (line,) = re.findall(r"^-+ again -+\n(.*)$", seeded, re.M)
    setting, *command = shlex.split(line)
    assert setting == "VITPOOL_TEST_SEED=7"
    assert command[-1] == "test_it.py::test_numbers"
    again = run(tmp_path, command, VITPOOL_TEST_SEED="7")
    assert drawn(again) == drawn(seeded)
