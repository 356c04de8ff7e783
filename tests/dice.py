# SPDX-License-Identifier: Apache-2.0
"""Random draws that are the same on every machine, with every Python, in every run.

A random test takes the number of its example, of which `examples` tells how many there
are, and draws everything from `Dice`. So one example runs alone, by its number, and
what the others draw does not depend on it.
"""

from __future__ import annotations

import random
from typing import TypeVar

import rerun

T = TypeVar("T")


def examples(count: int) -> range:
    """The numbers of a test's examples: `count`, times VITPOOL_TEST_EXAMPLES."""
    return range(count * rerun.EXAMPLES)


class Dice:
    """Draws by a test's name and an example's number, and by VITPOOL_TEST_SEED."""

    def __init__(self, test: str, example: int) -> None:
        # Of `random`, this method's numbers are the ones that Python promises to keep.
        self._unit = random.Random(f"{test}:{example}:{rerun.SEED or 0}").random

    def pick(self, *values: T) -> T:
        """One of the values."""
        return values[self.integer(0, len(values) - 1)]

    def integer(self, low: int, high: int) -> int:
        """`low`, `high`, or a number between."""
        return low + int(self._unit() * (high - low + 1))

    def sometimes(self) -> bool:
        """True once in three times."""
        return self._unit() < 1 / 3
