# SPDX-License-Identifier: Apache-2.0
"""A failing test says how to run it again; VITPOOL_TEST_SEED=n gives other examples.

Random tests are the same in every run: hypothesis derives its examples from the test,
and other numbers have a seed in the source. With a seed in the environment, which the C
tests hear as well, hypothesis draws from that one instead.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

NAME = "VITPOOL_TEST_SEED"
# What a run may depend on.
SETTINGS = ("VITPOOL_TARGET", "VITPOOL_UKR", "VITPOOL_NUM_THREADS", NAME)


def seeded(test: Any) -> Any:
    """A test of hypothesis, or a state machine, with the environment's seed."""
    seed = os.environ.get(NAME)
    return test if seed is None else hypothesis.seed(int(seed))(test)


def command(nodeid: str) -> str:
    """The line that runs one test as it has just been run."""
    settings = [
        f"{name}={shlex.quote(os.environ[name])}"
        for name in SETTINGS
        if name in os.environ
    ]
    python = os.path.relpath(sys.executable)
    return " ".join([*settings, python, "-m pytest", shlex.quote(nodeid)])


def pytest_report_header() -> str:
    return f"{NAME}: {os.environ.get(NAME, 'none, the same examples in every run')}"


def pytest_itemcollected(item: pytest.Item) -> None:
    test = getattr(item, "obj", None)
    if getattr(test, "is_hypothesis_test", False) and hasattr(test, "hypothesis"):
        seeded(test)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if report.failed:
        report.sections.append(("again", command(item.nodeid)))
    return report
