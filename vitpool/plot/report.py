# SPDX-License-Identifier: Apache-2.0
"""How a classifier came out of its training: a page of HTML, with PNGs beside it.

`report.html` needs no script; its pictures are in the folder `report` beside it.
"""

from __future__ import annotations

import html
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import replacing
from ..text import printable
from ..transforms import ImageError, Transform, load_image
from .colours import colours, overlay, scale_top
from .numbers import Heat, extent_of, pool_weights
from .rows import view
from .training import (
    class_scores,
    confusion,
    confusion_figure,
    curve_figure,
    most_confused,
)

PAGE, PICTURES = "report.html", "report"
_DPI = 144  # sharp on a screen of two pixels a point

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.45 system-ui, sans-serif;
  --line: #8884; --box: #8881; --bad: light-dark(#c62a2f, #ff6369); }}
body {{ margin: 0 auto; padding: 16px; max-width: 1120px; overflow-wrap: anywhere; }}
h1 {{ font-size: 20px; margin: 0 0 12px; }}
h2 {{ font-size: 16px; margin: 32px 0 8px; }}
p {{ margin: 0 0 8px; max-width: 80ch; }}
img {{ max-width: 100%; height: auto; display: block; border-radius: 4px; }}
.side {{ display: grid; gap: 16px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); }}
.mistakes {{ display: grid; gap: 20px 16px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }}
figure {{ margin: 0; min-width: 0; }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }}
.pair img {{ width: 100%; image-rendering: auto; }}
figcaption {{ font-size: 13px; margin-top: 4px; }}
figcaption b {{ color: var(--bad); font-weight: 600; }}
figcaption span {{ opacity: .7; font-size: 12px; display: block; }}
.scale {{ display: flex; gap: 8px; align-items: center; font-size: 12px;
  margin-bottom: 12px; }}
