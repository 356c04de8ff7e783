# SPDX-License-Identifier: Apache-2.0
"""A run of `fit`: its epochs and steps, from the start or from a checkpoint."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from ..model import Float32
from . import checkpoint, history
from .losses import Labels
from .schedule import factor
from .sources import SHUFFLE, Indices, Source, generator
from .state import arrays_of
from .steps import Steps


class Run:
    """Everything of one fit. Each step's random numbers follow from seed and step."""

    def __init__(
        self,
        steps: Steps,
        data: Source,
        labels: Labels,
        validation: tuple[Source, Labels] | None,
        path: str | os.PathLike[str] | None,
        every: int | None,
    ) -> None:
        assert steps.state is not None
        self._steps, self._state, self._options = steps, steps.state, steps.options
        self._data, self._labels, self._validation = data, labels, validation
        self._path, self._every = path, every
        self._images = self._options.batch_size * self._options.accumulate  # a step
        self._each = -(-len(data) // self._images)  # steps of an epoch
        self._total = self._each * self._options.epochs
        self._warmup = round(self._options.warmup * self._each)
        self._sums = history.Sums()
        self._seconds = 0.0  # of this epoch, before a stop
        self._best: _core.VisionTransformer | None = None
        self._best_row: dict[str, Any] | None = None
        self._finished = False
        self.history: history.History = []
        self._run = self._told() if path is not None else {}

    def go(
        self, progress: Any, tell: Callable[[dict[str, Any]], Any]
    ) -> history.History:
        """Trains to the end, or resumes and does so; tell(row) after each epoch."""
        if self._path is not None:
            self._resume_or_begin()
        if self._finished:
            return self.history
        with Bar(progress, self._total, self._state.step) as bar:
            for epoch in range(self._state.step // self._each, self._options.epochs):
                row = self._epoch(epoch, bar)
                stop = self._judge(row)
                self.history.append(row)
                self._finished = stop or epoch + 1 == self._options.epochs
                if self._finished:
                    self._keep_best()
                self._save()
                tell(row)
                if stop:
                    break
        return self.history

    # -- an epoch --

    def _epoch(self, epoch: int, bar: Bar) -> dict[str, Any]:
        start = time.perf_counter() - self._seconds
        seed = self._options.seed
        order = generator(seed, SHUFFLE, epoch).permutation(len(self._data))
        lr = 0.0
        for step in range(self._state.step, (epoch + 1) * self._each):
            first = (step % self._each) * self._images
            places = order[first : first + self._images]
            lr = self.lr(step)
            loss, weight, hits = self._steps.update(
                self._micro(places, epoch), self._labels[places], lr
            )
            self._sums = self._sums.add(loss, weight, hits)
            bar.tell(epoch, self._options.epochs, self._sums)
            self._seconds = time.perf_counter() - start
            last = (step + 1) % self._each == 0
            if self._every and not last and (step + 1) % self._every == 0:
                self._save()
        found: dict[str, Any] = {}
        if self._validation is not None:
            size = self._options.batch_size
            found = self._steps.judge(self._state.judged(), *self._validation, size)
            if not np.isfinite(found["loss"]):
                what = "the loss of validation is not finite"
                raise self._steps.diverged(what, self._state.step, lr)
        row = {
            "epoch": epoch + 1,
            "step": self._state.step,
            "lr": lr,
            "loss": self._sums.mean,
            "accuracy": self._sums.accuracy,
            "val_loss": found.get("loss"),
            "val_accuracy": found.get("accuracy"),
            "seconds": time.perf_counter() - start,
        }
        self._sums, self._seconds = history.Sums(), 0.0
        return row

    def lr(self, step: int) -> float:
        """The learning rate of step `step`, from 0."""
        options = self._options
        share = factor(step, self._total, self._warmup, options.schedule)
        return options.lr * share

    def _micro(
        self, places: Indices, epoch: int
    ) -> Iterator[tuple[Float32, bool, Labels]]:
        size = self._options.batch_size
        for first in range(0, len(places), size):
            some = places[first : first + size]
            yield (*self._data.batch(some, epoch), self._labels[some])

    # -- the best --

    def _judge(self, row: dict[str, Any]) -> bool:
        """Notes whether this epoch is the best so far; True: patience is at an end."""
        if self._validation is None:
            return False
        if history.better(row, self._best_row):
            self._best, self._best_row = self._state.judged(), row
        patience = self._options.patience
        best = self._best_row or row
        return patience is not None and row["epoch"] - best["epoch"] >= patience

    def _keep_best(self) -> None:
        """Makes the best state the model's: by validation, else the last."""
        kept = self._best or self._state.judged()
        if kept is not self._state.now:
            part = self._steps.part
            for name, array in arrays_of(kept, part).items():
                np.copyto(self._state.weights[name], array)
            self._state.put(kept)

    # -- the file --

    def _told(self) -> dict[str, Any]:
        """What makes this run the same as another, for who resumes it."""
        data: dict[str, Any] = {
            "length": len(self._data),
            "shape": self._data.shape,
            "labels": _digest_of(self._labels),
        }
        if self._validation is not None:
            data["validation length"] = len(self._validation[0])
            data["validation labels"] = _digest_of(self._validation[1])
        return {"data": data, **self._steps.told(self._state.now)}

    def _resume_or_begin(self) -> None:
        assert self._path is not None
        if not Path(self._path).exists():
            self._save()  # that the file can be written is known before any work
            return
        arrays, facts = checkpoint.read(self._path)
        checkpoint.refuse_other(self._path, facts["run"], self._run)
        self._state.restore(arrays, facts["step"])
        self.history[:] = facts["history"]
        self._sums = history.Sums(*facts["sums"])
        self._seconds, self._finished = facts["seconds"], facts["finished"]
        self._best_row = facts["best"]
        if self._best_row is not None:
            names = self._steps.part.names
            self._best = self._state.with_weights(
                {n: arrays[f"best/{n}"] for n in names}
            )

    def _save(self) -> None:
        if self._path is None:
            return
        arrays = self._state.arrays()
        if self._best is not None:
            best = arrays_of(self._best, self._steps.part)
            arrays |= {f"best/{name}": array for name, array in best.items()}
        facts = {
            "run": self._run,
            "step": self._state.step,
            "sums": list(self._sums),
            "seconds": self._seconds,
            "history": self.history,
            "best": self._best_row,
            "finished": self._finished,
        }
        checkpoint.write(self._path, arrays, facts)


class Bar:
    """tqdm's bar of steps, with loss and accuracy; or one of the caller's; or none."""

    def __init__(self, progress: Any, total: int, done: int) -> None:
        self._own = isinstance(progress, bool)
        self._bar: Any = progress if not self._own else None
        if progress is True:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=done, unit="step")
        elif self._bar is not None:
            self._bar.total, self._bar.initial, self._bar.n = total, done, done

    def __enter__(self) -> Bar:
        return self

    def tell(self, epoch: int, epochs: int, sums: history.Sums) -> None:
        """One step more, of this epoch from 0, with the epoch's means so far."""
        if self._bar is None:
            return
        shown = {"loss": f"{sums.mean:.4f}"}
        if sums.accuracy is not None:
            shown["accuracy"] = f"{sums.accuracy:.4f}"
        self._bar.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(1)

    def __exit__(self, *_: Any) -> None:
        if self._own and self._bar is not None:
            self._bar.close()


def _digest_of(labels: Labels) -> str:
    digest = hashlib.blake2b(f"{labels.dtype} {labels.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(labels).data)
    return digest.hexdigest()
