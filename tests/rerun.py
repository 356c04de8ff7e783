# SPDX-License-Identifier: Apache-2.0
"""A failing test says how to run it again; two variables give other and more examples.

Random tests are the same in every run: hypothesis and `dice` derive their examples from
the test, and other numbers have a seed in the source. With VITPOOL_TEST_SEED=n in the
environment, which the C tests hear as well, both draw from that one too; and with
VITPOOL_TEST_EXAMPLES=n they draw n times as many examples. A failing one is not shrunk
where CI is set, since that can take minutes.
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
MORE = "VITPOOL_TEST_EXAMPLES"
# What a run may depend on.
SETTINGS = ("VITPOOL_TARGET", "VITPOOL_UKR", "VITPOOL_NUM_THREADS", NAME, MORE)

SEED = os.environ.get(NAME)
EXAMPLES = int(os.environ.get(MORE, "1"))

SHRINK = {hypothesis.Phase.shrink, hypothesis.Phase.explain}
hypothesis.settings.register_profile(
    "vitpool",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=set(hypothesis.Phase) - (SHRINK if "CI" in os.environ else set()),
)
hypothesis.settings.load_profile("vitpool")


def seeded(test: Any) -> Any:
    """A test of hypothesis, or a state machine, with the environment's seed."""
    return test if SEED is None else hypothesis.seed(int(SEED))(test)


def settings(examples: int, **more: Any) -> hypothesis.settings:
    """So many examples, times VITPOOL_TEST_EXAMPLES, for a test of hypothesis."""
    return hypothesis.settings(max_examples=examples * EXAMPLES, **more)


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
    seed = SEED or "none, the same examples in every run"
    return f"{NAME}: {seed}; {MORE}: {EXAMPLES}"


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
