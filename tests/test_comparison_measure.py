# SPDX-License-Identifier: Apache-2.0
"""How far apart two stages are: what counts, what it costs, what would pass."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from dice import Dice, examples

from vitpool.testing.comparison.measure import distance, short
from vitpool.testing.comparison.result import StageRow, measured

NAN, INF = math.nan, math.inf


def stage(reference: Any, candidate: Any, rtol: float = 0.0, atol: float = 0.0) -> Any:
    return measured("norm", np.array(reference), np.array(candidate), rtol, atol)


def test_numbers_of_a_stage_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 70_000), np.float32)  # more than one chunk
    found = measured("norm", a, b, 1e-4, 0)
    assert found.shape == found.candidate_shape == (3, 70_000)
    assert found.largest == np.abs(b.astype(float) - a).max()
    assert found.scale == np.abs(a).max()
    x, y = a.ravel().astype(float), b.ravel().astype(float)
    assert found.cosine == pytest.approx(
        x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-12
    )
    assert found.relative == found.largest / found.scale
    assert found.ok is False


def test_an_array_is_exactly_alike_to_itself() -> None:
    a = np.random.default_rng(0).standard_normal((3, 70_000), np.float32)
    found = stage(a, a)
    assert (found.largest, found.cosine, found.ok) == (0.0, 1.0, True)
    assert (found.required_rtol, found.required_atol) == (0.0, 0.0)


@pytest.mark.parametrize("both", [NAN, INF, -INF])
def test_what_is_not_finite_in_both_is_alike(both: float) -> None:
    found = stage([1.0, both, 3.0], [1.0, both, 3.5], atol=0.5)
    assert (found.largest, found.scale, found.ok) == (0.5, 3.0, True)
    assert 0.99 < found.cosine < 1


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (1.0, -INF), (INF, -INF), (NAN, INF)],
)
def test_what_is_not_finite_on_one_side_is_never_within_a_tolerance(
    reference: float, candidate: float
) -> None:
    found = stage([2.0, reference], [2.0, candidate], rtol=INF, atol=INF)
    assert (found.largest, found.scale, found.ok) == (INF, 2.0, False)
    assert (found.required_rtol, found.required_atol) == (INF, INF)


def test_empty_arrays_are_alike() -> None:
    found = stage(np.zeros((0, 5)), np.zeros((0, 5)))
    assert (found.largest, found.scale, found.ok) == (0.0, 0.0, True)
    assert math.isnan(found.cosine)


def test_beside_zeros_an_atol_alone_can_pass() -> None:
    found = stage([0.0, 0.0], [0.0, 1e-3], rtol=1.0)
    assert (found.scale, found.relative, found.ok) == (0.0, INF, False)
    assert (found.required_rtol, found.required_atol) == (INF, 1e-3)
    assert math.isnan(found.cosine)
    assert stage([0.0], [0.0]).relative == 0


def test_shapes_that_differ_are_said_and_not_compared() -> None:
    found = stage(np.full((2, 5), -7.0), np.zeros((2, 4)), atol=INF)
    assert (found.shape, found.candidate_shape) == ((2, 5), (2, 4))
    assert found.ok is None
    assert found.note == "shapes differ: (2, 5) and (2, 4)"
    assert math.isnan(found.largest)
    assert math.isnan(found.relative)
    assert found.scale == 7
    # (1, 4) and (3, 4) would broadcast
    assert stage(np.zeros((1, 4)), np.zeros((3, 4))).ok is None


def test_a_stage_of_one_side_alone_is_said() -> None:
    ours = measured("norm", np.ones(3), None, 1e-4, 0)
    assert (ours.ok, ours.note) == (None, "only the reference has it")
    assert (ours.shape, ours.candidate_shape, ours.scale) == ((3,), None, 1.0)
    theirs = measured("norm", None, np.ones(3), 1e-4, 0)
    assert (theirs.ok, theirs.note) == (None, "only the candidate has it")
    assert math.isnan(theirs.scale)
    assert theirs.required_rtol == theirs.required_atol == INF


@pytest.mark.parametrize(
    "dtype",
    [np.uint8, np.int64, np.bool_, np.float16, np.float64, ml_dtypes.bfloat16],
)
def test_numbers_of_any_real_type_are_taken(dtype: Any) -> None:
    a = np.array([[0, 1], [1, 0]], dtype)
    found = measured("norm", a, np.array([[0, 1], [0.5, 0]], np.float32), 0, 0.5)
    assert (found.largest, found.scale, found.ok) == (0.5, 1.0, True)


def test_integers_do_not_wrap() -> None:
    a, b = np.array([200], np.uint8), np.array([250], np.uint8)
    assert distance(b, a).largest == 50


def test_complex_numbers_are_refused() -> None:
    with pytest.raises(TypeError):
        distance(np.ones(2), np.ones(2, complex))


def test_the_order_in_memory_does_not_matter() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 30, 40))
    turned = np.asfortranarray(b)
    assert distance(a, turned) == distance(a, b)
    assert distance(a[::-1, ::2], b[::-1, ::2]).largest == np.abs((b - a)[:, ::2]).max()


def test_no_array_is_copied() -> None:
    a = np.ones((8, 1 << 18), np.float32)
    b = np.asfortranarray(a)
    tracemalloc.start()
    distance(a, b)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < a.nbytes / 2


def drawn(dice: Dice, example: int) -> tuple[Any, Any]:
    """Two stages of any scale, from far below float32's range to beyond it."""
    rng = np.random.default_rng(example)
    scale = 10.0 ** dice.integer(-300, 300) if dice.sometimes() else 1.0
    apart = 10.0 ** dice.integer(-17, 1)
    a = scale * rng.standard_normal(50)
    b = a + apart * scale * rng.standard_normal(50)
    if dice.sometimes():
        with np.errstate(over="ignore"):
            a, b = a.astype(np.float32), b.astype(np.float32)
    return a, b


