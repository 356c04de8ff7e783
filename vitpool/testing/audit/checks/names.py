# SPDX-License-Identifier: Apache-2.0
"""Names of pools: exact ones are taken, near misses refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..finding import Finding, Severity, Skip
from ..optimized import WithoutAsserts
from ..registry import check
from ..source import Code
from ..subject import POOLS, Subject

NEAR_MISSES: tuple[Any, ...] = (
    *("map ", " avg", "Avg", "CatAvgMax", "softmax", "not_avg", "gem"),
    *(b"avg", ["avg"], 0, False),
)
NO_POOLS = "its models tell of no pool"
NO_OPTION = "global_pool is no option of the constructor"
# What code raises that did not look at a name before it used it.
ACCIDENTS = (AttributeError, UnboundLocalError, IndexError)


@check("reset_classifier takes the name of the pool that the model was built with")
def own_pool_is_accepted_by_reset(subject: Subject) -> Iterator[Finding | Skip]:
    """With classes, and '' without."""
    name = "own_pool_is_accepted_by_reset"
    if not subject.pools:
        yield Skip(name, NO_POOLS)
    for pool in subject.pools:
        built = {"global_pool": pool} | ({} if pool else {"num_classes": 0})
        call = f"reset_classifier({5 if pool else 0}, {pool!r})"
        try:
            subject.reset(subject.build(**built), 5 if pool else 0, pool)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            yield Finding(
                name,
                "C",
                f"a model built with global_pool={pool!r} refuses {call}: {said}",
                subject.snippet(f"model.{call}", **built),
            )


@check(
    "reset_classifier refuses a pool whose name is not exactly one of its own "
    "(timm issue 2272: a comparison with 'map ' threw trained attention pools away)"
)
def near_misses_are_refused_by_reset(subject: Subject) -> Iterator[Finding | Skip]:
    """What is taken is run, to tell what it was taken for."""
    name = "near_misses_are_refused_by_reset"
    if not subject.pools:
        yield Skip(name, NO_POOLS)
        return

    def given(pool: Any) -> Any:
        model = subject.build()
        subject.reset(model, 5, pool)
        return model

    lines = (subject.making(), "model.reset_classifier(5, name)")
    yield from _taken(subject, name, given, "reset_classifier(5, {})", lines)


@check(
    "the constructor refuses a pool whose name is not exactly one of its own "
    "(timm's SelectAdaptivePool2d takes 'softmax' for max where channels come last)"
)
def near_misses_are_refused_by_the_constructor(
    subject: Subject,
) -> Iterator[Finding | Skip]:
    """What is taken is run, to tell what it was taken for; None is refused cleanly."""
    name = "near_misses_are_refused_by_the_constructor"
    if "global_pool" not in subject.options:
        yield Skip(name, NO_OPTION)
        return
    if not subject.heeds_classes:
        yield Skip(name, "make ignores what it is asked for")
        return

    def given(pool: Any) -> Any:
        return subject.build(global_pool=pool)

    lines = (subject.making(global_pool=Code("name")),)
    yield from _taken(subject, name, given, "make(global_pool={})", lines)
    try:
        given(None)
    except ACCIDENTS as error:
        accident = type(error).__name__
        yield Finding(
            name,
            "D",
            f"make(global_pool=None) is refused by accident: {accident}: {error}",
            subject.program(
                "try:",
                _indented(subject.making(global_pool=None)),
                f"except {accident}:",
                "    raise",
                "except Exception:",
                "    pass",
            ),
        )
    except Exception:
        return


@check(
    "names of pools are refused under `python -O` as well, where assert statements "
    "vanish (timm and most copies of it check names by assert alone)"
)
def refusals_survive_optimization(subject: Subject) -> Iterator[Finding | Skip]:
    """What an assert refuses is tried again with the code that `-O` makes."""
    name = "refusals_survive_optimization"
    if not subject.pools:
        yield Skip(name, NO_POOLS)
        return
    asserted = [pool for pool in (*NEAR_MISSES, *POOLS) if _is_asserted(subject, pool)]
    with WithoutAsserts() as code:
        taken = [
            pool
            for pool in asserted
            if not code.refused(lambda: subject.reset(subject.build(), 5, pool))  # noqa: B023
        ]
    if not taken:
        return
    program = subject.program(
        "taken = []",
        f"for name in {taken!r}:",
        _indented(subject.making()),
        "    try:",
        "        model.reset_classifier(5, name)",
        "    except Exception:",
        "        continue",
        "    taken.append(name)",
        "if taken:",
        "    raise SystemExit(f'taken for pools: {taken}')",
    )
    yield Finding(
        name,
        "C",
        f"assert alone refuses names; under `python -O` these are taken for pools: "
        f"{taken}",
        "\n".join(
            [
                "import subprocess, sys",
                f"program = {program!r}",
                "command = [sys.executable, '-O', '-c', program]",
                "assert subprocess.run(command).returncode == 0",
                "",
            ]
        ),
    )


def _is_asserted(subject: Subject, pool: Any) -> bool:
    """Whether an assert is what refuses this pool."""
    try:
        subject.reset(subject.build(), 5, pool)
    except AssertionError:
        return True
    except Exception:
        return False
    return False


def _taken(
    subject: Subject,
    name: str,
    given: Callable[[Any], Any],
    call: str,
    lines: tuple[str, ...],
) -> Iterator[Finding]:
    """A finding for each severity of what is not refused.

    given: makes a model with that pool, or raises. call, lines: how that is written,
    with {} and with `name` for the pool.
    """
    found: dict[Severity, list[tuple[Any, str]]] = defaultdict(list)
    for miss in NEAR_MISSES:
        try:
            model = given(miss)
        except Exception:
            continue
        severity, effect = _effect(subject, given, model, miss)
        found[severity].append((miss, effect))
    for severity, misses in sorted(found.items()):
        names = [miss for miss, _ in misses]
        effects = ", ".join(f"{miss!r} ({effect})" for miss, effect in misses)
        yield Finding(
            name,
            severity,
            f"{call.format('...')} takes {effects}",
            subject.program(
                f"for name in {names!r}:",
                "    try:",
                *[_indented(line, 2) for line in lines],
                "    except Exception:",
                "        continue",
                "    raise AssertionError(f'{name!r} is taken for a pool')",
            ),
        )


def _effect(
    subject: Subject, given: Callable[[Any], Any], model: Any, miss: Any
) -> tuple[Severity, str]:
    """How bad it is that a near miss is taken, and what it does."""
    subject.fill(model)
    try:
        out = subject.run(model)
    except Exception as error:
        return "B", f"forward raises {type(error).__name__}: {_first_line(error)}"
    for pool in subject.pools:
        try:
            right = given(pool)
            subject.fill(right)
            same = np.array_equal(subject.run(right), out, equal_nan=True)
        except Exception:
            continue
        if same:
            meant = str(miss).strip().lower() == pool
            return "D" if meant else "A", f"as {pool!r}"
    return "A", "as no pool of its own"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _indented(text: str, depth: int = 1) -> str:
    return "\n".join("    " * depth + line for line in text.splitlines())
