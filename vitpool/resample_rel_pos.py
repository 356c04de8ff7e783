# SPDX-License-Identifier: Apache-2.0
"""Tables of relative position biases for another grid of patches.

A table has a row for each distance of two patches, (2 h - 1) (2 w - 1) of them, and a
column for each head. What is near matters more than what is far, so the old rows are
laid out at distances that grow, 1, 1 + q, 1 + q + q^2, ..., with q such that they reach
as far as the new ones, and the new ones are read between them.
Source: timm.layers.resize_rel_pos_bias_table, which has it from BEiT.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = np.float32

# The last, where there is a prefix: token to patch, patch to token, token to token.
_PREFIX_ROWS = 3


def resize_rel_pos_bias_table(
    table: NDArray[Any],
    new_window: tuple[int, int],
    prefix: bool,
    old_window: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """A table (rows, H) for a grid of `new_window` patches, (h, w), in float32.

    prefix: its last three rows are those of prefix tokens, which stay as they are.
    old_window: the grid that it is of; None, as of a file: a square one where its rows
    fill one, else the new one. ValueError: its rows do not fill that grid's.
    A smaller window is all but a cut of the table's middle, as timm makes it.
    """
    extra = _PREFIX_ROWS if prefix else 0
    if table.ndim != 2:
        raise ValueError(f"table must have shape (rows, heads), not {table.shape}")
    new = _distances(new_window)
    old = _source(table, extra, new, old_window)
    if old == new:
        return table.astype(F32, copy=False)
    rows, columns = (_axis(o, n) for o, n in zip(old, new, strict=True))
    grid = table[: len(table) - extra].reshape(*old, -1).astype(np.float64)
    across = np.matmul(columns, grid)  # (old rows, new columns, H)
    resized = np.tensordot(rows, across, axes=(1, 0)).reshape(new[0] * new[1], -1)
    return np.concatenate([resized, table[len(table) - extra :]], dtype=F32)


def _distances(window: tuple[int, int]) -> tuple[int, int]:
    """How many distances there are on each axis."""
    if min(window) < 1:
        raise ValueError(f"a window must be positive, not {tuple(window)}")
    return 2 * int(window[0]) - 1, 2 * int(window[1]) - 1


def _source(
    table: NDArray[Any],
    extra: int,
    new: tuple[int, int],
    old_window: tuple[int, int] | None,
) -> tuple[int, int]:
    """The distances on each axis of the grid that the table is of."""
    rows = len(table) - extra
    side = math.isqrt(max(rows, 0))
    if old_window is not None:
        old = _distances(old_window)
    elif side % 2 == 1 and side * side == rows:
        old = (side, side)
    else:
        old = new
    if old[0] * old[1] != rows:
        of = "" if extra == 0 else f" without the {extra} of prefix tokens"
        need = old[0] * old[1]
        raise ValueError(
            f"a table of {len(table)} rows has {rows}{of}, but a grid of "
            f"{(old[0] + 1) // 2} x {(old[1] + 1) // 2} patches has {need} distances"
            + ("" if old_window is not None else ", and it is none of a square grid")
        )
    return old


def _axis(old: int, new: int) -> NDArray[np.float64]:
    """The (new, old) matrix that reads `old` distances of an axis at `new` ones.

    Linear between two of the old ones; beyond the last the last. Positions are float32,
    as timm's are, and what follows from them float64.
    """
    at = np.concatenate([[0.0], np.cumsum(_ratio(old, new) ** np.arange(old // 2))])
    source = np.concatenate([-at[:0:-1], at]).astype(F32).astype(np.float64)
    target = np.arange(new) - new // 2
    unit = np.eye(old)
    return np.stack([np.interp(target, source, row) for row in unit], axis=1)


def _ratio(old: int, new: int) -> float:
    """q: bisected as timm does, whose last middle it is."""
    low, high = 1.01, 1.5
    q = low
    while high - low > 1e-6:
        q = (low + high) / 2
        if (1 - q ** (old // 2)) / (1 - q) > new // 2:
            high = q
        else:
            low = q
    return q
