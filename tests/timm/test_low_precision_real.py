# SPDX-License-Identifier: Apache-2.0
"""What low precision costs on real weights and photographs; and onnxruntime's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.accuracy import (
    Row,
    digits,
    dinov2,
    onnxruntimes,
    photographs,
    vitpools,
)

# The least cosine of a photograph's features with float32's.
LEAST = {
    "bfloat16": 0.9995,
    "float16": 0.99999,
    "int8": 0.998,
    "int8, calibrated on these": 0.998,
}


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    names, x = photographs()
    return {row.dtype: row for row in vitpools(dinov2(), x, names)}


@pytest.mark.parametrize("dtype", LEAST)
def test_features_of_every_photograph_are_near_float32s(
    rows: dict[str, Row], dtype: str
) -> None:
    assert LEAST[dtype] <= rows[dtype].features.worst_cosine < 1


def test_int8_is_nearer_than_onnxruntimes(rows: dict[str, Row]) -> None:
    """On the mean photograph and on the worst, however that is set up."""
    names, x = photographs()
    peers = list(onnxruntimes(x, names))
    assert len(peers) == 2
    ours = rows["int8"].features
    for row in peers:
        theirs = row.features
        assert 1 - ours.cosine < 1 - theirs.cosine, row.dtype
        assert 1 - ours.worst_cosine < 1 - theirs.worst_cosine, row.dtype
        assert ours.error < theirs.error, row.dtype


def test_accuracy_on_digits_is_within_half_a_point() -> None:
    count, right = digits()
    assert right["float32"] == 353
    for dtype, found in right.items():
        assert abs(found - right["float32"]) <= 0.005 * count, dtype
