# SPDX-License-Identifier: Apache-2.0
"""A planned `vitpool finetune`, carried out: features, training, and what it leaves."""

from __future__ import annotations

import csv
import io
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..files import replacing
from .errors import say
from .finetune_data import digest_of
from .progress import progress

if TYPE_CHECKING:
    from ..plot import Judged
    from ..train import Pictures
    from .finetune_plan import Plan

_COLUMNS = (
    *("epoch", "step", "lr", "loss", "accuracy", "val_loss", "val_accuracy"),
    "seconds",
)
# Between two states that a run can go on from: so many steps, or fewer where that is
# more work than a core does in about a minute.
_STEPS, _FLOPS = 100, 3e12


def carry_out(plan: Plan) -> None:
    """Train, and write the model, its history and the report into the folder."""
    args = plan.args
    command = shlex.join(["vitpool", "finetune", *args.words])
    told = {"command": command, "skipped": plan.skipped}
    with plan.folder.held(told):
        if plan.folder.resumed:
            say(f"{args.output}: goes on from where it was stopped")
        x = _inputs(plan, plan.pictures)
        judged_x = None if plan.judged is None else _inputs(plan, plan.judged)
        history = _fitted(plan, x, judged_x)
        judged = None
        if plan.judged is not None:
            judged = _judged(plan, plan.judged, judged_x)
        best = best_epoch(history)
        result = _result(plan, history, best, judged)
        _write_history(plan, history)
        if judged is not None:
            _write_judged(plan, judged)
        if plan.reports:
            _report(plan, command, history, best, judged)
        _save(plan)
        plan.folder.finish(result)
    say(_verdict(result))


def _inputs(plan: Plan, pictures: Pictures) -> Any:
    """What training takes of pictures: these, or features, which are made only once."""
    if plan.cached is None:
        return pictures
    from ..train import features

    with progress(plan.args, len(pictures), "picture") as bar:
        bar.set_description("features", refresh=False)
        return features(
            plan.model,
            _Watched(plan, pictures, bar),
            train=plan.args.train,
            dtype=plan.cached,
            path=plan.folder.state,
        )


class _Watched:
    """Pictures as a dataset that moves a bar, and can be told from others."""

    def __init__(self, plan: Plan, pictures: Pictures, bar: Any) -> None:
        self._plan, self._pictures, self._bar = plan, pictures, bar

    def __len__(self) -> int:
        return len(self._pictures)

    def batch(self, indices: Any, epoch: int, seed: int) -> NDArray[np.float32]:
        rows = self._pictures.batch(indices, epoch, seed)
        self._bar.update(len(rows))
        return rows

    def identity(self) -> dict[str, Any]:
        """As `features` wants it: what makes these numbers the same."""
        options = self._plan.transform.options
        return {"pictures": digest_of(self._pictures), "transform": options}


def _fitted(plan: Plan, x: Any, judged_x: Any) -> list[dict[str, Any]]:
    """The history of the run; the model is then its best epoch's."""
    validation = None if plan.judged is None else (judged_x, plan.judged.labels)
    epochs = plan.trainer.options.epochs

    def tell(_: Any, row: Mapping[str, Any]) -> None:
        if not plan.args.quiet:
            say(epoch_line(row, epochs))

    with progress(plan.args, None, "step") as bar:
        history: list[dict[str, Any]] = plan.trainer.fit(
            x,
            plan.pictures.labels,
            validation=validation,
            checkpoint=plan.folder.state / "checkpoint.safetensors",
            checkpoint_steps=_every(plan),
            progress=bar,
            callbacks=[tell],
        )
    if len(history) < epochs:
        say(f"stopped early: no better epoch in {plan.args.patience}")
    return history


