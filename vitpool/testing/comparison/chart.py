# SPDX-License-Identifier: Apache-2.0
"""The difference by depth: where each point stands, and the chart of a page, as SVG."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...text import printable
from .measure import short

if TYPE_CHECKING:
    from .result import Comparison, StageRow

_BLOCK = re.compile(r"blocks\.(\d+)(?:\..+)?")


@dataclass(frozen=True)
class Depth:
    """The stages along an axis of `width`; `places` is where each stands.

    words: (place, name) of the stages before and after the blocks. numbers: (place,
    index) of as many blocks as there is room for.
    """

    width: float
    places: list[float]
    words: list[tuple[float, str]]
    numbers: list[tuple[float, str]]


def along(rows: Sequence[StageRow], width: float, word: float, number: float) -> Depth:
    """Stages side by side: a name takes `word`, an index `number`, and what the names
    leave, a quarter at least, is the blocks'."""
    found = [_BLOCK.fullmatch(row.name) for row in rows]
    blocks = sum(block is not None for block in found)
    rest = max(width - word * (len(rows) - blocks), width / 4)
    step = rest / blocks if blocks else word
    places: list[float] = []
    words: list[tuple[float, str]] = []
    middle: dict[str, list[float]] = {}
    at = 0.0
    for row, block in zip(rows, found, strict=True):
        wide = step if block else word
        places.append(at + wide / 2)
        at += wide
        if block:
            middle.setdefault(block[1], []).append(places[-1])
        else:
            words.append((places[-1], row.name))
    numbers = [(sum(at) / len(at), index) for index, at in middle.items()]
    every = math.ceil(number * len(numbers) / rest) if numbers else 1
    return Depth(max(at, width), places, words, numbers[::every])


@dataclass(frozen=True)
class Scale:
    """A log scale from 10**low to 10**high, with a place for 0 below it and for what is
    not finite above it, where there is such."""

    low: int
    high: int
    zero: bool
    infinite: bool

    @property
    def bottom(self) -> float:
        """The power of ten at which 0 stands, or the scale begins."""
        return self.low - self.zero

    @property
    def top(self) -> float:
        """The same of infinity, or of the scale's end."""
        return self.high + self.infinite

    def power(self, value: float) -> float:
        """The power of ten at which a value stands."""
        if value <= 0:
            return self.bottom
        return self.top if math.isinf(value) else math.log10(value)

    def ticks(self) -> list[tuple[float, str]]:
        """(power, label)."""
        step = math.ceil((self.high - self.low) / 8)
        powers = range(self.low, self.high + 1, step)
        return [
            *[(self.bottom, "0")] * self.zero,
            *((float(power), f"1e{power}") for power in powers),
            *[(self.top, "inf")] * self.infinite,
        ]


def allowed(row: StageRow, found: Comparison) -> float:
    """The tolerance of a stage, of its scale."""
    if not found.atol:
        return found.rtol
    return found.rtol + (found.atol / row.scale if row.scale else math.inf)


def scale_of(found: Comparison) -> Scale:
    """A scale with room for every number that is drawn."""
    drawn = [row.relative for row in found.stages]
    others = [
        error
        for row in found.stages
        for error in (row.reference_error, row.candidate_error, allowed(row, found))
        if error is not None
    ]
    real = [n for n in (*drawn, *others) if 0 < n < math.inf] or [1e-7]
    low, high = math.floor(math.log10(min(real))), math.ceil(math.log10(max(real)))
    return Scale(low, max(high, low + 1), 0 in drawn, math.inf in drawn)


def pieces(values: Sequence[float | None]) -> Iterator[list[int]]:
    """The indices of values that follow each other without a None or NaN between."""
    piece: list[int] = []
    for i, value in enumerate(values):
        if value is not None and not math.isnan(value):
            piece.append(i)
        elif piece:
            yield piece
            piece = []
    if piece:
        yield piece


# -- SVG --

_LEFT, _TOP, _BELOW, _RIGHT = 44, 28, 84, 8  # pixels around the chart itself
_WORD, _NUMBER = 15, 20  # pixels that a name and an index take


