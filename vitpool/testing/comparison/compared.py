# SPDX-License-Identifier: Apache-2.0
"""`compare`: two sides run side by side, a stage of each at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ...config import as_bool, as_float, as_int
from ..record import Record
from ..tolerances import default_rtol
from .facts import different
from .lockstep import rows_of
from .opened import opened
from .ours import Ours
from .parameters import parameter_difference
from .pictures import Pictures, pictures_of
from .precision import Precision, precision, two_dtypes
from .result import Comparison, StageRow
from .side import Pair, Side


def compare(
    reference: Any,
    candidate: Any,
    images: Any = None,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    float64: bool = False,
    isolate: bool = False,
    randomize: bool = False,
    seed: int = 0,
    progress: Callable[[StageRow], Any] = lambda row: None,
) -> Comparison:
    """Two models beside each other: configuration, parameters, and stage by stage what
    they make of the same pictures.

    reference, candidate: a vitpool model; a live torch module with patch_embed, blocks,
        norm and head, as timm's and its forks (it is as it was afterwards); a name that
        `create_model` takes, or a folder, with their weights; a mapping of
        create_model's arguments, for a checkpoint: {'model_name':
        'vit_base_patch16_224', 'checkpoint_path': 'weights.pth'}; a record, or the path
        of one; a `Side`.
    images: a batch (B, C, H, W) of floats, an array or a tensor; or files, as
        `model.classify` takes them, each side's preprocessing of which is compared
        first. None: two seeded pictures of the reference's size and a constant one;
        those of a record, where one is given.
    rtol, atol: a stage may differ by atol + rtol * max|reference|. rtol is by default
        what float32 needs (`vitpool.testing.tolerances`).
    float64: compute both in float64 too, for how large each one's own error is.
    isolate: each stage of the candidate gets the reference's input, not what the
        candidate's stages before have made: an error that is made is told from one that
        is carried. Blocks that only one side has lead to other inputs all the same.
    randomize: both with the same weights, drawn by seed, key and shape, for fresh ones
        hide faults; of names and folders none are read.
    seed: of the drawn weights and pictures.
    progress: is called with each stage's row as soon as it is there.

    Of one architecture of ours in two dtypes, as `model` and `model.to('int8')`, the
    answer's `precision` has what the second one costs and saves.

    A stage is no longer in memory when the next but one is computed. A side that stops
    on its way is said in the note of the row at which it did, after which none follow.

    TypeError and ValueError, before anything runs: what is no model, pictures that are
    none, a side that randomize cannot draw anew, isolate with a record as candidate,
    float64 where neither side has it; and ValueError, if the reference takes no such
    pictures.
    """
    tolerance = (
        default_rtol() if rtol is None else _tolerance(rtol, "rtol"),
        _tolerance(atol, "atol"),
    )
    for value, what in (
        (float64, "float64"),
        (isolate, "isolate"),
        (randomize, "randomize"),
    ):
        as_bool(value, what)
    seed = as_int(seed, "seed")
    pair = Pair(
        opened(reference, "reference", pretrained=not randomize),
        opened(candidate, "candidate", pretrained=not randomize),
    )
    if isolate and isinstance(pair.candidate, Record):
        raise ValueError(f"{pair.candidate.name} is a record: isolate needs a model")
    if randomize:
        pair = Pair(*_each(pair, lambda side: side.drawn(seed)))
    exact, note = _exact(pair) if float64 else ((None, None), "")
    pictures = pictures_of(pair, images, seed, tolerance)
    if isinstance(pair.reference, Record):
        pair = pair._replace(candidate=pair.reference.beside(pair.candidate))
    elif isinstance(pair.candidate, Record):
        pair = pair._replace(reference=pair.candidate.beside(pair.reference))
    given = pictures.reference, pictures.candidate
    if isolate:
        given = pictures.reference, pictures.reference
    rows = []
    for row in rows_of(pair, exact, given, tolerance, isolate):
        rows.append(row)
        progress(row)
    if note:
        rows[0] = replace(rows[0], note="; ".join(filter(None, (note, rows[0].note))))
    facts = [
        side.facts() | prepared
        for side, prepared in zip(pair, pictures.facts, strict=True)
    ]
    return Comparison(
        reference=pair.reference.name,
        candidate=pair.candidate.name,
        configuration=different(*facts),
        parameters=parameter_difference(
            pair.reference.parameters(), pair.candidate.parameters()
        ),
        preprocessing=pictures.rows,
        stages=tuple(rows),
        rtol=tolerance[0],
        atol=tolerance[1],
        isolate=isolate,
        images=pictures.words,
        randomize=randomize,
        precision=_precision(pair, pictures),
    )


def _precision(pair: Pair, pictures: Pictures) -> Precision | None:
    """What the candidate's dtype costs, where that alone makes the two different."""
    ours, theirs = pair
    if not (isinstance(ours, Ours) and isinstance(theirs, Ours)):
        return None
    if not two_dtypes(ours.model, theirs.model):
        return None
    return precision(ours.model, theirs.model, pictures.reference, pictures.names)


def _tolerance(value: Any, what: str) -> float:
    number = as_float(value, what)
    if number < 0:
        raise ValueError(f"{what} must not be negative, got {number}")
    return number


def _each(pair: Pair, make: Callable[[Side], Side]) -> Iterator[Side]:
    """What is made of both; ValueError where that cannot be had."""
    for side in pair:
        try:
            yield make(side)
        except TypeError as error:
            raise ValueError(str(error)) from error


def _exact(pair: Pair) -> tuple[tuple[Side | None, Side | None], str]:
    """Both in float64, as far as they can be had, and what to say where one cannot."""
    found: list[Side | None] = []
    notes = []
    for side in pair:
        try:
            found.append(side.exact())
        except TypeError as error:
            found.append(None)
            notes.append(str(error))
    if len(notes) == 2:
        raise ValueError("; ".join(notes))
    return (found[0], found[1]), "".join(notes)
