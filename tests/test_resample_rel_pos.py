# SPDX-License-Identifier: Apache-2.0
"""Tables of relative positions on other grids: properties, and numbers of timm."""

from __future__ import annotations

import numpy as np
import pytest

from vitpool.resample_rel_pos import resize_rel_pos_bias_table as resize


def table(window: tuple[int, int], prefix: bool, heads: int = 1) -> np.ndarray:
    """Numbers that timm's, below, were computed of: sin(0), sin(1), ... row by row."""
    rows = (2 * window[0] - 1) * (2 * window[1] - 1) + 3 * prefix
    return np.sin(np.arange(rows * heads, dtype=np.float32)).reshape(rows, heads)


# timm.layers.resize_rel_pos_bias_table (timm 1.0.31), the first of two heads, of a
# table of the window (3, 2) with a prefix.
LARGER = [
    *[0.0, 0.0, 0.9092974, -0.7568025, -0.7568025],
    *[-0.09313837, -0.09313837, 0.9359843, -0.6858755, -0.6858755],
    *[-0.27941549, -0.27941549, 0.9893582, -0.5440211, -0.5440211],
    *[-0.5365732, -0.5365732, 0.9906074, -0.2879033, -0.2879033],
    *[-0.7509872, -0.7509872, 0.9129453, -0.0088513, -0.0088513],
    *[-0.8540481, -0.8540481, 0.8126873, 0.1776536, 0.1776536],
    *[-0.9055784, -0.9055784, 0.7625584, 0.2709058, 0.2709058],
    *[-0.9880316, 0.5514267, 0.5290827],
]
SMALLER = [
    *[-0.27941549, 0.9893582, -0.5440211],
    *[-0.5365732, 0.9906074, -0.2879033],
    *[-0.7509872, 0.9129453, -0.0088513],
    *[-0.9880316, 0.5514267, 0.5290827],
]
# and of a file's, of which timm knows no more than that its rows fill a square
OF_A_SQUARE = [
    *[0.0, 0.0, 0.0, 0.841471, 0.9092974, 0.9092974, 0.9092974],
    *[0.14112, 0.14112, 0.14112, -0.7568025, -0.9589243, -0.9589243, -0.9589243],
    *[-0.2794155, -0.2794155, -0.2794155, 0.6569866, 0.9893582, 0.9893582, 0.9893582],
]


@pytest.mark.parametrize(("window", "want"), [((4, 3), LARGER), ((2, 2), SMALLER)])
def test_resized_tables_equal_timms(window: tuple[int, int], want: list[float]) -> None:
    out = resize(table((3, 2), True, 2), window, True, (3, 2))
    assert out.dtype == np.float32
    assert out.shape == (len(want), 2)
    np.testing.assert_allclose(out[:, 0], want, rtol=0, atol=1e-6)


def test_a_table_of_a_file_is_taken_to_be_of_a_square_grid() -> None:
    out = resize(table((2, 2), False), (2, 4), False)
    np.testing.assert_allclose(out[:, 0], OF_A_SQUARE, rtol=0, atol=1e-6)


def test_a_table_of_the_same_grid_is_returned_as_it_is() -> None:
    same = table((3, 4), True, 2)
    assert resize(same, (3, 4), True, (3, 4)) is same
    assert resize(same, (3, 4), True) is same  # its rows fill no square


@pytest.mark.parametrize("window", [(5, 4), (2, 3), (3, 9)])
def test_rows_of_the_prefix_stay(window: tuple[int, int]) -> None:
    old = table((3, 4), True, 2)
    np.testing.assert_array_equal(resize(old, window, True, (3, 4))[-3:], old[-3:])


def test_distances_keep_their_signs_and_axes() -> None:
    """A table that grows with one distance, and knows nothing of the other, does so in
    its new size."""
    for axis in (0, 1):
        old = np.indices((5, 7))[axis].reshape(-1, 1).astype(np.float32)
        new = resize(old, (6, 7), False, (3, 4)).reshape(11, 13)
        along = np.diff(new, axis=axis)
        assert np.all(along >= 0)
        assert np.all(np.take(along, [4, 5], axis) > 0)
        assert np.abs(np.diff(new, axis=1 - axis)).max() < 1e-6


@pytest.mark.parametrize("new", [(7, 5), (2, 6)])
def test_the_middle_stays_in_the_middle(new: tuple[int, int]) -> None:
    """Distance 0 is distance 0, and a table that turns round does so afterwards."""
    old = table((4, 3), False)
    out = resize(old, new, False, (4, 3))[:, 0]
    assert out[len(out) // 2] == old[len(old) // 2, 0]
    turned = resize(old[::-1], new, False, (4, 3))[:, 0]
    np.testing.assert_allclose(turned[::-1], out, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "prefix", "window", "old", "says"),
    [
        (16, False, (3, 2), None, "16 rows has 16, but a grid of 3 x 2 patches has 15"),
        (16, True, (3, 2), (3, 2), "16 rows has 13 without the 3 of prefix tokens"),
        (15, False, (4, 4), (2, 2), "2 x 2 patches has 9 distances$"),
        (9, False, (0, 4), None, r"positive, not \(0, 4\)"),
        (2, True, (3, 2), None, "2 rows has -1 without"),
    ],
)
def test_a_table_of_no_such_grid_is_refused(
    rows: int,
    prefix: bool,
    window: tuple[int, int],
    old: tuple[int, int] | None,
    says: str,
) -> None:
    with pytest.raises(ValueError, match=says):
        resize(np.zeros((rows, 1), np.float32), window, prefix, old)


def test_a_table_without_heads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(rows, heads\), not \(9,\)"):
        resize(np.zeros(9, np.float32), (3, 3), False)
