# SPDX-License-Identifier: Apache-2.0
"""What an audit says: findings, what was skipped and why, the report of a class."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["A", "B", "C", "D"]
SEVERITIES: dict[Severity, str] = {
    "A": "wrong numbers without an error",
    "B": "accepted, and fails later or leaves a broken model",
    "C": "inconsistent, or state damaged by a refused call",
    "D": "cosmetic",
}


@dataclass(frozen=True)
class Finding:
    """A fault. `reproduce`: a program that fails for as long as the fault is there."""

    check: str
    severity: Severity
    message: str
    reproduce: str


@dataclass(frozen=True)
class Skip:
    """What was not checked, and why. failed: the check broke, and says nothing."""

    check: str
    reason: str
    failed: bool = False


@dataclass(frozen=True)
class Audit:
    """The report of one subject.

    passed: the names of the checks that ran and found nothing; one may have skipped a
    part and still have passed. seconds: how long all took.
    """

    name: str
    findings: tuple[Finding, ...]
    skips: tuple[Skip, ...]
    passed: tuple[str, ...]
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was found, and no check broke."""
        return not self.findings and not any(skip.failed for skip in self.skips)

    def counts(self) -> dict[str, int]:
        """How many findings there are of each severity, the worst first."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            "name": self.name,
            "ok": self.ok,
            "counts": self.counts(),
            "findings": [asdict(finding) for finding in self.findings],
            "skips": [asdict(skip) for skip in self.skips],
            "passed": list(self.passed),
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, verbose: bool = False) -> list[str]:
        """The report as lines of text. verbose: with snippets, and what was skipped."""
        found = ", ".join(f"{n} {s}" for s, n in self.counts().items() if n)
        lines = [f"{self.name}: {found or 'no finding'}"]
        order = list(SEVERITIES)
        for finding in sorted(self.findings, key=lambda f: order.index(f.severity)):
            lines.append(f"  {finding.severity} {finding.check}: {finding.message}")
            if verbose:
                lines += [f"      {line}" for line in finding.reproduce.splitlines()]
        for skip in self.skips:
            if verbose or skip.failed:
                word = "broke" if skip.failed else "skipped"
                lines.append(f"  - {skip.check} {word}: {skip.reason}")
        return lines
