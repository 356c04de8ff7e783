# SPDX-License-Identifier: Apache-2.0
"""An audit in processes: what dies, hangs or cannot be made is told; the rest goes on.

The models are small fakes over arrays: what is tried is the engine.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fakes import Colours

from vitpool.testing.audit import Audit, Subject
from vitpool.testing.audit.process import audit_many

CHECKS = ["own_pool_is_accepted_by_reset", "a_refused_reset_changes_nothing"]


class Segfaults(Colours):
    def __call__(self, x: np.ndarray) -> np.ndarray:
        ctypes.string_at(0)
        return x


class Exits(Colours):
    def __call__(self, x: np.ndarray) -> np.ndarray:
        os.write(2, b"that was all\n")
        os._exit(3)


class Killed(Colours):
    def __call__(self, x: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return x


class Hangs(Colours):
    def __call__(self, x: np.ndarray) -> np.ndarray:
        time.sleep(600)
        return x


class Unmade:
    def __init__(self) -> None:
        raise RuntimeError("no weights\nhere")


class DiesWhenMade:
    def __init__(self) -> None:
        os._exit(5)


@dataclass
class Given:
    make: Any
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.make.__name__)

    def subject(self) -> Subject:
        return Subject(self.make, kwargs=self.kwargs)


def run(*makes: Any, **options: Any) -> list[Audit]:
    return list(audit_many([Given(make) for make in makes], only=CHECKS, **options))


def test_a_sound_model_passes() -> None:
    (audit,) = run(Colours)
    assert audit.ok, audit
    assert audit.passed == tuple(CHECKS)


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (Segfaults, "was ended by SIGSEGV: Fatal Python error: Segmentation fault"),
        (Exits, "ended with exit code 3: that was all"),
        (Killed, "was ended by SIGKILL (out of memory?)"),
    ],
)
def test_a_process_that_dies_is_a_finding(make: Any, how: str) -> None:
    (audit,) = run(make)
    (found,) = audit.findings
    assert (found.check, found.severity) == (CHECKS[1], "B")
    assert found.message == f"the process {how}"
    assert f"only=[{CHECKS[1]!r}]" in found.reproduce
    assert audit.passed == (CHECKS[0],)  # where forward is not run


def test_the_checks_behind_a_death_are_run() -> None:
    options = {"only": [CHECKS[1], "nothing_is_printed", CHECKS[0]]}
    (audit,) = audit_many([Given(Exits)], **options)
    assert [f.check for f in audit.findings] == [CHECKS[1], "nothing_is_printed"]
    assert audit.passed == (CHECKS[0],)


def test_a_check_that_hangs_is_a_finding() -> None:
    (audit,) = run(Hangs, seconds=1)
    (found,) = audit.findings
    assert found.message == "the process takes longer than 1 s"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Unmade, "no model can be made: RuntimeError: no weights here"),
        (DiesWhenMade, "the process that makes a model ended with exit code 5"),
    ],
)
def test_what_cannot_be_made_is_told_and_does_not_pass(make: Any, why: str) -> None:
    (audit,) = run(make)
    (skip,) = audit.skips
    assert (skip.reason, skip.failed) == (why, True)
    assert not audit.ok
    assert not audit.findings
    assert not audit.passed


def test_reports_come_as_they_end_and_each_once() -> None:
    names = [audit.name for audit in run(Hangs, Colours, Exits, seconds=2, jobs=2)]
    assert sorted(names) == ["Colours", "Exits", "Hangs"]
    assert names[-1] == "Hangs"


def test_no_process_outlives_the_iterator() -> None:
    reports = audit_many([Given(Hangs), Given(Colours)], only=CHECKS)
    assert next(reports).name == "Colours"
    began = time.monotonic()
    reports.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 60
    with pytest.raises(ChildProcessError):  # no child is left
        os.waitpid(-1, os.WNOHANG)
