# SPDX-License-Identifier: Apache-2.0
"""What a Comparison says: the verdict, and what it was, line by line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...model.tables import text_table
from ...text import printable
from .facts import folded
from .measure import short

if TYPE_CHECKING:
    from .result import Comparison, StageRow

COLUMNS = (
    "stage",
    "shape",
    "largest",
    "of scale",
    "cosine",
    "verdict",
    "tolerance that passes",
)


def verdict(found: Comparison) -> str:
    """One line: are they alike, or where do they part?"""
    parting = [
        f"{at} {printable(row.name)}: {_why(row, found)}"
        for at, rows in (("in preparing", found.preprocessing), ("at", found.stages))
        if (row := next((row for row in rows if not row.ok), None)) is not None
    ]
    if parting:
        # what was prepared in another way goes on in all stages, unless they are alone
        return f"they part {' and '.join(parting[: 1 + found.isolate])}"
    if not found.stages:
        return "nothing was compared: neither side has a stage"
    shape = found.stages[0].shape
    count = f" on {_many(shape[0], 'image')}" if shape else ""
    others = [
        name
        for name, differs in (
            ("configuration", found.configuration),
            ("parameters", found.parameters),
        )
        if differs
    ]
    if not others:
        return f"alike{count}"
    differ = f"{' and '.join(others)} differ{'s' * (others == ['configuration'])}"
    hint = "" if found.randomize else "; randomized weights may show it"
    return f"alike{count}, but the {differ}{hint}"


def _why(row: StageRow, found: Comparison) -> str:
    """Why a row is not alike."""
    if row.ok is None:
        return printable(row.note)
    if math.isinf(row.largest):
        return "NaN or infinite on one side alone"
    rtol, atol = _given(found.rtol), f"atol {_given(found.atol)}"
    if not row.scale:
        return f"{short(row.largest)} where the reference is 0, allowed {atol}"
    if found.atol and not found.rtol:
        off = _above(row.largest, row.required_atol, found.atol)
        return f"off by {off}, allowed {atol}"
    off = _above(row.relative, row.required_rtol, found.rtol)
    return f"{off} of its scale, allowed {rtol}{f' and {atol}' * bool(found.atol)}"


def _above(number: float, required: float, allowed: float) -> str:
    """Two digits of a number, rounded up where they would read as allowed."""
    return short(number if float(short(number)) > allowed else required)


def _given(tolerance: float) -> str:
    """A tolerance with all digits that the user gave it."""
    text = short(tolerance)
    return text if float(text) == tolerance else repr(tolerance)


def _required(row: StageRow) -> str:
    """The tolerance that would pass."""
    if row.ok is None:
        return ""
    if math.isinf(row.required_atol):
        return "no tolerance passes"
    atol = f"atol {short(row.required_atol)}"
    if math.isinf(row.required_rtol):
        return f"required {atol}"
    return f"required rtol {short(row.required_rtol)} or {atol}"


def _own_error(row: StageRow) -> str:
    """How the difference stands to the reference's own float32 error."""
    if row.times is None or math.isnan(row.times):
        return ""
    if math.isinf(row.times):
        return "the reference's own float32 error is 0"
    times = f"{row.times:.1f}" if row.times < 100 else short(row.times)
    return f"{times} x the reference's own float32 error"


def cells(row: StageRow) -> tuple[str, ...]:
    """A row of COLUMNS; the last says what would pass, and ends with the note."""
    ends = _required(row), _own_error(row), printable(row.note)
    return (
        printable(row.name),
        str(row.shape or row.candidate_shape or "-"),
        short(row.largest),
        short(row.relative),
        "-" if math.isnan(row.cosine) else f"{row.cosine:.6f}",
        {True: "alike", False: "parts", None: "unlike"}[row.ok],
        ", ".join(filter(None, ends)),
    )


def table(rows: Sequence[StageRow]) -> str:
    """A line a row, in aligned columns."""
    return text_table(COLUMNS, [cells(row) for row in rows], total=False)


def facts(found: Comparison) -> dict[str, str]:
    """What was compared, and how."""
    rtol, atol = _given(found.rtol), _given(found.atol)
    told = {
        "reference": found.reference,
        "candidate": found.candidate,
        "images": found.images,
        "tolerance": f"rtol {rtol}, atol {atol}: |candidate - reference| <= atol + "
        "rtol * max|reference| of the stage",
    }
    if found.randomize:
        told["randomize"] = "both ran on the same drawn weights"
    if found.isolate:
        told["isolate"] = "each stage of the candidate had the reference's input"
    return {name: printable(text) for name, text in told.items()}


def _configuration(found: Comparison) -> list[str]:
    """A line for each fact that differs; successive blocks are one."""
    return [
        printable(f"{name}: {ours!r}, {theirs!r}")
        for name, ours, theirs in folded(found.configuration)
    ]


def sections(found: Comparison) -> dict[str, list[str]]:
    """Title and lines of what is told before the stages."""
    configuration = _configuration(found)
    different = found.parameters
    total = different.count + different.alike
    none = "no difference" if total else "none to compare"  # of a record
    told = {
        "configuration (reference, candidate)": configuration or ["no difference"],
        "parameters": [
            f"{different.count} of {total} differ{'s' * (different.count == 1)}"
            if different
            else none,
            *map(printable, different.lines()),
        ],
    }
    if found.precision is not None:
        told["in two dtypes"] = [printable(x) for x in found.precision.lines()]
    return told


def text(found: Comparison) -> str:
    """The whole of it, the verdict first."""
    told = facts(found)
    width = max(map(len, told))
    blocks = [
        verdict(found),
        "\n".join(f"{name:{width}}  {fact}" for name, fact in told.items()),
    ]
    for title, lines in sections(found).items():
        blocks.append("\n".join([title, *(f"  {line}" for line in lines)]))
    if found.preprocessing:
        blocks.append(f"preprocessing\n{table(found.preprocessing)}")
    if found.stages:
        blocks.append(f"stages\n{table(found.stages)}")
    return "\n\n".join(blocks)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
