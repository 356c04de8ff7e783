# SPDX-License-Identifier: Apache-2.0
"""How a training went, and what its classifier confuses: numbers, and Figures of them.

The numbers need NumPy alone, the `*_figure` functions matplotlib (extra `viz`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COUNTED = 30  # classes: more are too many for a number in each cell
_NAMED = 60  # classes: more are too many for their names
_LONGEST = 24  # letters of a name


class ClassScore(NamedTuple):
    """A class among the predictions; a share of nothing is NaN."""

    right: int
    pictures: int  # that are of it
    predicted: int  # that were taken for it
    precision: float
    recall: float


def confusion(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: int
) -> NDArray[np.intp]:
    """Counts (classes, classes): a row is what pictures are, a column what they were
    taken for."""
    matrix = np.zeros((classes, classes), np.intp)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def class_scores(matrix: NDArray[np.intp]) -> list[ClassScore]:
    """Precision and recall of each class of a confusion matrix."""
    right = matrix.diagonal().tolist()
    pictures, predicted = matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist()
    return [
        ClassScore(r, n, p, r / p if p else math.nan, r / n if n else math.nan)
        for r, n, p in zip(right, pictures, predicted, strict=True)
    ]


def most_confused(
    matrix: NDArray[np.intp], most: int = 10
) -> list[tuple[int, int, int]]:
    """(class, what it was taken for, how often), the most frequent first."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    found = [divmod(int(place), len(matrix)) for place in order]
    return [(i, j, int(wrong[i, j])) for i, j in found if wrong[i, j]]


def _new_figure(width: float, height: float) -> Figure:
    """A Figure made without pyplot, so without a window."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install matplotlib") from error
    if "IPython" in sys.modules:  # a notebook learns here how to show a Figure
        import matplotlib.pyplot  # noqa: F401
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def curve_figure(
    history: Sequence[Mapping[str, Any]], what: str, best: int | None = None
) -> Figure:
    """'loss' or 'accuracy' by epoch, of training and, where it is there, validation.

    history: a mapping an epoch, with 'epoch', `what` and 'val_' + `what`. best: the
    epoch whose weights were kept, which is marked.
    """
    figure = _new_figure(5.2, 3.4)  # which says where matplotlib is missing
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axis = figure.add_subplot()
    for key, name, colour in (
        (what, "training", "tab:blue"),
        (f"val_{what}", "validation", "tab:orange"),
    ):
        points = [(row["epoch"], row[key]) for row in history if _is_there(row, key)]
        if points:
            epochs, values = zip(*points, strict=True)
            # of many epochs the line is enough, of one there is none
            mark = "o" if len(points) <= 40 else ""
            axis.plot(epochs, values, color=colour, label=name, marker=mark, ms=3)
    if best is not None:
        axis.axvline(best, color="0.6", linestyle="--", linewidth=1, label="kept")
    axis.set_xlabel("epoch")
    axis.set_ylabel(what)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(history) == 1:  # else its neighbours are parts of an epoch
        axis.set_xlim(history[0]["epoch"] - 1, history[0]["epoch"] + 1)
    if what == "accuracy":
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    else:
        axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small")
    return figure


def _is_there(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key)
    return value is not None and math.isfinite(value)


def confusion_figure(matrix: NDArray[np.intp], names: Sequence[str]) -> Figure:
    """A confusion matrix: a row is what pictures are, shaded by shares of the row.

    names: one for each class. Counts stand in the cells of up to 30 classes, names at
    the sides of up to 60, numbers of classes from there on.
    """
    count = len(matrix)
    if len(names) != count:
        raise ValueError(f"names: {len(names)} for {count} classes")
    side = min(max(3.2, 0.34 * count), 11.0)
    named = count <= _NAMED
    shown = _drawable(names) if named else []
    room = 0.09 * max(map(len, shown), default=3)
    figure = _new_figure(side + room + 1.2, side + room + 0.6)
    axis = figure.add_subplot()
    rows = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(rows, 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if count <= _COUNTED:
        for (i, j), number in np.ndenumerate(matrix):
            if number:
                ink = "white" if shares[i, j] > 0.55 else "black"
                axis.text(
                    j, i, str(number), ha="center", va="center", color=ink,
                    fontsize=8 if number < 1000 else 6,
                )  # fmt: skip
    if named:
        size = 9 if count <= _COUNTED else 7
        axis.set_xticks(
            range(count), shown, rotation=90, fontsize=size, parse_math=False
        )
        axis.set_yticks(range(count), shown, fontsize=size, parse_math=False)
    axis.set_xlabel("taken for" if named else "taken for, by the number of the class")
    axis.set_ylabel("is" if named else "is, by the number of the class")
    bar = figure.colorbar(image, ax=axis, shrink=0.7, aspect=30)
    bar.set_label("share of the row")
    return figure


def _drawable(names: Sequence[str]) -> list[str]:
    """Names cut to a length; a number for one that the font has not all letters of."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    return [
        (name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…")
        if all(ord(letter) in known for letter in name)
        else f"#{number}"
        for number, name in enumerate(names)
    ]
