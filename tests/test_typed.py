# SPDX-License-Identifier: Apache-2.0
"""What type checkers are promised: `make lint` checks both files, here they run."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import typed_mistakes
import typed_program


def test_the_typed_program_runs() -> None:
    assert typed_program.main().startswith(("cat [(1, 2)", "dog [(1, 2)"))
    assert typed_program.main("map")
    assert typed_program.others()[0] == "(1, 5, 768)"


@pytest.mark.parametrize("name", typed_mistakes.MISTAKES)
def test_what_mypy_catches_is_an_error_at_run_time_too(name: str) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        typed_mistakes.MISTAKES[name]()


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("vitpool").joinpath("py.typed").is_file()


def test_mypy_is_run_on_both_files() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8")
    files = text.partition("\nfiles = [")[2].partition("]")[0]
    assert '"tests/typed_program.py"' in files
    assert '"tests/typed_mistakes.py"' in files
