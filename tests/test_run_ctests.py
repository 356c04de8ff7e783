# SPDX-License-Identifier: Apache-2.0
"""tools/run_ctests.sh: which programs it runs, on which targets."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Programs that write down on which target they run."""
    folder = tmp_path / "ctests"
    folder.mkdir()
    for name in ("test_cpu", "test_gemm", "test_ukr"):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho "{name} ${{VITPOOL_TARGET:-}}" >>{tmp_path}/ran\n'
            'echo "targets: baseline avx2"\n'
        )
        program.chmod(0o755)
    return folder


def ran(programs: Path, **environment: str) -> list[str]:
    done = subprocess.run(
        [ROOT / "tools" / "run_ctests.sh", programs],
        env={k: v for k, v in os.environ.items() if k != "VITPOOL_TARGET"}
        | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (programs.parent / "ran").read_text().splitlines()


def test_the_targets_that_the_machine_has_run_each_once(programs: Path) -> None:
    assert ran(programs) == [
        "test_cpu ",  # which says what there is
        "test_cpu ",
        "test_gemm ",
        "test_ukr ",
        "test_ukr baseline",
        "test_ukr avx2",
        "test_ukr ",
    ]


def test_programs_are_named(programs: Path) -> None:
    assert ran(programs, ONLY="test_gemm") == ["test_cpu ", "test_gemm "]


def test_a_name_of_no_program_is_an_error(programs: Path) -> None:
    done = subprocess.run(
        [ROOT / "tools" / "run_ctests.sh", programs],
        env=os.environ | {"ONLY": "test_gemm test_gem"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"{programs} has no program test_gem\n"
    assert (programs.parent / "ran").read_text() == "test_cpu \n"