@pytest.mark.parametrize("example", examples(300))
def test_required_tolerances_pass_when_they_are_given_back(example: int) -> None:
    """Each alone, as the number and as what the report writes."""
    a, b = drawn(Dice("required", example), example)
    found = measured("norm", a, b, 0, 0)
    rtol, atol = found.required_rtol, found.required_atol
    for passes in (rtol, float(short(rtol))):
        assert passes == INF or measured("norm", a, b, passes, 0).ok
    for passes in (atol, float(short(atol))):
        assert passes == INF or measured("norm", a, b, 0, passes).ok
    if 1e-290 < atol < INF and rtol < INF:
        assert not measured("norm", a, b, rtol * 0.9, 0).ok
        assert not measured("norm", a, b, 0, atol * 0.9).ok


def test_own_errors_are_of_the_references_scale() -> None:
    a, b = np.array([4.0, -8.0]), np.array([4.0, -8.5])
    found = measured("norm", a, b, 0, 0, a + 0.25, b - 0.5)
    assert (found.reference_error, found.candidate_error) == (0.25 / 8, 0.5 / 8)
    assert found.times == 2.0
    assert measured("norm", a, b, 0, 0).times is None


def test_times_of_a_model_without_an_error_of_its_own() -> None:
    a = np.array([4.0, -8.0])
    assert measured("norm", a, a + 1, 0, 0, a).times == INF
    assert measured("norm", a, a, 0, 0, a).times == 0


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.031, "3.1e-2"),
        (1e-4, "1e-4"),
        (2.0, "2"),
        (123.0, "1.2e2"),
        (0.0, "0"),
        (INF, "inf"),
        (NAN, "-"),
        (-0.5, "-5e-1"),
    ],
)
def test_short_numbers(number: float, text: str) -> None:
    assert short(number) == text


def test_a_row_keeps_what_it_was_made_of() -> None:
    row = StageRow("norm", (2,), (2,), 0.1, 2.0, 1.0, True)
    assert row.relative == 0.05
    with pytest.raises(AttributeError):
        row.ok = False  # type: ignore[misc]
