# SPDX-License-Identifier: Apache-2.0
"""The report on a training: its numbers are right, and its page is whole."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import small
from PIL import Image

import vitpool
from vitpool import plot
from vitpool.transforms import create_transform, resolve_data_config

SAMPLES = sorted(
    (Path(vitpool.__file__).parent / "models" / "vit_digits" / "samples").glob("*.png")
)
NAMES = ["zero", "<b>one</b>", "two $x$", "八", *map(str, range(4, 10))]
HISTORY = [
    {"epoch": e, "loss": 1 / e, "accuracy": 1 - 0.5 / e, "val_loss": 2 / e,
     "val_accuracy": 1 - 0.8 / e}
    for e in range(1, 6)
]  # fmt: skip


def judged(wrong: dict[int, tuple[int, float]]) -> plot.Judged:
    """The ten samples; those that are wrong: what for, and the truth's probability."""
    chances = np.full((10, 10), 0.01, np.float32)
    chances[np.arange(10), np.arange(10)] = 0.91
    for sample, (guess, truth) in wrong.items():
        chances[sample] = 0
        chances[sample, sample] = truth
        chances[sample, guess] = 1 - truth
    names = [path.name for path in SAMPLES]
    return plot.Judged(names, list(map(str, SAMPLES)), np.arange(10), chances)


def training(validation: plot.Judged | None, **more: Any) -> plot.Training:
    told: dict[str, Any] = {
        "title": "a & b", "command": "vitpool finetune a -o b", "settings": {"lr": "1"},
        "classes": NAMES, "counts": [5] * 10, "history": HISTORY, "best": 4,
        "validation": validation,
    }  # fmt: skip
    return plot.Training(**{**told, **more})


def written(tmp_path: Path, about: plot.Training, model: Any = None, most: int = 12):
    model = model or vitpool.create_model("vit_digits", pretrained=True)
    transform = create_transform(**resolve_data_config(model))
    return plot.write_report(tmp_path, about, model, transform, most)


