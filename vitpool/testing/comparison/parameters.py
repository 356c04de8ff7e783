# SPDX-License-Identifier: Apache-2.0
"""The parameters of two sides beside each other, read one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...text import some
from .measure import distance, short

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParameterDifference:
    """What the parameters of a candidate are beside the reference's; true if they
    differ in anything.

    missing: names that only the reference has; unexpected: that only the candidate has.
    shapes: of each that has another shape, (the reference's, the candidate's). largest:
    of each other that differs, the largest |candidate - reference|; inf where one alone
    is NaN or infinite. alike: how many are the same in every number.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    shapes: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    alike: int = 0

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.shapes or self.largest)

    @property
    def count(self) -> int:
        """How many parameters differ, or are on one side alone."""
        groups = self.missing, self.unexpected, self.shapes, self.largest
        return sum(map(len, groups))

    def lines(self) -> list[str]:
        """A line for each kind of difference."""
        lines = []
        if self.missing:
            lines.append(f"missing: {some(self.missing)}")
        if self.unexpected:
            lines.append(f"unexpected: {some(self.unexpected)}")
        if self.shapes:
            shapes = (f"{k} {a}, {b}" for k, (a, b) in self.shapes.items())
            lines.append(f"other shapes: {some(shapes)}")
        if self.largest:
            most = sorted(self.largest.items(), key=lambda item: -item[1])
            lines.append(f"other numbers: {some(f'{k} {short(v)}' for k, v in most)}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "no difference"


def parameter_difference(
    reference: Mapping[str, Any], candidate: Mapping[str, Any]
) -> ParameterDifference:
    """What is different in the candidate's parameters, arrays by name.

    One array of each side is read at a time, and only where both have the name.
    """
    shapes: dict[str, tuple[Shape, Shape]] = {}
    largest: dict[str, float] = {}
    alike = 0
    for name in reference:
        if name not in candidate:
            continue
        ours, theirs = reference[name], candidate[name]
        if ours.shape != theirs.shape:
            shapes[name] = (tuple(ours.shape), tuple(theirs.shape))
            continue
        apart = distance(ours, theirs)
        if apart.largest:
            largest[name] = apart.largest
        else:
            alike += 1
    return ParameterDifference(
        missing=tuple(name for name in reference if name not in candidate),
        unexpected=tuple(name for name in candidate if name not in reference),
        shapes=shapes,
        largest=largest,
        alike=alike,
    )
