# SPDX-License-Identifier: Apache-2.0
"""Rows on a sheet, with Pillow: captions that are never cut, and a scale a row."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from .colours import colours
from .rows import Cell, Row

_GAP = 8
_INK, _PALE, _EDGE = (30, 30, 30), (110, 110, 110), (190, 190, 190)
_NARROW, _LEGIBLE, _LEAST = 390, 9, 15


def text_size(width: float) -> int:
    """The size of letters on a picture of this width, in pixels.

    On a telephone, where the picture is 390 pixels wide, they still have 9.
    """
    return max(_LEAST, round(width * _LEGIBLE / _NARROW))


def wrap(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Text as lines of at most this width, broken between words, else within them.

    A name without spaces is broken after a dash, a dot and the like where there is one
    in reach. Nothing is left out; a line has one letter at least.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in re.findall(r"\S+\s*", paragraph):
            # a word that no line holds begins where it comes
            if line and measure((line + word).rstrip()) > width >= measure(
                word.rstrip()
            ):
                lines.append(line.rstrip())
                line = ""
            line += word
            while measure(line.rstrip()) > width and len(line.rstrip()) > 1:
                end = _break(line, width, measure)
                lines.append(line[:end].rstrip())
                line = line[end:]
        lines.append(line.rstrip())
    return lines


def _break(line: str, width: float, measure: Callable[[str], float]) -> int:
    """Where to break a line that is too wide: at the last good place in reach."""
    fits = 1
    while measure(line[: fits + 1]) <= width:
        fits += 1
    ends = [found.end() for found in re.finditer(r"[-_.,/\\\s]", line[:fits])]
    return ends[-1] if ends and ends[-1] > fits // 2 else fits


def scale_labels(
    top: float, width: float, measure: Callable[[str], float]
) -> list[tuple[str, float]]:
    """What is written below a scale of this width, and where each begins.

    'uniform' is always there, below its mark; the ends are where there is room.
    """
    word, space = measure("uniform"), measure("0 ") - measure("0")
    start = min(max(0.0, width / top - word / 2), width - word)
    labels = [("uniform", start)]
    if measure("0") + space <= start:
        labels.append(("0", 0.0))
    for end in (f"{top:g}x uniform", f"{top:g}x"):
        if start + word + space <= width - measure(end):
            labels.append((end, width - measure(end)))
            break
    return labels


def lines_of(cells: list[Cell], columns: int) -> list[list[Cell]]:
    """A row's cells, in lines of so many."""
    return [cells[i : i + columns] for i in range(0, len(cells), columns)]


def columns_of(rows: Sequence[Row], columns: int) -> int:
    """The columns that rows need, at most those that are allowed; checks both.

    A row that needs several lines fills them evenly: five cells, of at most four, are
    three and two.
    """
    if not rows:
        raise ValueError("rows: none")
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise ValueError(f"columns: {columns!r}, allowed is an integer of 1 or more")
    most = max(len(row.cells) for row in rows)
    return -(-most // -(-most // columns))


@functools.cache
def _font(size: int) -> Any:
    # without FreeType there is one size of letters, which can be read on a screen
    return ImageFont.load_default(size if features.check("freetype2") else None)


def _written(text: str) -> str:
    """Text in the letters that Pillow's own font has: ASCII, accents left out."""
    plain = unicodedata.normalize("NFKD", text)
    kept = "".join(c for c in plain if not unicodedata.combining(c))
    return kept.encode("ascii", "replace").decode()


class _Pen:
    """Letters of one size."""

    def __init__(self, size: int) -> None:
        self.font = _font(size)
        self.line = round(size * 1.25)

    def width(self, text: str) -> float:
        return float(self.font.getlength(text))

    def wrapped(self, text: str, width: float) -> list[str]:
        return wrap(_written(text), width, self.width)


def sheet(
    rows: Sequence[Row], *, columns: int = 4, across: int | None = None
) -> Image.Image:
    """Rows below each other, each over the scale of its maps; no matplotlib.

    columns: cells beside each other, at most; a row that has more goes on below.
    across: rows beside each other; default as many as fit in the columns, from four
    rows on. A caption takes the lines that it needs.
    """
    used = columns_of(rows, columns)
    if across is None:
        across = max(1, columns // used) if len(rows) >= 4 else 1
    elif across < 1:
        raise ValueError(f"across: {across!r}, allowed is 1 or more")
    cell = max(item.image.width for row in rows for item in row.cells)
    wide = used * cell + (used - 1) * _GAP
    width = across * wide + (across - 1) * 3 * _GAP + 2 * _GAP
    pen = _Pen(text_size(width))
    blocks = [_block(row, used, cell, pen) for row in rows]
    groups = [blocks[i : i + across] for i in range(0, len(blocks), across)]
    heights = [max(block.height for block in group) for group in groups]
    height = sum(heights) + (len(groups) - 1) * 2 * _GAP + 2 * _GAP
    canvas = Image.new("RGB", (width, height), "white")
    y = _GAP
    for group, high in zip(groups, heights, strict=True):
        for place, block in enumerate(group):
            canvas.paste(block, (_GAP + place * (wide + 3 * _GAP), y))
        y += high + 2 * _GAP
    return canvas


def _block(row: Row, columns: int, cell: int, pen: _Pen) -> Image.Image:
    """One row: lines of captions over pictures, and the scale."""
    lines = lines_of(row.cells, columns)
    captions = [[pen.wrapped(item.caption, cell) for item in line] for line in lines]
    bands = [max(map(len, line)) * pen.line for line in captions]
    highs = [max(item.image.height for item in line) for line in lines]
    bar = _GAP + round(1.5 * pen.line) + 3 if row.top is not None else 0
    width = columns * cell + (columns - 1) * _GAP
    height = sum(bands) + sum(highs) + _GAP * (len(lines) - 1) + bar
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    y = 0
    for line, texts, band, high in zip(lines, captions, bands, highs, strict=True):
        for place, (item, text) in enumerate(zip(line, texts, strict=True)):
            x = place * (cell + _GAP)
            above = y + band - len(text) * pen.line  # a caption stands on its picture
            for number, words in enumerate(text):
                draw.text((x, above + number * pen.line), words, _INK, pen.font)
            canvas.paste(item.image, (x, y + band))
            right, bottom = x + item.image.width - 1, y + band + item.image.height - 1
            draw.rectangle((x, y + band, right, bottom), outline=_EDGE)
        y += band + high + _GAP
    if row.top is not None:
        # below the maps, which begin beside the picture
        left = cell + _GAP if len(lines) == 1 < columns else 0
        right = len(lines[0]) * (cell + _GAP) - _GAP
        _scale(draw, canvas, (left, y, right), row.top, pen)
    return canvas


def _scale(
    draw: ImageDraw.ImageDraw, canvas: Image.Image, place: tuple[int, int, int],
    top: float, pen: _Pen,
) -> None:  # fmt: skip
    """The colours from none to top, with a mark at uniform."""
    left, y, right = place
    thick = round(pen.line * 0.5)
    width = right - left
    ramp = colours((np.arange(width) + 0.5) / width)
    canvas.paste(Image.fromarray(ramp[None]).resize((width, thick)), (left, y))
    mark = left + round(width / top)  # of uniform attention
    draw.line((mark, y - 2, mark, y + thick + 2), "white", 3)
    draw.line((mark, y - 2, mark, y + thick + 3), _INK, 1)
    for text, start in scale_labels(top, width, pen.width):
        ink = _INK if text == "uniform" else _PALE
        draw.text((left + start, y + thick + 3), text, ink, pen.font)
