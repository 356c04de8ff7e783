# SPDX-License-Identifier: Apache-2.0
"""The checks by name, and the decorator that makes a function one of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...text import did_you_mean
from .finding import Finding, Skip

if TYPE_CHECKING:
    from .subject import Subject

Run = Callable[["Subject"], Iterator[Finding | Skip]]
# The modules of `checks/`, in the order in which their checks run.
MODULES = (
    "names",
    "refused",
    "options",
    "sequences",
    "equal",
    "constructor",
    "intermediates",
    "pruning",
    "checkpoint",
    "weights",
    "classifier",
    "gradients",
)
# Those that look at models which make has built as asked: with other options, another
# pool, other classes. Of a make that ignores what it is asked for they say nothing.
BUILDING = {"sequences", "equal", "constructor", "checkpoint", "weights", "classifier"}


@dataclass(frozen=True)
class Check:
    """A check. sentence: what it pins, and who hit it. needs: methods of the model."""

    name: str
    sentence: str
    run: Run
    needs: tuple[str, ...]

    @property
    def builds(self) -> bool:
        """Whether it looks at models that make builds with options."""
        return self.run.__module__.rpartition(".")[2] in BUILDING


CHECKS: dict[str, Check] = {}


def check(
    sentence: str, needs: tuple[str, ...] = ("reset_classifier",)
) -> Callable[[Run], Run]:
    """Make the function a check of its own name.

    needs: Methods without which a model is skipped, by the engine.
    """

    def add(run: Run) -> Run:
        name = run.__name__
        if name in CHECKS:
            raise ValueError(f"there is a check {name!r} already")
        CHECKS[name] = Check(name, sentence, run, needs)
        return run

    return add


def chosen(only: Collection[str] = (), skip: Collection[str] = ()) -> list[Check]:
    """The checks to run, in their order.

    Raises:
        ValueError: no check has that name.
    """
    for module in MODULES:
        importlib.import_module(f".checks.{module}", __package__)
    for option, names in (("only", only), ("skip", skip)):
        if isinstance(names, str):
            raise TypeError(f"{option}: a list of checks' names, not {names!r}")
        for name in names:
            if name not in CHECKS:
                hint = did_you_mean(name, CHECKS)
                raise ValueError(f"{option}: there is no check {name!r}{hint}")
    wanted = only or CHECKS
    return [c for name, c in CHECKS.items() if name in wanted and name not in skip]