.scale img {{ width: 200px; height: 12px; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
td, th {{ border-bottom: 1px solid var(--line); padding: 3px 16px 3px 0;
  font-weight: normal; text-align: right; white-space: nowrap; }}
.left {{ text-align: left; white-space: normal; min-width: 7em; }}
thead th {{ opacity: .7; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px;
  margin: 0; }}
dt {{ opacity: .7; }}
dd {{ margin: 0; min-width: 0; }}
pre {{ background: var(--box); border-radius: 4px; padding: 8px 12px; margin: 0 0 12px;
  white-space: pre-wrap; font: 12px/1.5 ui-monospace, monospace; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


@dataclass(frozen=True)
class Judged:
    """Pictures that a model was asked about, of known classes.

    names: (N,) as they are to be shown; paths: (N,) where they are read; labels: (N,)
    the class of each; probabilities: (N, K).
    """

    names: Sequence[str]
    paths: Sequence[str]
    labels: NDArray[np.integer]
    probabilities: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.intp]:
        """The most probable class of each, (N,)."""
        best: NDArray[np.intp] = self.probabilities.argmax(axis=1)
        return best

    @property
    def accuracy(self) -> float:
        """The share that is right; NaN of nothing."""
        right = self.predicted == self.labels
        return float(right.mean()) if len(right) else math.nan

    def mistakes(self) -> list[int]:
        """Those that are wrong, the one furthest from right first."""
        own = self.probabilities[np.arange(len(self.labels)), self.labels]
        wrong = np.flatnonzero(self.predicted != self.labels)
        order: list[int] = wrong[np.argsort(own[wrong], kind="stable")].tolist()
        return order


@dataclass(frozen=True)
class Training:
    """What a report is about.

    classes: their names. counts: the training pictures of each. history: a mapping an
    epoch (epoch, loss, accuracy, val_loss, val_accuracy). best: the epoch that was
    kept. validation: None where no pictures were held out. notes: sentences on what is
    not as one might think, as pictures that could not be read.
    """

    title: str
    command: str
    settings: Mapping[str, str]
    classes: Sequence[str]
    counts: Sequence[int]
    history: Sequence[Mapping[str, Any]]
    best: int | None
    validation: Judged | None
    notes: Sequence[str] = field(default=())


def write_report(
    folder: Path,
    training: Training,
    model: Any,
    transform: Transform,
    most: int = 12,
) -> Path:
    """Write `report.html` and its pictures into a folder; gives the page's path.

    most: mistakes to show. Needs matplotlib (ImportError without). Pictures of an
    earlier report are replaced; the page comes last, when all that it shows is there.
    """
    pictures = folder / PICTURES
    if pictures.is_dir():
        shutil.rmtree(pictures)
    pictures.mkdir(parents=True)
    body = [*_summary(training), *_curves(training, pictures)]
    if training.validation is not None:
        body += _confusions(training, training.validation, pictures)
        body += _mistakes(
            training, training.validation, model, transform, pictures, most
        )
    body += [*_classes(training), *_settings(training)]
    page = _PAGE.format(title=_text(training.title), body="\n".join(body))
    with replacing(folder / PAGE) as file:
        file.write(page.encode())
    return folder / PAGE


def _summary(training: Training) -> Iterator[str]:
    pictures, judged = sum(training.counts), training.validation
    told = f"{len(training.classes)} classes, {_many(pictures, 'picture')} to train on"
    if judged is None:
        yield f"<p>{told}. None were held out, so nothing says how good it is.</p>"
    else:
        right = int((judged.predicted == judged.labels).sum())
        yield (
            f"<p>{told}, {len(judged.labels)} to judge by: {right} of them right, "
            f"<b>{judged.accuracy:.1%}</b>.</p>"
        )
    for note in training.notes:
        yield f"<p>{_text(note)}</p>"


def _curves(training: Training, pictures: Path) -> Iterator[str]:
    yield "<h2>Loss and accuracy by epoch</h2>"
    yield "<div class='side'>"
    for what in ("loss", "accuracy"):
        figure = curve_figure(training.history, what, training.best)
        figure.savefig(pictures / f"{what}.png", dpi=_DPI)
        yield _image(f"{what}.png", f"{what} by epoch")
    yield "</div>"
    if training.best is not None:
        yield f"<p>The weights of epoch {training.best} were kept, the best by "
        yield "validation.</p>"


def _confusions(training: Training, judged: Judged, pictures: Path) -> Iterator[str]:
    names = training.classes
    matrix = confusion(judged.labels, judged.predicted, len(names))
    figure = confusion_figure(matrix, [printable(name) for name in names])
    figure.savefig(pictures / "confusion.png", dpi=_DPI)
    width = figure.get_size_inches()[0]
    yield "<h2>Confusion matrix</h2>"
    yield _image("confusion.png", "confusion matrix", f"width:{width * 96:.0f}px")
    pairs = [[names[i], names[j], str(count)] for i, j, count in most_confused(matrix)]
    if pairs:
        yield "<h2>Most confused</h2>"
        yield _table(["is", "taken for", "pictures"], pairs, left=2)


def _mistakes(
    training: Training,
    judged: Judged,
    model: Any,
    transform: Transform,
    pictures: Path,
    most: int,
) -> Iterator[str]:
    wrong, names = judged.mistakes(), training.classes
    shown = wrong[:most]
    yield "<h2>The worst mistakes</h2>"
    if not wrong:
        yield f"<p>None among {_many(len(judged.labels), 'picture')}.</p>"
        return
    pool, told = _attended(model)
    count = (
        f"{len(shown)} of {len(wrong)}" if len(shown) < len(wrong) else f"{len(wrong)}"
    )
    yield f"<p>{count}, the least probable truth first. {told}</p>"
    views, heats = _looked_at([judged.paths[i] for i in shown], model, transform, pool)
    top = scale_top(*(heat for heat, _ in heats.values()))
    if heats:
        ramp = Image.fromarray(colours((np.arange(256) + 0.5) / 256)[None])
        ramp.save(pictures / "scale.png")
        yield (
            f"<div class='scale'>0 {_image('scale.png', 'scale')} "
            f"{top:g} times uniform</div>"
        )
    yield "<div class='mistakes'>"
    for number, index in enumerate(shown, 1):
        images = []
        picture = views[number - 1]
        if isinstance(picture, str):
            images.append(f"<p>{_text(picture)}</p>")
        else:
            picture.save(pictures / f"mistake-{number:02}.png")
            images.append(_image(f"mistake-{number:02}.png", "the picture"))
        if number - 1 in heats and not isinstance(picture, str):
            heat, extent = heats[number - 1]
            seen = overlay(picture, heat, top=top, extent=extent)
            seen.save(pictures / f"mistake-{number:02}-seen.png")
            images.append(_image(f"mistake-{number:02}-seen.png", "what was looked at"))
        chances = judged.probabilities[index]
        label, guess = int(judged.labels[index]), int(chances.argmax())
        yield (
            f"<figure><div class='pair'>{''.join(images)}</div><figcaption>"
            f"{_text(names[label])} ({chances[label]:.1%}) taken for "
            f"<b>{_text(names[guess])}</b> ({chances[guess]:.1%})"
            f"<span>{_text(judged.names[index])}</span></figcaption></figure>"
        )
    yield "</div>"


def _attended(model: Any) -> tuple[str | None, str]:
    """The pool whose weights are drawn, and what to say of them."""
    own = model.global_pool
    if own in ("map", "prr"):
        return own, f"Right: the attention of the {own} pool, the mean of its heads."
    if own == "token":
        return own, "Right: the attention of the class token in the last block."
    if model.has_class_token:
        return "token", (
            "Right: the attention of the class token in the last block; the classifier "
            f"itself has the {own} pool, which attends to nothing."
        )
    return None, (
        f"The model has the {own} pool and no class token: no attention says what it "
        "looked at."
    )


def _looked_at(
    paths: Sequence[str], model: Any, transform: Transform, pool: str | None
) -> tuple[list[Image.Image | str], dict[int, tuple[Heat, tuple[float, float]]]]:
    """Each picture as the model sees it, or why not; and where its pool looked."""
    views: list[Image.Image | str] = []
    heats = {}
    for number, path in enumerate(paths):
        try:
            opened = load_image(path, None)
            x = transform(opened)[None]
            views.append(view(transform, opened))
        except (ImageError, OSError) as error:  # it was there when it was judged
            reason = error.reason if isinstance(error, ImageError) else error.strerror
            views.append(f"it cannot be read now: {reason or error}")
            continue
        if pool is not None:
            heats[number] = pool_weights(model, x, pool)[0], extent_of(model, x)
    return views, heats


def _classes(training: Training) -> Iterator[str]:
    yield "<h2>Classes</h2>"
    judged = training.validation
    head = ["class", "number", "to train on"]
    rows = [
        [name, str(number), str(training.counts[number])]
        for number, name in enumerate(training.classes)
    ]
    if judged is not None:
        head += ["to judge by", "right", "taken for it", "precision", "recall"]
        matrix = confusion(judged.labels, judged.predicted, len(rows))
        for row, score in zip(rows, class_scores(matrix), strict=True):
            row += [str(score.pictures), str(score.right), str(score.predicted)]
            row += [_share(score.precision), _share(score.recall)]
    yield _table(head, rows)


def _settings(training: Training) -> Iterator[str]:
    yield f"<h2>Settings</h2><pre>{_text(training.command)}</pre><dl>"
    for name, value in training.settings.items():
        yield f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>"
    yield "</dl>"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _image(name: str, alt: str, style: str = "") -> str:
    styled = f" style='{style}'" if style else ""
    return f"<img src='{PICTURES}/{name}' alt='{alt}'{styled}>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table that scrolls where it is too wide; left: its columns of words."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = (" class='left'" if i < left else "" for i in range(len(cells)))
        return "".join(
            f"<{tag}{kind}>{_text(cell)}</{tag}>"
            for cell, kind in zip(cells, kinds, strict=True)
        )

    lines = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f"<div class='scroll'><table><thead><tr>{line(head, 'th')}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


def _text(text: str) -> str:
    return html.escape(printable(text))
