# SPDX-License-Identifier: Apache-2.0
"""Is a classifier sound when its classes and its pool are switched?

`audit(make)` in the manner of scikit-learn's check_estimator, `parametrize_with_checks`
for a pytest suite. Each check is a function of `checks/`: it takes a Subject and yields
what it found.
"""

from __future__ import annotations

import sys
import types

from .finding import SEVERITIES, Audit, Finding, Skip
from .registry import CHECKS, Check, check, chosen
from .run import audit, checks_of, parametrize_with_checks
from .subject import Subject

__all__ = [
    "CHECKS",
    "SEVERITIES",
    "Audit",
    "Check",
    "Finding",
    "Skip",
    "Subject",
    "audit",
    "check",
    "checks_of",
    "chosen",
    "parametrize_with_checks",
]


class _Door(types.ModuleType):
    """`vitpool.testing.audit` is this package, and can be called as its function."""

    __call__ = staticmethod(audit)


sys.modules[__name__].__class__ = _Door
