# SPDX-License-Identifier: Apache-2.0
"""Under `python -O` timm's checks vanish; ours are the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import vitpool

HERE = Path(__file__).parent


def test_the_semantics_hold_under_python_O() -> None:
    """pytest rewrites the asserts of test files, so that they run there, too."""
    package = str(Path(vitpool.__file__).parents[1])
    command = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestConfigWarning",
    ]
    run = subprocess.run(
        [
            sys.executable,
            "-O",
            "-c",
            command,
            *options,
            str(HERE / "test_semantics.py"),
        ],
        env=os.environ | {"PYTHONPATH": package},
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
