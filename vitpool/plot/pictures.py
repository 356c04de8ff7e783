# SPDX-License-Identifier: Apache-2.0
"""Attention and tokens as pictures, with NumPy and Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..transforms import Transform
from .layout import sheet
from .rows import attention_rows, token_rows


def attention_row(
    model: Any,
    transform: Transform | None,
    picture: Any,
    *,
    layer: int | str = "auto",
    head: int | str = "mean",
    labels: Any = None,
) -> Image.Image:
    """One picture beside what the model attends to in it, as a picture; no matplotlib.

    layer, head: as `attention_maps`; head is 'mean', a number or 'all'. labels: from
    `labels_for`, or True for the model's own, to write the most probable class over
    the picture.
    """
    found = attention_rows(
        model, [picture], layer=layer, head=head, labels=labels, transform=transform
    )
    return sheet(list(found))


def attention_grid(
    models: Any,
    images: Any,
    *,
    layer: int | str | Sequence[int | str] | None = None,
    head: int | str = "mean",
    labels: Any = True,
    transform: Transform | None = None,
    top: float | None = None,
    columns: int = 4,
) -> Image.Image:
    """Several pictures, one or several models, on one sheet; no matplotlib.

    models: a model; or a list of them, or a dict of names and models, to see them side
    by side. images: whatever `preprocess` takes: a folder, a list, one picture. A row
    is a picture: as the first model sees it, then each model's maps.

    layer: one or several, as `attention_maps`; default the last block's, then the
    pool's where it attends. head: 'mean', a number, or 'all' for a column each. labels:
    True for the most probable class by the model's own names, where it is trained; from
    `labels_for`; None for none. top: the multiple of uniform that is drawn lightest,
    in every row; default each row's own, see `scale_top`. columns: cells beside each
    other, at most; a row that has more goes on below.
    """
    rows = attention_rows(
        models, images, layer=layer, head=head, labels=labels, transform=transform,
        top=top,
    )  # fmt: skip
    return sheet(list(rows), columns=columns)


def token_pca(
    model: Any, images: Any, *, transform: Transform | None = None, columns: int = 4
) -> Image.Image:
    """Pictures beside what their patch tokens are like: alike where colours are alike.

    images: one picture or several, as `attention_grid`. Red, green and blue are the
    first three principal components of the tokens of all pictures together
    (`token_components`), so that a colour means the same in all of them.
    """
    return sheet(token_rows(model, images, transform), columns=columns)