class _Sheet:
    """Where the numbers of a comparison stand on a sheet of so many pixels."""

    def __init__(self, found: Comparison, width: int, height: int) -> None:
        self.scale = scale_of(found)
        self.depth = along(found.stages, width - _LEFT - _RIGHT, _WORD, _NUMBER)
        self.x = [_LEFT + place for place in self.depth.places]
        self.bottom = height - _BELOW

    def y(self, power: float) -> float:
        share = (power - self.scale.bottom) / (self.scale.top - self.scale.bottom)
        return self.bottom - share * (self.bottom - _TOP)

    def path(self, values: Sequence[float | None], area: bool = False) -> str:
        """A line through the values, or the area below it."""
        path = []
        for piece in pieces(values):
            powers = [self.scale.power(values[i] or 0) for i in piece]
            points = [
                (self.x[i], self.y(p)) for i, p in zip(piece, powers, strict=True)
            ]
            if area:
                points += [(self.x[piece[i]], self.bottom) for i in (-1, 0)]
            line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            path.append(f"M{line}{'Z' * area}")
        return "".join(path)


def svg(found: Comparison, width: int, height: int) -> str:
    """The chart as an SVG element of so many pixels, in the colours of the page around:
    text and lines are currentColor. Classes: `parts`, `allowed`, `own`, `other`.
    """
    rows = found.stages
    sheet = _Sheet(found, width, height)
    out = [
        f"<svg viewBox='0 0 {width} {height}' width='{width}' role='img' "
        "aria-label='largest difference by depth, of the stage&#39;s scale' "
        "font-size='11' fill='currentColor'>",
        *_labels(sheet),
    ]
    for kind, errors in (
        ("own", [row.reference_error for row in rows]),
        ("other", [row.candidate_error for row in rows]),
    ):
        if area := sheet.path(errors, area=True):
            out.append(f"<path class='{kind}' d='{area}'/>")
    line = sheet.path([allowed(row, found) for row in rows])
    out.append(f"<path class='allowed' d='{line}' fill='none' stroke-dasharray='5 3'/>")
    line = sheet.path([row.relative for row in rows])
    out.append(f"<path d='{line}' fill='none' stroke='currentColor' opacity='.5'/>")
    radius = 3 if width > 600 else 2
    for x, row in zip(sheet.x, rows, strict=True):
        if math.isnan(row.relative):
            continue
        kind = "" if row.ok else " class='parts'"
        y = sheet.y(sheet.scale.power(row.relative))
        told = _text(f"{row.name}: {short(row.relative)} of its scale")
        out.append(
            f"<circle{kind} cx='{x:.1f}' cy='{y:.1f}' r='{radius}'>"
            f"<title>{told}</title></circle>"
        )
    return "".join([*out, "</svg>"])


def _labels(sheet: _Sheet) -> Iterator[str]:
    """The lines of the scale, and the names of what stands along it."""
    bottom, depth = sheet.bottom, sheet.depth
    for power, label in sheet.scale.ticks():
        y = sheet.y(power)
        yield (
            f"<path d='M{_LEFT} {y:.1f}h{depth.width:.1f}' stroke='currentColor' "
            f"opacity='.15'/><text x='{_LEFT - 6}' y='{y + 4:.1f}' "
            f"text-anchor='end'>{label}</text>"
        )
    for place, name in depth.words:
        yield (
            f"<text transform='translate({_LEFT + place + 4:.1f} {bottom + 8})"
            f"rotate(-90)' text-anchor='end'>{_text(name)}</text>"
        )
    below = [(place, index, 18) for place, index in depth.numbers]
    if below:
        below.append(((below[0][0] + below[-1][0]) / 2, "block", 36))
    for place, text, down in below:
        yield (
            f"<text x='{_LEFT + place:.1f}' y='{bottom + down}' "
            f"text-anchor='middle'>{text}</text>"
        )


def _text(text: str) -> str:
    return html.escape(printable(text))
