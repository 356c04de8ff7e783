# SPDX-License-Identifier: Apache-2.0
"""The same finding in many classes, as one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .finding import SEVERITIES, Audit, Finding, Severity
from .registry import chosen

# What differs between two classes with one fault: names and numbers, what of a module
# it concerns, and the error that came of it, which is behind a colon.
_OWN = re.compile(r"'[^']*'|\"[^\"]*\"|\([^()]*\)|\d[\d.e-]*")
_SIZE = re.compile(r"(with )?(, )?\bimg_size=")  # one that a class was tried at
_PATHS = re.compile(r"\b(\w+)\.[\w.]+(, \1\.[\w.]+)*")


@dataclass(frozen=True)
class Kind:
    """A fault that many classes have: as it shows in the first of them."""

    message: str
    reproduce: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """What one check found at one severity, the kind that most classes have first."""

    check: str
    severity: Severity
    kinds: tuple[Kind, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The subjects in which it found something, each once, in their order."""
        return tuple(dict.fromkeys(name for kind in self.kinds for name in kind.names))

    @property
    def sentence(self) -> str:
        """What the check pins, and who hit it."""
        return next((c.sentence for c in chosen() if c.name == self.check), "")


def grouped(audits: Iterable[Audit]) -> list[Group]:
    """All findings by check, the worst first, and of those what most subjects have."""
    found: dict[tuple[str, Severity], dict[str, list[tuple[str, Finding]]]] = {}
    for audit in audits:
        for finding in audit.findings:
            kinds = found.setdefault((finding.check, finding.severity), {})
            kinds.setdefault(_kind(finding.message), []).append((audit.name, finding))
    groups = []
    for (check, severity), kinds in found.items():
        each = [
            Kind(
                pairs[0][1].message,
                pairs[0][1].reproduce,
                tuple(dict.fromkeys(name for name, _ in pairs)),
            )
            for pairs in kinds.values()
        ]
        each.sort(key=lambda kind: -len(kind.names))
        groups.append(Group(check, severity, tuple(each)))
    order = list(SEVERITIES)
    return sorted(groups, key=lambda g: (order.index(g.severity), -len(g.names)))


def _kind(message: str) -> str:
    """What two messages of one fault have in common."""
    told = _OWN.sub("", _PATHS.sub(r"\1", message.partition(": ")[0]))
    return _SIZE.sub("", told).strip()
