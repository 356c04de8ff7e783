# SPDX-License-Identifier: Apache-2.0
"""What a trainer computes: steps of several pieces, and states of a model judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import _core
from ..config import told_options
from ..model import Float32, PlainViT, digest
from .gradients import check_trains, rates_for, run, view_of
from .history import History, TrainingDiverged
from .losses import Labels, Loss
from .mix import mix
from .optimizers import clip, norm_of
from .options import checked_rates, recipe_of, resolved
from .parts import Part, features_of, logits_of, part_of
from .sources import DROP, MIX, Source, bits, generator
from .state import State


class Steps:
    """A model, what trains of it, and what the steps so far have come to.

    part, loss: of the model as it was looked at last. options: of the trainer. state:
    None before the first step, and after an error. history: of the fit that goes on.
    """

    def __init__(self, model: PlainViT, train: Any, given: Mapping[str, Any]) -> None:
        several = hasattr(train, "__iter__") and not isinstance(train, str)
        self._model = model
        self.train = list(train) if several else train
        now = model._snapshot()
        self.part: Part = part_of(now, self.train)
        self.options = resolved(recipe_of(self.train, self.part), given)
        self._rates = checked_rates(given)
        names = ("loss", "label_smoothing", "class_weight")
        self._loss_options = [given[name] for name in names]
        self.look_at(now)
        self.state: State | None = None
        self.history: History = []

    def look_at(self, now: _core.VisionTransformer) -> None:
        """What trains and the loss, of a model that may be another than it was."""
        part, loss = part_of(now, self.train), self._loss_of(now)
        check_trains(now, part, loss, rates_for(part, self._rates, self._model))
        self.part, self.loss = part, loss

    def begin(self, now: _core.VisionTransformer | None = None) -> State:
        """A fresh state, of a model that was looked at or of the model as it is."""
        if now is None:
            now = self._model._snapshot()
            self.look_at(now)
        self.state = State(self._model, now, self.part, self.options)
        return self.state

    def _loss_of(self, now: _core.VisionTransformer) -> Loss:
        name, smoothing, weight = self._loss_options
        return Loss(name, now._options()["num_classes"], smoothing, weight)

    def update(
        self,
        pieces: Iterable[tuple[Float32, bool, Labels]],
        labels: Labels,
        lr: float,
    ) -> tuple[float, float, tuple[int, int] | None]:
        """A step on several pieces: (inputs, are they images?, labels).

        labels: of all pieces. Gives the mean loss, by what it is to be weighted, and
        (hits, of how many) or None.
        """
        state, options = self.state, self.options
        assert state is not None
        try:
            state.check()
        except RuntimeError:
            self.state = None
            raise
        mixed = bool(options.mixup or options.cutmix)
        weight = self.loss.share(labels, mixed)
        for gradient in state.gradients.values():
            gradient.fill(0)
        draw = generator(options.seed, MIX, state.step)
        rates = rates_for(self.part, self._rates, self._model)
        view = view_of(state.now)
        value, right, of, place = 0.0, 0, 0, 0
        for inputs, images, own in pieces:
            soft = self.loss.soft(own)
            if mixed:
                self.check_mix(images)
                inputs, soft = mix(inputs, soft, draw, options.mixup, options.cutmix)
                own = soft if own.ndim == 2 else soft.argmax(1)
            if images:
                inputs = features_of(view, self.part, inputs)
            loss, logits = run(
                state.now,
                self.part,
                inputs,
                self.loss.targets(soft),
                state.gradients,
                loss=self.loss,
                scale=1 / weight,
                rates=rates,
                seed=bits(options.seed, DROP, state.step),
                image=place,
                checkpointing=options.checkpointing,
                memory=options.memory,
            )
            value += loss
            if not np.isfinite(value):
                raise self.diverged("the loss is not finite", state.step + 1, lr)
            hits = self.loss.hits(logits, own)
            right, of = (right + hits[0], of + hits[1]) if hits else (right, of)
            place += len(inputs)
        self._move(state, lr)
        return value, weight, (right, of) if of else None

    def _move(self, state: State, lr: float) -> None:
        """From gradients to the model's next weights."""
        norm = norm_of(state.gradients.values())
        if not np.isfinite(norm):
            raise self.diverged("a gradient is not finite", state.step + 1, lr)
        if self.options.clip_grad is not None:
            clip(state.gradients, norm, self.options.clip_grad)
        state.optimizer.step(state.weights, state.gradients, lr, state.step + 1)
        if not np.isfinite(norm_of(state.weights.values())):
            self.state = None  # the model is that of before this step
            raise TrainingDiverged(
                "a weight is not finite", state.step + 1, lr, list(self.history)
            )
        state.follow()
        try:
            state.commit()
        except RuntimeError:
            self.state = None
            raise
        state.step += 1

    def diverged(self, what: str, step: int, lr: float) -> TrainingDiverged:
        """The error to raise; the model gets its last good state back."""
        state = self.state
        assert state is not None
        self.state = None
        state.take_back()
        return TrainingDiverged(what, step, lr, list(self.history))

    def judge(
        self,
        now: _core.VisionTransformer,
        data: Source,
        labels: Labels,
        size: int,
    ) -> dict[str, Any]:
        """Mean 'loss' and 'accuracy' of a state of the model, `size` images at once."""
        view = view_of(now)
        total, right, of = 0.0, 0, 0
        for first in range(0, len(data), size):
            places = np.arange(first, min(first + size, len(data)))
            inputs, images = data.batch(places, 0)
            if images:
                inputs = features_of(view, self.part, inputs)
            logits = logits_of(view, self.part, inputs)
            total += self.loss.total(logits, labels[places])
            hits = self.loss.hits(logits, labels[places])
            right, of = (right + hits[0], of + hits[1]) if hits else (right, of)
        share = self.loss.share(labels)
        return {"loss": total / share, "accuracy": right / of if of else None}

    def told(self, now: _core.VisionTransformer) -> dict[str, Any]:
        """What a file of these steps must have in common with them."""
        name, smoothing, _ = self._loss_options
        weight = self.loss.class_weight
        trained = set(self.part.names)
        frozen = [name for name in now.param_shapes() if name not in trained]
        return {
            "model": {
                **_plain(told_options(now._options())),
                "trained": list(self.part.names),
                "frozen weights": digest(now, frozen),
            },
            "option": {
                **self.options.told(),
                "loss": name,
                "label_smoothing": smoothing,
                "class_weight": None if weight is None else weight.tolist(),
                **rates_for(self.part, self._rates, self._model),
            },
        }

    def checked(
        self, now: _core.VisionTransformer, x: Any, y: Any, x_name: str, y_name: str
    ) -> tuple[Source, Labels]:
        """What is trained on or judged by; ValueError, TypeError: it does not fit."""
        data = Source(x, self.part, now._options(), self.options.seed, x_name)
        if data.shape is not None:
            self.check_mix(len(data.shape) == 3)
        return data, self.loss.labels(y, len(data), y_name)

    def check_mix(self, images: bool) -> None:
        """ValueError: these inputs cannot be mixed as the options want it."""
        if self.options.cutmix and not images:
            raise ValueError(
                "cutmix needs images, and these are features; mixup may do"
            )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON gives them back."""
    pairs = options.items()
    return {k: list(v) if isinstance(v, tuple) else v for k, v in pairs}
