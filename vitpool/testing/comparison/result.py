# SPDX-License-Identifier: Apache-2.0
"""What `compare` answers: a row a stage, and what else is different."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from . import words
from .measure import distance, least, passes
from .parameters import ParameterDifference
from .precision import Agreement, Precision

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Shape = tuple[int, ...]


@dataclass(frozen=True)
class StageRow:
    """A stage of two models beside each other.

    shape, candidate_shape: of the reference's output and of the candidate's; None of a
    side that has no such stage. largest: max |candidate - reference|; NaN: nothing to
    compare; inf: NaN or infinite on one side alone. scale: max |reference| over its
    finite numbers. cosine: of the angle between all numbers of both. ok: largest <=
    atol + rtol * scale; None where only one side has the stage or the shapes differ,
    which counts as not alike. note: why there are no numbers, or what else there is to
    say. reference_error, candidate_error: max |float32 - float64| of each model's own
    output, over the scale, where it was computed.
    """

    name: str
    shape: Shape | None
    candidate_shape: Shape | None
    largest: float
    scale: float
    cosine: float
    ok: bool | None
    note: str = ""
    reference_error: float | None = None
    candidate_error: float | None = None

    @property
    def relative(self) -> float:
        """The largest difference, of the stage's scale; inf where that is 0."""
        return _over(self.largest, self.scale)

    @property
    def required_rtol(self) -> float:
        """The rtol, of two digits, that passes without an atol; inf: none does."""
        return least(self.relative, lambda r: passes(self.largest, self.scale, r, 0))

    @property
    def required_atol(self) -> float:
        """The atol, of two digits, that passes without an rtol; inf: none does."""
        return least(self.largest, lambda a: passes(self.largest, self.scale, 0, a))

    @property
    def times(self) -> float | None:
        """How many times the reference's own float32 error the difference is; None
        where that was not computed."""
        if self.reference_error is None:
            return None
        return _over(self.relative, self.reference_error)


def _over(number: float, scale: float) -> float:
    """A ratio, of which 0 / 0 is 0: no difference where nothing is."""
    if number == 0 or math.isnan(number):
        return number
    return number / scale if scale else math.inf


def measured(
    name: str,
    reference: Any | None,
    candidate: Any | None,
    rtol: float,
    atol: float,
    reference_exact: Any | None = None,
    candidate_exact: Any | None = None,
) -> StageRow:
    """The row of a stage: two arrays of real numbers, each read once and not copied.

    None for a side that has no such stage. reference_exact, candidate_exact: what each
    gives in float64.
    """
    shapes = [None if x is None else tuple(x.shape) for x in (reference, candidate)]
    if reference is None or candidate is None:
        note = f"only the {'candidate' if reference is None else 'reference'} has it"
    elif shapes[0] != shapes[1]:
        note = f"shapes differ: {shapes[0]} and {shapes[1]}"
    else:
        apart = distance(reference, candidate)
        errors = [
            None if exact is None else _over(distance(exact, own).largest, apart.scale)
            for own, exact in (
                (reference, reference_exact),
                (candidate, candidate_exact),
            )
        ]
        ok = passes(apart.largest, apart.scale, rtol, atol)
        return StageRow(
            name, shapes[0], shapes[1], apart.largest, apart.scale, apart.cosine, ok,
            "", *errors,
        )  # fmt: skip
    scale = math.nan if reference is None else distance(reference, reference).scale
    return StageRow(name, shapes[0], shapes[1], math.nan, scale, math.nan, None, note)


@dataclass(frozen=True)
class Comparison:
    """Two models beside each other: what `compare` found.

    reference, candidate: what the report calls them. configuration: each fact that
    differs, (name, the reference's, the candidate's), None for one that a side has not.
    parameters: those that differ. preprocessing: a row for each picture as either model
    prepares it, where files were given. stages: a row for each stage, in the order of
    computing. rtol, atol: what was allowed, |candidate - reference| <= atol + rtol *
    max|reference| of a stage. isolate: was each stage of the candidate given the
    reference's input? images: how they came to be, in words. randomize: were both run
    on drawn weights? precision: what the candidate's dtype costs, where the two are one
    model of ours in two dtypes.
    """

    reference: str
    candidate: str
    configuration: tuple[tuple[str, Any, Any], ...]
    parameters: ParameterDifference
    preprocessing: tuple[StageRow, ...]
    stages: tuple[StageRow, ...]
    rtol: float
    atol: float
    isolate: bool
    images: str
    randomize: bool = False
    precision: Precision | None = None

    @property
    def first(self) -> StageRow | None:
        """The first stage at which they part, or the first picture that is prepared in
        another way; None: alike."""
        rows = (*self.preprocessing, *self.stages)
        return next((row for row in rows if not row.ok), None)

    @property
    def ok(self) -> bool:
        """Are the numbers of every stage alike? Configuration and parameters do not
        count: what they do shows in the numbers."""
        return bool(self.stages) and self.first is None

    def table(self) -> str:
        """A line a stage, in aligned columns; each ends with what would pass."""
        return words.table(self.stages)

    def __str__(self) -> str:
        return words.text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from .page import notebook

        return notebook(self)

    def plot(self) -> Figure:
        """The difference by depth, on a log scale, as a matplotlib Figure.

        ImportError: there is no matplotlib.
        """
        from .figure import figure

        return figure(self)

    def to_dict(self) -> dict[str, Any]:
        """The same as values that JSON has, under the names of these attributes.

        NaN is None, an infinity the text 'inf', which `float` reads; tuples are lists.
        """
        return json_values(
            {
                "ok": self.ok,
                "verdict": words.verdict(self),
                "first": None if self.first is None else self.first.name,
                **{f.name: getattr(self, f.name) for f in fields(self)},
            }
        )


def json_values(value: Any) -> Any:
    """A value as JSON has it; what it has no form for, as its text."""
    if isinstance(value, StageRow):
        names = ("relative", "required_rtol", "required_atol", "times")
        value = vars(value) | {name: getattr(value, name) for name in names}
    elif isinstance(value, (ParameterDifference, Precision, Agreement)):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(name): json_values(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, (float, np.floating)):
        number = float(value)
        if math.isnan(number):
            return None
        return number if math.isfinite(number) else str(number)
    if isinstance(value, np.generic):
        return json_values(value.item())
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
