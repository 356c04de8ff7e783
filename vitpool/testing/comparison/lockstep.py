# SPDX-License-Identifier: Apache-2.0
"""Sides side by side, a stage of each at a time: what becomes the rows of a comparison.

At any time the stage that each is at is in memory, and the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace

from .result import StageRow, measured
from .side import Array, Pair, Side, place

_ROLES = "the reference", "the candidate"


class _Walk:
    """A side on its way through its stages: `now` is the one that it is at."""

    def __init__(self, role: str, side: Side, images: Array) -> None:
        self.role = role
        self.now: tuple[str, Array] | None = None
        self.last: Array | None = None  # of the stage before
        self.error: Exception | None = None
        self._stages = side.stages(images)
        self.step(None)

    def step(self, given: Array | None) -> None:
        """On to the next stage, or to the end; given goes on in place of `now`."""
        if self.now is not None:
            self.last = self.now[1]
        self.now = None
        try:
            self.now = self._stages.send(given)
        except StopIteration:
            pass
        except MemoryError:
            raise
        except Exception as error:  # whatever a fork's forward raises
            self.error = error

    def at(self, where: tuple[int, int, int]) -> Array | None:
        """The output of this stage, past those before it; None: there is none."""
        while self.now is not None and place(self.now[0]) < where:
            self.step(None)
        if self.now is None or place(self.now[0]) != where:
            return None
        return self.now[1]

    def leave(self, where: tuple[int, int, int], given: Array | None) -> None:
        """On to the next stage from this one, if that is where it is."""
        if self.at(where) is not None:
            self.step(given)

    def close(self) -> None:
        self._stages.close()


def rows_of(
    pair: Pair,
    judges: tuple[Side | None, Side | None],
    images: tuple[Array, Array],
    tolerance: tuple[float, float],
    isolate: bool,
) -> Iterator[StageRow]:
    """A row for each stage of a pair, in order.

    judges: the same two in float64, or None. images: what goes into each. tolerance:
    rtol and atol. isolate: what goes into a stage of the candidate, and of the judges,
    is the reference's. A side that stops with an error has a last row that says so;
    ValueError: the reference does before its first stage.
    """
    with ExitStack() as stack:

        def walk(role: str, side: Side, x: Array) -> _Walk:
            return stack.enter_context(closing(_Walk(role, side, x)))

        reference, candidate = map(walk, _ROLES, pair, images)
        exact = [
            None if side is None else walk(f"{role} in float64", side, x)
            for role, side, x in zip(_ROLES, judges, images, strict=True)
        ]
        yield from _lockstep(reference, candidate, exact, tolerance, isolate)


def _lockstep(
    reference: _Walk,
    candidate: _Walk,
    judges: Sequence[_Walk | None],
    tolerance: tuple[float, float],
    isolate: bool,
) -> Iterator[StageRow]:
    if reference.error is not None:
        raise ValueError(_said(reference)) from reference.error
    pair = reference, candidate
    while stages := [walk.now for walk in pair if walk.now is not None]:
        where = min(place(name) for name, _ in stages)
        # A block whole is what another side has as the end of its MLP.
        name = min((n for n, _ in stages if place(n) == where), key=len)
        ours, theirs = reference.at(where), candidate.at(where)
        if failed := [walk for walk in pair if walk.error is not None]:
            row = measured(name, ours, theirs, *tolerance)
            yield replace(row, note=_said(*failed))
            return
        if name == "output":  # which the other has under the name of its last stage
            ours = reference.last if ours is None else ours
            theirs = candidate.last if theirs is None else theirs
        exact = [judge and judge.at(where) for judge in judges]
        if all(name != f"{other}.attn" for other, _ in stages):
            row = measured(name, ours, theirs, *tolerance, *exact)
            broken = [j for j in judges if j is not None and j.error is not None]
            yield replace(row, note=_said(*broken)) if broken else row
        alike = ours is not None and theirs is not None and ours.shape == theirs.shape
        given = ours if isolate and alike else None
        for walk in (candidate, *judges):
            if walk is not None:
                walk.leave(where, given)
        reference.leave(where, None)
    if stopped := [walk for walk in pair if walk.error is not None]:
        row = measured("output", None, None, *tolerance)
        yield replace(row, note=_said(*stopped))


def _said(*walks: _Walk) -> str:
    """What sides that stopped on their way say of it."""
    return "; ".join(
        f"{walk.role} stopped: {type(walk.error).__name__}: {walk.error}"
        for walk in walks
    )
