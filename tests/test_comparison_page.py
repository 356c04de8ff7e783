# SPDX-License-Identifier: Apache-2.0
"""A Comparison in a notebook, as a page of HTML and as a figure."""

from __future__ import annotations

import builtins
import math
import re
import sys
import xml.etree.ElementTree as xml
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from comparisons import comparison, row

from vitpool.testing.comparison.chart import along, scale_of, svg
from vitpool.testing.comparison.page import page
from vitpool.testing.comparison.parameters import ParameterDifference
from vitpool.testing.comparison.result import measured

VOID = {"meta", "br", "img", "input", "link", "hr"}
HOSTILE = "<script>alert('x')</script>\x1b[31m"
# Every kind of row: alike, identical, apart, on one side, shapes apart, not finite.
ROWS = (
    row("patch_embed", 0, exact=True),
    row("blocks.0.attn", 1e-7, exact=True),
    row("blocks.0.mlp", 0.1, exact=True),
    measured("norm", None, np.ones(3), 1e-4, 0),
    measured("pool", np.ones(3), np.ones(4), 1e-4, 0),
    measured("head", np.ones(3), np.full(3, math.nan), 1e-4, 0),
)


class Tags(HTMLParser):
    """Fails on a tag that is not closed, or not in order; collects what there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


@pytest.mark.parametrize("kind", ["page", "notebook"])
def test_html_is_whole_and_says_what_the_text_says(kind: str) -> None:
    found = comparison(
        ROWS,
        configuration=(("norm.eps", 1e-6, 1e-5),),
        parameters=ParameterDifference(missing=("norm.weight",), alike=3),
        preprocessing=(row("dog.jpg", 0.5),),
        isolate=True,
    )
    html = page(found) if kind == "page" else found._repr_html_()
    tags = Tags(html)
    assert tags.open == (["html"] if kind == "page" else [])
    text = " ".join(" ".join(tags.text).split())
    for line in str(found).splitlines():
        for cell in re.split(r"\s{2,}", line.strip()):
            if set(cell) != {"-"} and cell not in ("preprocessing", "stages"):
                assert re.sub(r"\s", "", cell) in re.sub(r"\s", "", text), cell


def test_a_page_needs_no_other_file() -> None:
    html = page(comparison(ROWS))
    names = {tag for tag, _ in Tags(html).tags}
    assert not names & {"script", "link", "img", "iframe", "object"}
    assert "http" not in html
    assert "url(" not in html


@pytest.mark.parametrize("kind", ["page", "notebook"])
def test_names_from_outside_are_text(kind: str) -> None:
    stage = measured(HOSTILE, np.ones(3), np.zeros(3), 1e-4, 0)
    found = comparison(
        [stage],
        reference=HOSTILE,
        candidate=HOSTILE,
        images=HOSTILE,
        configuration=((HOSTILE, HOSTILE, None),),
        parameters=ParameterDifference(missing=(HOSTILE,), largest={HOSTILE: math.inf}),
        preprocessing=(stage,),
    )
    html = page(found) if kind == "page" else found._repr_html_()
    assert "<script" not in html
    assert "\x1b" not in html
    assert "\x1b" not in str(found)


def test_a_notebook_gives_the_colours_and_wide_parts_scroll() -> None:
    html = comparison(ROWS)._repr_html_()
    assert "currentColor" in html
    assert "background:#" not in re.sub(r"<i style='[^']*'>", "", html)
    body = re.sub("<style>.*?</style>", "", html)
    assert body.startswith("<div style='overflow-x:auto'>")


def test_a_page_is_light_and_dark_and_fits_a_narrow_screen() -> None:
    html = page(comparison(ROWS))
    assert "color-scheme: light dark" in html
    assert "width=device-width" in html
    assert html.count("<svg") == 2


def points(text: str) -> list[tuple[float, float]]:
    circles = xml.fromstring(text).iter("circle")
    return [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in circles]


@pytest.mark.parametrize("width", [1080, 358])
@pytest.mark.parametrize("depth", [1, 12, 24, 40])
def test_a_chart_has_every_stage_in_order_and_in_its_place(
    depth: int, width: int
) -> None:
    found = comparison(depth=depth, parts_at=f"blocks.{depth // 2}.mlp", exact=True)
    text = svg(found, width, 380)
    at = points(text)
    assert len(at) == len(found.stages)
    assert [x for x, _ in at] == sorted({x for x, _ in at})
    assert all(0 < x < width and 0 < y < 380 for x, y in at)
    parts = [c for c in xml.fromstring(text).iter("circle") if "class" in c.attrib]
    assert len(parts) == sum(not stage.ok for stage in found.stages)
    # the larger the difference, the higher the point
    high = sorted(zip(found.stages, at, strict=True), key=lambda pair: pair[1][1])
    relative = [stage.relative for stage, _ in high]
    assert relative == sorted(relative, reverse=True)


@pytest.mark.parametrize("width", [1080, 358])
@pytest.mark.parametrize("depth", [0, 1, 12, 24, 40])
def test_labels_of_a_chart_do_not_touch(depth: int, width: int) -> None:
    depth_ = along(comparison(depth=depth).stages, width, 15, 20)
    assert depth_.width == pytest.approx(width)
    numbers = [at for at, _ in depth_.numbers]
    assert all(b - a >= 19.9 for a, b in pairwise(numbers))
    words = [at for at, _ in depth_.words]
    assert all(b - a >= 14.9 for a, b in pairwise(words))
    assert [name for _, name in depth_.words] == [
        "patch_embed", "pos_embed", "norm", "pool", "head",
    ]  # fmt: skip
    if depth:
        assert numbers[0] - words[1] >= 10
        assert depth_.numbers[0][1] == "0"


def test_a_chart_has_room_for_zero_and_for_what_is_not_finite() -> None:
    scale = scale_of(comparison(ROWS))
    assert scale.power(0) == scale.bottom < scale.low
    assert scale.power(math.inf) == scale.top > scale.high
    labels = [label for _, label in scale.ticks()]
    assert labels[0] == "0"
    assert labels[-1] == "inf"
    at = points(svg(comparison(ROWS), 1080, 380))
    assert len(at) == 4  # not those that could not be compared
    assert at[0][1] == max(y for _, y in at)
    assert at[-1][1] == min(y for _, y in at)


@pytest.mark.parametrize(
    "stages",
    [
        [row("head", 0)],
        [ROWS[3]],
        [ROWS[5]],
        [measured("head", np.zeros(3), np.zeros(3), 0, 0)],
    ],
    ids=["identical", "one side", "nan", "zeros"],
)
def test_a_comparison_of_one_stage_can_be_drawn(stages: Any) -> None:
    found = comparison(stages, rtol=0.0)
    Tags(found._repr_html_())
    page(found)
    pytest.importorskip("matplotlib")
    found.plot().canvas.draw()


def test_a_comparison_of_nothing_can_be_shown() -> None:
    found = comparison([])
    assert "<svg" not in page(found)
    assert "<svg" not in found._repr_html_()
    pytest.importorskip("matplotlib")
    found.plot().canvas.draw()


# -- figures --


@pytest.mark.parametrize("depth", [12, 24, 40])
def test_a_figure_has_every_stage_the_tolerance_and_both_own_errors(depth: int) -> None:
    pytest.importorskip("matplotlib")
    found = comparison(depth=depth, parts_at="blocks.3.mlp", exact=True)
    figure = found.plot()
    [axis] = figure.axes
    [legend] = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        "alike", "parts", "allowed",
        "the reference's own float32 error", "the candidate's own float32 error",
    }  # fmt: skip
    drawn = {line.get_label(): line.get_xydata() for line in axis.lines}
    assert len(drawn["alike"]) == 2 + 2 * 3 + 1
    assert len(drawn["alike"]) + len(drawn["parts"]) == len(found.stages)
    assert set(drawn["allowed"][:, 1]) == {-4.0}
    assert axis.get_title() == str(found).splitlines()[0]


@pytest.mark.parametrize("depth", [12, 24, 40])
def test_labels_of_a_figure_do_not_overlap(depth: int) -> None:
    pytest.importorskip("matplotlib")
    figure = comparison(depth=depth, exact=True).plot()
    figure.canvas.draw()
    [axis] = figure.axes
    labels = [*axis.get_xticklabels(), *axis.get_xticklabels(minor=True)]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda b: b.x0)
    assert len(boxes) > 10
    for left, right in pairwise(boxes):
        assert left.x1 <= right.x0
    height = figure.bbox.height
    assert all(box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_a_figure_without_float64_has_no_bands() -> None:
    pytest.importorskip("matplotlib")
    [axis] = comparison().plot().axes
    assert len(axis.collections) == 0


def test_without_matplotlib_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install matplotlib; table"):
        comparison().plot()
