# SPDX-License-Identifier: Apache-2.0
"""A CPU's section of csrc/kernels/README.md takes the place of its own alone."""

from __future__ import annotations

import sys
from pathlib import Path

# Last, so that a build or a wheel elsewhere is not hidden by the sources.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.kernel_table import refresh

FILE = "# Title\n\nWords.\n"


def test_a_new_cpu_comes_last() -> None:
    one = refresh(FILE, "## A\n\n| 1 |\n")
    assert one == "# Title\n\nWords.\n\n## A\n\n| 1 |\n"
    assert refresh(one, "## B\n\n| 2 |\n") == one + "\n## B\n\n| 2 |\n"


def test_a_known_cpu_is_refreshed_in_its_place() -> None:
    both = refresh(refresh(FILE, "## A\n\n| 1 |\n"), "## B\n\n| 2 |\n")
    assert refresh(both, "## A\n\n| 3 |\n") == both.replace("| 1 |", "| 3 |")
    assert refresh(both, "## B\n\n| 2 |\n") == both
