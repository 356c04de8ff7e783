# SPDX-License-Identifier: Apache-2.0
"""Run the checks over a subject, at once or each as a test of its own."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from .finding import Audit, Finding, Skip
from .registry import Check, chosen
from .subject import Subject


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch, where it is there, has one thread meanwhile.

    A check makes hundreds of passes over small models, which wait for a second thread
    more than they compute, and for very long where something else has its core.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch is not None else 0
    try:
        if torch is not None:
            torch.set_num_threads(1)
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(threads)


def run_check(check: Check, subject: Subject) -> list[Finding | Skip]:
    """What a check found; one that breaks says so, as a skip."""
    found: list[Finding | Skip] = []
    try:
        missing = [name for name in check.needs if not hasattr(subject.example, name)]
        if missing:
            return [Skip(check.name, f"its models have no {' and no '.join(missing)}")]
        if check.builds and not subject.heeds_classes:
            reason = "make ignores num_classes: no model is built as asked"
            return [Skip(check.name, reason)]
        with one_thread():
            found.extend(check.run(subject))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        reason = f"{type(error).__name__}: {error} ({where})"
        found.append(Skip(check.name, " ".join(reason.split()), failed=True))
    return found


def report(
    name: str, results: Iterable[tuple[str, list[Finding | Skip]]], seconds: float = 0.0
) -> Audit:
    """The results of checks, as (name, what was found), as one report."""
    findings: list[Finding] = []
    skips: list[Skip] = []
    passed = []
    for check, found in results:
        new = [item for item in found if isinstance(item, Finding)]
        skipped = [item for item in found if isinstance(item, Skip)]
        findings += new
        skips += skipped
        if not new and not any(skip.failed for skip in skipped):
            passed.append(check)
    return Audit(name, tuple(findings), tuple(skips), tuple(passed), seconds)


def audit(
    make: Callable[..., Any],
    *,
    source: str | None = None,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    input_size: tuple[int, int, int] | None = None,
    **kwargs: Any,
) -> Audit:
    """Audit the classifiers that `make(**kwargs)` builds, in this process.

    Args:
        make: A class or a function that gives a new model with a `reset_classifier`:
            timm's, a copy of it, or ours. A torch module is run by the torch that it
            brings.
        source: Python text after which `make` is that callable, for the findings'
            snippets; default: it is imported from where it is.
        only, skip: Names of checks (`CHECKS`).
        input_size: (channels, height, width) of the pictures, where the model does not
            tell and trying does not find it.
        **kwargs: Options of the small model that is audited. Small pictures, few
            channels and two blocks show what large ones do.

    Raises:
        ValueError: no check has that name.
        Exception: what `make(**kwargs)` raises.
    """
    checks = chosen(only, skip)
    subject = Subject(make, source=source, input_size=input_size, kwargs=kwargs)
    subject.build()
    began = time.monotonic()
    results = [(check.name, run_check(check, subject)) for check in checks]
    return report(subject.name, results, time.monotonic() - began)


def checks_of(
    make: Callable[..., Any] | Subject, **options: Any
) -> Iterator[tuple[Subject, Check]]:
    """Each check with its subject, for a loop of one's own. Options: as of audit."""
    only, skip = options.pop("only", ()), options.pop("skip", ())
    if isinstance(make, Subject):
        subject = make
    else:
        own = {key: options.pop(key, None) for key in ("source", "input_size")}
        subject = Subject(make, **own, kwargs=options)
    for check in chosen(only, skip):
        yield subject, check


def parametrize_with_checks(
    makes: Iterable[Callable[..., Any] | Subject], **options: Any
) -> Any:
    """pytest's parametrize over `check`: each check of each class is a test of its own.

    >>> @parametrize_with_checks([MyViT], img_size=32, depth=2)
    ... def test_sound(check):
    ...     check()

    `check()` fails with what was found and its snippets, and is skipped where the class
    has not what the check is about. Options are those of `audit`.
    """
    import pytest

    pairs = [pair for make in makes for pair in checks_of(make, **options)]
    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(CheckOf(subject, check), id=f"{subject.name}-{check.name}")
            for subject, check in pairs
        ],
    )


class CheckOf:
    """A check of one subject: a call runs it as a test."""

    def __init__(self, subject: Subject, check: Check) -> None:
        self.subject, self.check = subject, check

    def __repr__(self) -> str:
        return f"{self.check.name}({self.subject.name})"

    def __call__(self) -> None:
        """Fail with what was found, or skip with the reason."""
        import pytest

        found = run_check(self.check, self.subject)
        result = report(self.subject.name, [(self.check.name, found)])
        if not result.ok:
            pytest.fail("\n".join(result.lines(verbose=True)), pytrace=False)
        if found:
            pytest.skip("; ".join(skip.reason for skip in result.skips))
