# SPDX-License-Identifier: Apache-2.0
"""Trainer: steps, epochs, validation, and a file to resume from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .. import _core
from ..config import as_float, as_int
from ..model import Float32, PlainViT
from . import checkpoint
from .gradients import Train, view_of
from .history import History
from .losses import Labels, LossName
from .optimizers import OptimizerName
from .options import Options, Schedule
from .parts import Part, features_of
from .run import Run
from .steps import Steps


class Trainer:
    """Trains a model, or a part of it.

    Each step gives the model new weights by one exchange: a forward pass of another
    thread sees the old ones or the new. What is frozen is shared, not copied, and runs
    as at inference. The same seed gives the same weights, bit for bit, on any number of
    threads.

    part, options: what trains, and the options with their defaults put in. history: a
    row for each epoch of the last `fit`. model: the model.
    """

    def __init__(
        self,
        model: PlainViT,
        train: Train = "head",
        *,
        optimizer: OptimizerName = "adamw",
        lr: float | None = None,
        weight_decay: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.9,
        layer_decay: float | None = None,
        warmup: float | None = None,
        schedule: Schedule = "cosine",
        epochs: int | None = None,
        batch_size: int | None = None,
        accumulate: int = 1,
        clip_grad: float | None = None,
        ema: float | None = None,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        loss: LossName = "cross_entropy",
        label_smoothing: float = 0.0,
        class_weight: Any = None,
        drop_rate: float | None = None,
        pos_drop_rate: float | None = None,
        patch_drop_rate: float | None = None,
        proj_drop_rate: float | None = None,
        attn_drop_rate: float | None = None,
        drop_path_rate: float | None = None,
        checkpointing: bool = False,
        memory: int | None = None,
        patience: int | None = None,
        seed: int | None = 0,
    ) -> None:
        """A trainer of a model that has a classifier and a pool.

        train: 'head'; 'pool', the attention pool, fc_norm and head; K, the last K
            blocks and what follows; 'all'; or a list of parameters' names.
        optimizer: 'adamw', 'sgd' (with momentum) or 'lars'.
        lr, weight_decay, layer_decay, warmup, epochs, batch_size: None: published
            recipes' (vitpool.train.RECIPES; warm-up in proportion to epochs). 'head' is
            MAE's linear probe (arXiv 2111.06377), 'pool' V-JEPA's attentive probe
            (2404.08471), blocks and 'all' the fine-tuning of MAE and BEiT (2106.08254).
        betas, momentum: AdamW's; SGD's and LARS's.
        layer_decay: lr is multiplied by it for each layer from the last, as in timm.
        warmup: epochs, or a part of one, of rising lr.
        schedule: of lr: 'cosine', to 0, or 'constant'.
        batch_size, accumulate: a step is of batch_size images accumulate times.
        clip_grad: the most that the gradients' common norm may be.
        ema: the decay of an average of the weights, which is then what is evaluated and
            kept.
        mixup, cutmix: alpha of timm's Mixup; 0: not done.
        loss: 'cross_entropy', 'binary_cross_entropy' or 'mse'; label_smoothing and
            class_weight (K,) as in torch.
        drop_rate, pos_drop_rate, patch_drop_rate, proj_drop_rate, attn_drop_rate,
            drop_path_rate: of dropout in what trains; None: the model's own.
        checkpointing: recompute activations block by block; memory: bytes of
            activations that a chunk of a batch may take, None: 256 MiB or, if that is
            more, twice the weights'. Gradients are added chunk by chunk, so the last
            bits follow from both.
        patience: `fit` stops after so many epochs without a better validation.
        seed: of order, mixing and dropout; None: another one each time.

        TypeError, ValueError: an argument, named, or a model that cannot train.
        """
        given = locals()
        self.model = model
        self._steps = Steps(model, train, given)
        self.history: History = []

    @property
    def part(self) -> Part:
        """What trains."""
        return self._steps.part

    @property
    def options(self) -> Options:
        """The options, with their defaults put in."""
        return self._steps.options

    # -- one step --

    def step(self, x: Any, y: Any, *, lr: float | None = None) -> float:
        """One step of the optimiser; the mean loss before it.

        x: images (B, in_chans, height, width), or what `features` gives of them. y: B
        classes, or (B, K) numbers. lr: of this step, the trainer's where None: a
        schedule is `fit`'s. The batch is cut into `accumulate` pieces.

        TrainingDiverged: a number was not finite. RuntimeError: someone else has
        changed the model since the last step, and it stays as it was changed. After
        either, and after a fit, the next step begins anew, with a fresh optimiser.
        """
        steps = self._steps
        state = steps.state or steps.begin()
        rate = self.options.lr if lr is None else as_float(lr, "lr")
        inputs = _core.as_float32(x, "x")
        images = self.part.is_images(inputs.shape, state.now._options())
        steps.check_mix(images)
        labels = steps.loss.labels(y, len(inputs))
        if not len(inputs):
            raise ValueError("x has no images: a step needs one")
        size = -(-len(inputs) // self.options.accumulate)

        def pieces() -> Iterator[tuple[Float32, bool, Labels]]:
            for first in range(0, len(inputs), size):
                some = slice(first, first + size)
                yield inputs[some], images, labels[some]

        return steps.update(pieces(), labels, rate)[0]

    # -- many --

    def features(self, images: Any) -> Float32:
        """What the frozen part makes of images: `step`, `fit` and `evaluate` take it.

        The images themselves where nothing is frozen before what trains.
        """
        return features_of(view_of(self.model._snapshot()), self.part, images)

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        validation: tuple[Any, Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_steps: int | None = None,
        progress: bool | Any = True,
        callbacks: Iterable[Callable[[Trainer, dict[str, Any]], Any]] = (),
    ) -> History:
        """Trains `epochs` epochs from the model as it is now; a row for each of them.

        x: images or features, (n, ...), an array of any float type or mapped into
        memory; or a dataset, an object with __len__ and batch(indices, epoch, seed),
        which gives such an array for an array of places, epochs counted from 0. y: n
        classes, or (n, K) numbers. Every epoch has another order; its last step may be
        a small one. An array of images goes through the frozen part once, as by
        vitpool.train.features, unless batches are mixed; a dataset's do in each epoch.

        validation: (x, y), evaluated after each epoch. The model then ends as the best
        epoch's, by accuracy, then by loss; without it as the last.

        checkpoint: a file, written at the start, after each epoch and checkpoint_steps
        steps. Where it is there the run goes on from it, and comes to the same weights
        bit for bit as one that was never stopped.

        progress: show a bar; or a bar like tqdm's, to be moved a step at a time.
        callbacks: called as callback(trainer, row) after each epoch.

        A row has 'epoch' (from 1), 'step' (steps so far), 'lr' (the last step's),
        'loss', 'accuracy' (means over the epoch's steps, as they were done),
        'val_loss', 'val_accuracy' (None without validation), 'seconds'. Losses of
        validation are without smoothing; accuracies are None for 'mse' of given
        numbers.

        ValueError: labels that do not fit or are of one class only; a checkpoint of
        another run. TrainingDiverged: a number was not finite. RuntimeError: someone
        else has changed the model, and it stays as it was changed.
        """
        steps, now = self._steps, self.model._snapshot()
        steps.look_at(now)
        data, labels = steps.checked(now, x, y, "x", "y")
        if labels.ndim == 1 and steps.loss.classes > 1 and len(np.unique(labels)) < 2:
            raise ValueError(
                f"y is of one class only, {labels[0]}: training needs two at least"
            )
        checked = None
        if validation is not None:
            if not isinstance(validation, (tuple, list)) or len(validation) != 2:
                raise TypeError("validation must be a pair (x, y)")
            checked = steps.checked(now, *validation, "validation x", "validation y")
        elif self.options.patience is not None:
            raise ValueError("patience needs validation=(x, y) to be measured by")
        every = checkpoint_steps
        every = None if every is None else as_int(every, "checkpoint_steps", 1)
        if every is not None and checkpoint is None:
            raise ValueError("checkpoint_steps needs checkpoint=, a path")
        if not (self.options.mixup or self.options.cutmix):
            data.run_frozen_once(view_of(now), steps.train)
        if checked is not None:
            checked[0].run_frozen_once(view_of(now), steps.train)
        steps.begin(now)
        one = Run(steps, data, labels, checked, checkpoint, every)
        self.history = steps.history = one.history

        def tell(row: dict[str, Any]) -> None:
            for callback in callbacks:
                callback(self, row)

        try:
            return one.go(progress, tell)
        finally:
            steps.state = None  # a later step begins anew

    def evaluate(
        self, x: Any, y: Any, *, batch_size: int | None = None
    ) -> dict[str, Any]:
        """The model's mean 'loss', without smoothing, and 'accuracy' on these.

        x, y: as in `fit`. accuracy: of classes, or of each number of binary targets;
        None for 'mse' of given numbers.
        """
        now = self.model._snapshot()
        data, labels = self._steps.checked(now, x, y, "x", "y")
        size = self.options.batch_size
        size = size if batch_size is None else as_int(batch_size, "batch_size", 1)
        return self._steps.judge(now, data, labels, size)

    # -- a file --

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what the next `step` depends on: weights, optimiser, steps done."""
        state = self._steps.state or self._steps.begin()
        state.check()
        facts = {"run": self._steps.told(state.now), "step": state.step}
        checkpoint.write(path, state.arrays(), facts)

    def load(self, path: str | os.PathLike[str]) -> None:
        """The next `step` goes on from a file of `save`; the model gets its weights.

        ValueError: of another model or other options, or no such file.
        """
        arrays, facts = checkpoint.read(path)
        now = self.model._snapshot()
        self._steps.look_at(now)
        checkpoint.refuse_other(path, facts["run"], self._steps.told(now))
        self._steps.begin(now).restore(arrays, facts["step"])