def _every(plan: Plan) -> int:
    """Steps between two states."""
    if plan.cached is not None and plan.trainer.part.entry != "block":
        return _STEPS
    options = plan.trainer.options
    pictures = options.batch_size * options.accumulate
    step = 3 * plan.model.summary().flops * pictures  # forward, and twice that back
    return max(1, min(_STEPS, int(_FLOPS / step)))


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """An epoch in one line, for eyes."""
    parts = [f"loss {row['loss']:.4f}"]
    if row["accuracy"] is not None:
        parts.append(f"accuracy {row['accuracy']:.1%}")
    if row["val_loss"] is not None:
        parts.append(f"held out: loss {row['val_loss']:.4f}")
        parts.append(f"accuracy {row['val_accuracy']:.1%}")
    return f"epoch {row['epoch']}/{epochs}: {', '.join(parts)}"


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int | None:
    """The epoch whose weights are kept; None without pictures to judge by."""
    judged = [row for row in history if row["val_loss"] is not None]
    if not judged:
        return None
    best = max(judged, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    epoch: int = best["epoch"]
    return epoch


def _judged(plan: Plan, pictures: Pictures, x: Any) -> Judged:
    """What the trained model says of the pictures to judge by."""
    from ..labels import probabilities
    from ..plot import Judged

    rows = [probabilities(logits) for logits in _logits(plan, x)]
    paths = [pictures.name(index) for index in range(len(pictures))]
    root = plan.args.val or plan.args.data
    root = root if os.path.isdir(root) else os.path.dirname(root)
    names = [os.path.relpath(path, root) for path in paths]
    return Judged(names, paths, pictures.labels, np.concatenate(rows))


def _logits(plan: Plan, x: Any) -> Iterator[NDArray[np.float32]]:
    from ..train import logits_of

    size = 32
    with progress(plan.args, len(x), "picture", hide=plan.cached is not None) as bar:
        for first in range(0, len(x), size):
            places = np.arange(first, min(first + size, len(x)))
            rows = x.batch(places, 0, 0)
            if plan.cached is None:
                yield plan.model(rows)
            else:
                yield logits_of(plan.model, plan.trainer.part, rows)
            bar.update(len(places))


def _result(
    plan: Plan, history: Sequence[Any], best: int | None, judged: Judged | None
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "epochs": len(history),
        "seconds": round(sum(row["seconds"] for row in history), 1),
    }
    if judged is not None:
        result |= {
            "best_epoch": best,
            "right": int((judged.predicted == judged.labels).sum()),
            "judged": len(judged.labels),
            "accuracy": judged.accuracy,
        }
    return result


def _verdict(result: Mapping[str, Any]) -> str:
    if "judged" not in result:
        return f"{result['epochs']} epochs; no pictures were held out to judge by"
    return (
        f"{result['right']} of {result['judged']} held-out pictures right "
        f"({result['accuracy']:.1%}), with the weights of epoch {result['best_epoch']}"
    )


# ---------------------------------------------------------------------- what is left


def _save(plan: Plan) -> None:
    from ..registry.folder import save_pretrained

    save_pretrained(plan.model, plan.folder.path)


def _write_history(plan: Plan, history: Sequence[Mapping[str, Any]]) -> None:
    rows = [[_cell(row[name]) for name in _COLUMNS] for row in history]
    _write_csv(plan, "history.csv", _COLUMNS, rows)


def _write_judged(plan: Plan, judged: Judged) -> None:
    """Each picture that was held out: its class, what it was taken for, how surely.

    Read as DATA it is these pictures again.
    """
    names = plan.pictures.classes
    rows = []
    for path, label, guess, chances in zip(
        judged.paths, judged.labels, judged.predicted, judged.probabilities, strict=True
    ):
        rows.append(
            [os.path.abspath(path), names[label], names[guess], f"{chances[guess]:.6g}"]
        )
    head = ("path", "label", "predicted", "probability")
    _write_csv(plan, "validation.csv", head, rows)


def _write_csv(
    plan: Plan, name: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    with replacing(plan.folder.path / name) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def _cell(value: Any) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.9g}"


def _report(
    plan: Plan,
    command: str,
    history: Sequence[Mapping[str, Any]],
    best: int | None,
    judged: Judged | None,
) -> None:
    from ..plot import Training, write_report

    notes = list(plan.notes)
    if count := len(plan.skipped):
        were = (
            "pictures could not be read, and were"
            if count > 1
            else ("picture could not be read, and was")
        )
        notes.append(f"{count} {were} left out.")
    about = Training(
        title=f"{plan.args.model}, trained on {plan.args.data}",
        command=command,
        settings=_settings(plan, history),
        classes=plan.pictures.classes,
        counts=plan.pictures.counts.tolist(),
        history=history,
        best=best,
        validation=judged,
        notes=notes,
    )
    write_report(plan.folder.path, about, plan.model, plan.transform)


def _settings(plan: Plan, history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the run was, for eyes."""
    from .. import __version__, get_num_threads

    shapes, trained = plan.model.param_shapes(), plan.trainer.part.names
    count = sum(math.prod(shapes[name]) for name in trained)
    whole = sum(math.prod(shape) for shape in shapes.values())
    options = plan.trainer.options
    steps = history[-1]["step"]
    seconds = sum(row["seconds"] for row in history)
    settings = {
        "trained": f"{plan.args.train}: {count:,} of {whole:,} parameters",
        "pool": str(plan.model.global_pool),
        "input": " x ".join(map(str, plan.transform.options["input_size"])),
    }
    for name, value in options.told().items():
        settings[name.replace("_", " ")] = _told(value)
    settings["label smoothing"] = _told(plan.args.label_smoothing)
    augment = getattr(plan.pictures.transform, "auto_augment", None)
    drawn = plan.pictures.transform is not plan.transform
    settings["augmentation"] = (augment or "crop, flip, colour") if drawn else "none"
    settings["steps"] = f"{steps:,} in {len(history)} epochs, {seconds:.1f} s"
    settings["threads"] = str(get_num_threads())
    settings["vitpool"] = __version__
    return settings


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_told, value))
    return "none" if value is None else str(value)