class Page(HTMLParser):
    """What a page says, the pictures that it shows, and whether its tags fit."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words, self.shown, self.open = "", [], []
        self.cells: list[list[str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "img":
            self.shown.append(dict(attrs)["src"])
        elif tag not in ("meta",):
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])

    def handle_endtag(self, tag: str) -> None:
        # html and its like may stay open
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.words += data
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1].append(data)


def test_numbers_of_a_confusion_matrix_by_hand() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    matrix = plot.confusion(labels, predicted, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    scores = plot.class_scores(matrix)
    assert scores[0] == (2, 3, 4, 0.5, 2 / 3)
    assert scores[1] == (1, 2, 2, 0.5, 0.5)
    assert scores[2][:3] == (0, 1, 0)
    assert math.isnan(scores[2].precision)
    assert scores[2].recall == 0
    assert math.isnan(scores[3].recall)
    assert plot.most_confused(matrix) == [(0, 1, 1), (1, 0, 1), (2, 0, 1)]
    assert plot.most_confused(matrix * 2, most=1) == [(0, 1, 2)]


def test_the_worst_mistake_is_the_least_probable_truth() -> None:
    found = judged({3: (5, 0.2), 7: (1, 0.01), 0: (6, 0.4)})
    assert found.mistakes() == [7, 3, 0]
    assert found.accuracy == 0.7
    none = plot.Judged([], [], np.empty(0, int), np.empty((0, 10), np.float32))
    assert math.isnan(none.accuracy)


def test_a_page_has_all_that_it_shows_and_no_name_is_code(tmp_path) -> None:
    found = judged({1: (3, 0.1), 2: (1, 0.2)})
    path = written(tmp_path, training(found, notes=["<i>2 left out</i>"]))
    assert path == tmp_path / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Page(path)
    assert "<script" not in text
    assert "http" not in text
    files = {f"report/{p.name}" for p in (tmp_path / "report").iterdir()}
    assert set(page.shown) == files
    assert len(page.shown) == len(files) == 3 + 1 + 2 * 2
    for name in files:
        with Image.open(tmp_path / name) as image:
            image.load()
    words = " ".join(page.words.split())
    assert "8 of them right, 80.0%" in words
    assert "<i>2 left out</i>" in words
    assert "<b>one</b> (10.0%) taken for 八 (90.0%)" in words
    assert "attention of the map pool" in words
    assert "The weights of epoch 4 were kept" in words
    assert "vitpool finetune a -o b" in words
    row = next(row for row in page.cells if row[:2] == ["<b>one</b>", "1"])
    # its own picture is lost to 3, that of 2 is taken for it
    assert row[2:] == ["5", "1", "0", "1", "0.0%", "0.0%"]


def test_a_report_replaces_an_earlier_one(tmp_path) -> None:
    wrong = {i: (9 - i, 0.1) for i in range(10)}
    written(tmp_path, training(judged(wrong)), most=4)
    assert len(list((tmp_path / "report").glob("mistake-*-seen.png"))) == 4
    path = written(tmp_path, training(judged({})))
    assert not list((tmp_path / "report").glob("mistake-*"))
    assert "None among 10 pictures" in Page(path).words


def test_without_held_out_pictures_there_is_no_verdict(tmp_path) -> None:
    history = [{**row, "val_loss": None, "val_accuracy": math.nan} for row in HISTORY]
    path = written(tmp_path, training(None, history=history, best=None))
    page = Page(path)
    assert "nothing says how good it is" in page.words
    assert page.shown == ["report/loss.png", "report/accuracy.png"]
    assert "recall" not in page.words


@pytest.mark.parametrize(
    ("options", "said", "seen"),
    [
        ({"global_pool": "token"}, "attention of the class token in the last", True),
        ({"global_pool": "avg"}, "itself has the avg pool", True),
        ({"global_pool": "avg", "class_token": False}, "and no class token", False),
        ({"global_pool": "prr", "class_token": False}, "of the prr pool", True),
    ],
)
def test_what_was_looked_at_is_what_the_pool_has(tmp_path, options, said, seen) -> None:
    model = small(num_classes=10, **options)
    page = Page(written(tmp_path, training(judged({1: (3, 0.1)})), model))
    assert said in page.words
    assert ("report/mistake-01-seen.png" in page.shown) == seen
    assert ("report/scale.png" in page.shown) == seen


def test_a_picture_that_is_gone_says_so_in_its_place(tmp_path) -> None:
    found = judged({1: (3, 0.1)})
    gone = plot.Judged(
        found.names, ["gone.png"] * 10, found.labels, found.probabilities
    )
    page = Page(written(tmp_path, training(gone)))
    assert "it cannot be read now: No such file" in page.words


@pytest.mark.parametrize("count", [2, 31, 80])
def test_a_matrix_of_any_size_is_drawn(count) -> None:
    matrix = np.eye(count, dtype=int) * 1234
    figure = plot.confusion_figure(matrix, [f"class {i}" for i in range(count)])
    axis = figure.axes[0]
    figure.canvas.draw()
    assert len(axis.texts) == (count if count <= 30 else 0)
    named = axis.get_yticklabels()[0].get_text() == "class 0"
    assert named == (count <= 60)
    with pytest.raises(ValueError, match="names: 1 for"):
        plot.confusion_figure(matrix, ["one"])


def test_names_that_the_font_lacks_are_numbers_and_long_ones_are_cut() -> None:
    figure = plot.confusion_figure(np.eye(3, dtype=int), ["八", "$a", "x" * 99])
    texts = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert texts == ["#0", "$a", "x" * 23 + "…"]


def test_curves_have_the_numbers_of_the_history() -> None:
    figure = plot.curve_figure(HISTORY, "loss", best=4)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {"training", "validation", "kept"}
    assert lines["training"].get_ydata().tolist() == [r["loss"] for r in HISTORY]
    assert lines["validation"].get_ydata().tolist() == [r["val_loss"] for r in HISTORY]
    assert set(lines["kept"].get_xdata()) == {4}
    assert re.match(
        "accuracy", plot.curve_figure(HISTORY, "accuracy").axes[0].get_ylabel()
    )
    one = plot.curve_figure(HISTORY[:1], "loss").axes[0]
    assert [tick for tick in one.get_xticks() if 0 <= tick <= 2] == [0, 1, 2]
