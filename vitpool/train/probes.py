# SPDX-License-Identifier: Apache-2.0
"""Many probes in one pass: every combination of pool, lr and decay, the best kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from .. import _core
from ..config import POOLS, as_bool, as_float, as_int
from ..model import PlainViT, Pooling
from ..transforms import Transform
from .banks import AttentiveBank, Bank, LinearBank, Probe
from .history import Sums, TrainingDiverged, better
from .losses import Labels, Loss, LossName
from .optimizers import Optimizer, OptimizerName
from .options import RECIPES, Schedule, resolved
from .probe_data import TOKENS, Given, ProbeData
from .run import Bar
from .schedule import factor
from .sources import SHUFFLE, generator
from .state import MOVED
from .stored import checked_dtype

Results = list[dict[str, Any]]

#: DINOv2's grid (arXiv 2304.07193, dinov2/eval/linear.py): 13 learning rates for 256
#: images, SGD without decay, 10 epochs, cosine. Its epochs are of 1,250 steps, and it
#: tries the class token of one or four last blocks, with the mean of the patches beside
#: it or not; here pools are tried one by one, on the last block.
DINOV2: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": (
        *(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3),
        *(1e-2, 2e-2, 5e-2, 1e-1),
    ),
    "scale_lr": True,
    "weight_decay": 0.0,
    "epochs": 10,
    "batch_size": 128,
    "schedule": "cosine",
}
#: V-JEPA 2's grid (arXiv 2506.09985, vjepa2's evals): 5 learning rates and 4 decays of
#: AdamW, 20 epochs, cosine. Its probe has four blocks, this one timm's attention pool.
VJEPA2: dict[str, Any] = {
    "pool": "map",
    "optimizer": "adamw",
    "lr": (5e-3, 3e-3, 1e-3, 3e-4, 1e-4),
    "weight_decay": (0.01, 0.1, 0.4, 0.8),
    "epochs": 20,
    "schedule": "cosine",
}


class Probes:
    """Every combination of pool, learning rate and weight decay, side by side.

    All see the same batches of the same features, so that the frozen part, which takes
    most of the time, runs once. A 'map' or 'prr' probe trains an attention pool, and
    what follows it, from the model's own where it has that pool; of the other pools
    the head alone trains, and those of one pool are one product. Heads begin as N(0,
    0.01) and nought, all the same.

    results: of the last `fit`, a row for each combination. model: the model.

    >>> probes = Probes(model, pool=["avg", "token"], **vitpool.train.DINOV2)
    >>> probes.fit(images, labels, validation=(others, their_labels))[0]
    """

    def __init__(
        self,
        model: PlainViT,
        pool: str | Iterable[str] | None = None,
        *,
        lr: float | Iterable[float],
        weight_decay: float | Iterable[float] = 0.0,
        batch_norm: bool = False,
        optimizer: OptimizerName = "sgd",
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.999),
        warmup: float = 0.0,
        schedule: Schedule = "cosine",
        epochs: int = 10,
        batch_size: int = 128,
        scale_lr: bool = False,
        loss: LossName = "cross_entropy",
        label_smoothing: float = 0.0,
        class_weight: Any = None,
        seed: int | None = 0,
    ) -> None:
        """Probes of a model that has a classifier, whose number of classes they have.

        pool: one or several, the model's own where None.
        lr, weight_decay: one or several. Biases and norms do not decay.
        batch_norm: a BatchNorm1d without affine before the head (momentum 0.1, eps
            1e-6), as MAE's linear probe has it; it is folded into the head at the end.
            Not before an attention pool, which could not take it in.
        optimizer, momentum, betas, warmup, schedule, epochs, batch_size: as in Trainer.
        scale_lr: multiply each lr by batch_size / 256, as papers do.
        loss, label_smoothing, class_weight: as in Trainer.
        seed: of the heads and the order of pictures; None: another one each time.

        vitpool.train.DINOV2 and VJEPA2 are published grids, for **.
        TypeError, ValueError: an argument, named, or a model that cannot train.
        """
        self.model = model
        self._pools = _pools(pool, model.global_pool)
        linear = [name for name in self._pools if name not in ("map", "prr")]
        if linear:
            Pooling(model, linear)  # asks the model whether it can
        rates = _numbers(lr, "lr")
        if 0.0 in rates:
            raise ValueError("lr must be above 0")
        self._grid = list(
            itertools.product(rates, _numbers(weight_decay, "weight_decay"))
        )
        self._batch_norm = as_bool(batch_norm, "batch_norm")
        options = {
            **dict.fromkeys(("clip_grad", "ema", "patience", "layer_decay")),
            **{"lr": 0.0, "weight_decay": 0.0, "accumulate": 1},
            **{"mixup": 0.0, "cutmix": 0.0, "checkpointing": False, "memory": 1},
            **{"optimizer": optimizer, "momentum": momentum, "betas": betas},
            **{"warmup": warmup, "schedule": schedule, "epochs": epochs},
            **{"batch_size": batch_size, "seed": seed},
        }
        self.options = resolved(RECIPES["head"], options)
        if as_bool(scale_lr, "scale_lr"):
            scale = self.options.batch_size / 256
            self._grid = [(rate * scale, decay) for rate, decay in self._grid]
        self._loss_options = (loss, label_smoothing, class_weight)
        self._loss_of(model._snapshot())
        self.results: Results = []

    def __len__(self) -> int:
        return len(self._pools) * len(self._grid)

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        validation: tuple[Any, Any] | None = None,
        transform: Transform | None = None,
        num_workers: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        dtype: str = "float32",
        memory: int = 2**30,
        progress: Any = False,
    ) -> Results:
        """Trains all, keeps the best in the model, and gives a row for each.

        x: pictures, images or a dataset, as `features` takes them, and then transform,
        num_workers, on_error, dtype and memory are as there; or tokens (n, N, C) of
        forward_features; or vectors (n, C) of the model's own pool, on which the head
        alone trains. y: n classes, or (n, K) numbers. validation: (x, y), evaluated at
        the end. It says which is the best, by accuracy and then by loss; only a single
        combination goes without.

        A row has 'pool', 'lr', 'weight_decay'; 'loss' and 'accuracy', means over the
        last epoch's steps as they were done; 'val_loss' and 'val_accuracy' of the
        finished probe; 'diverged', the step at which something was not finite, or None;
        and 'best'. Probes that diverge end there, and the others go on.

        The model gets the best one's pool, attention pool and head by one exchange, and
        then gives its outputs. With batch_norm a last batch of one picture is left out
        of its epoch, as such a batch has no variance.

        ValueError: labels that do not fit or are of one class only, or no validation.
        TrainingDiverged: all did; the model is as it was. RuntimeError: someone else
        has changed the model meanwhile, and it stays as it was changed.
        """
        start = self.model._snapshot()
        loss = self._loss_of(start)
        if validation is None and len(self) > 1:
            raise ValueError(
                f"validation=(x, y) is missing, by which the best of {len(self)} "
                "probes is chosen"
            )
        if validation is not None and (
            not isinstance(validation, (tuple, list)) or len(validation) != 2
        ):
            raise TypeError("validation must be a pair (x, y)")
        reading = {
            "transform": transform,
            "num_workers": num_workers,
            "on_error": on_error,
            "batch_size": self.options.batch_size,
            "memory": as_int(memory, "memory"),
            "dtype": checked_dtype(dtype),
            "progress": bool(progress),
        }
        given = [Given(self.model, x, "x", reading)]
        checked = [loss.labels(y, len(given[0]))]
        _refuse_one_class(checked[0], loss)
        if validation is not None:
            given.append(Given(self.model, validation[0], "validation x", reading))
            checked.append(loss.labels(validation[1], len(given[1]), "validation y"))
        linear, attentive = self._split(given)
        banks = self._banks(start, linear, attentive)
        data = [one.data(linear, bool(attentive)) for one in given]
        labels = [y[d.indices] for y, d in zip(checked, data, strict=True)]
        if self.model._serial != start._serial:
            raise RuntimeError(MOVED)
        steps = self._train(banks, data[0], labels[0], loss, progress)
        judged = (
            None
            if validation is None
            else self._evaluate(banks, data[1], labels[1], loss)
        )
        self.results = self._results(banks, judged, steps)
        self._keep(banks, start)
        return self.results

    # -- before --

    def _loss_of(self, now: _core.VisionTransformer) -> Loss:
        options = now._options()
        if options["num_classes"] < 1:
            raise ValueError(
                "the model has no classifier (num_classes 0): "
                "reset_classifier(num_classes) makes one"
            )
        name, smoothing, weight = self._loss_options
        return Loss(name, options["num_classes"], smoothing, weight)

    def _split(self, given: Sequence[Given]) -> tuple[list[str], list[str]]:
        """Pools whose head alone trains, and attention pools that train."""
        attentive = [pool for pool in self._pools if pool in ("map", "prr")]
        if given[0].pooled != given[-1].pooled:
            raise ValueError("x and validation x must both be vectors, or neither")
        if given[0].pooled:
            own = self.model.global_pool
            if self._pools != [own]:
                raise ValueError(
                    f"x are vectors of one pool, the model's {own!r}, and the probes' "
                    f"are {self._pools}: give tokens, as features(model, images, "
                    "train='pool') has them for 'map', or pictures"
                )
            attentive = []
        if attentive and self._batch_norm:
            raise ValueError(
                f"batch_norm is for pools without parameters, not {attentive[0]!r}: "
                "behind an attention pool that trains it cannot be folded into a head"
            )
        return [pool for pool in self._pools if pool not in attentive], attentive

    def _banks(
        self,
        now: _core.VisionTransformer,
        linear: Sequence[str],
        attentive: Sequence[str],
    ) -> list[tuple[str, Bank]]:
        """Each with the key of its rows."""
        o = self.options
        make = partial(Optimizer, o.optimizer, betas=o.betas, momentum=o.momentum)
        banks: list[tuple[str, Bank]] = []
        for pool in self._pools:
            if pool in linear:
                norm = self._batch_norm
                wide = LinearBank(now, pool, self._grid, make, norm, o.seed)
                banks.append((pool, wide))
                continue
            for lr, decay in self._grid:
                one = AttentiveBank(now, pool, lr, decay, make, o.seed)
                banks.append((TOKENS, one))
        return banks

    # -- training --

    def _train(
        self,
        banks: Sequence[tuple[str, Bank]],
        data: ProbeData,
        labels: Labels,
        loss: Loss,
        progress: Any,
    ) -> int:
        """All epochs; gives the number of steps."""
        o, probes = self.options, _probes(banks)
        steps = -(-len(data) // o.batch_size)
        total, warmup = steps * o.epochs, round(o.warmup * steps)
        if self._batch_norm and len(data) < 2:
            raise ValueError(
                "batch_norm needs two pictures at least: one has no variance"
            )
        with Bar(progress, total, 0) as bar:
            for step in range(total):
                epoch, place = divmod(step, steps)
                if place == 0:
                    order = generator(o.seed, SHUFFLE, epoch).permutation(len(data))
                    for probe in probes:
                        probe.sums = Sums()
                places = order[place * o.batch_size : (place + 1) * o.batch_size]
                if not (self._batch_norm and len(places) == 1):
                    share = factor(step, total, warmup, o.schedule)
                    rows = {key: data.batch(key, places) for key in dict(banks)}
                    for key, bank in banks:
                        bank.step(rows[key], labels[places], loss, share, step + 1)
                going = [p.sums for p in probes if p.diverged is None]
                if not going:
                    break
                bar.tell(epoch, o.epochs, min(going, key=lambda sums: sums.mean))
        return total

    # -- the best --

    def _evaluate(
        self,
        banks: Sequence[tuple[str, Bank]],
        data: ProbeData,
        labels: Labels,
        loss: Loss,
    ) -> list[Sums]:
        """Each probe's loss and hits on what is held out."""
        sums = [Sums() for _ in _probes(banks)]
        judges = [(key, bank.judge()) for key, bank in banks]
        size = self.options.batch_size
        for first in range(0, len(data), size):
            places = np.arange(first, min(first + size, len(data)))
            own = labels[places]
            rows = {key: data.batch(key, places) for key, _ in judges}
            found = [logits for key, judge in judges for logits in judge(rows[key])]
            for index, logits in enumerate(found):
                share = loss.share(own)
                value = loss.total(logits, own) / share
                sums[index] = sums[index].add(value, share, loss.hits(logits, own))
        return sums

    def _results(
        self, banks: Sequence[tuple[str, Bank]], judged: list[Sums] | None, steps: int
    ) -> Results:
        """A row for each probe; the best's says so."""
        rows: Results = []
        for index, probe in enumerate(_probes(banks)):
            found = Sums() if judged is None else judged[index]
            if (
                probe.diverged is None
                and not np.isfinite(
                    [found.loss, *(_core.squares(w) for w in probe.weights.values())]
                ).all()
            ):
                probe.end(steps)  # the last step went too far, and none came after
            good = probe.diverged is None
            rows.append(
                {
                    "pool": probe.pool,
                    "lr": probe.lr,
                    "weight_decay": probe.weight_decay,
                    "loss": probe.sums.mean if good else None,
                    "accuracy": probe.sums.accuracy if good else None,
                    "val_loss": found.mean if good and judged else None,
                    "val_accuracy": found.accuracy if good and judged else None,
                    "diverged": probe.diverged,
                    "best": False,
                }
            )
        best: dict[str, Any] | None = None
        for row in rows:
            if row["diverged"] is None and (judged is None or better(row, best)):
                best = row
        if best is None:
            last = max(rows, key=lambda row: row["diverged"])
            what = "no probe's loss stayed finite, the last one's"
            raise TrainingDiverged(what, last["diverged"], last["lr"], [])
        best["best"] = True
        return rows

    def _keep(
        self, banks: Sequence[tuple[str, Bank]], start: _core.VisionTransformer
    ) -> None:
        """Gives the model the best probe's pool and weights."""
        places = [(bank, i) for _, bank in banks for i in range(len(bank.probes))]
        index = next(i for i, row in enumerate(self.results) if row["best"])
        bank, place = places[index]
        pool, weights = self.results[index]["pool"], bank.finished(place)
        classes = start._options()["num_classes"]

        def put(after: _core.VisionTransformer) -> None:
            if after._serial != start._serial:
                raise RuntimeError(MOVED)
            after.reset_classifier(
                classes, pool, add_attn_pool="attn_pool.latent" in weights
            )
            after._replace(None, weights)

        self.model._change(put, fresh=("head",))


def _probes(banks: Iterable[tuple[str, Bank]]) -> list[Probe]:
    return [probe for _, bank in banks for probe in bank.probes]


def _pools(given: Any, own: str) -> list[Any]:
    names = given.split(",") if isinstance(given, str) else given
    names = [own] if names is None else [str(name).strip() for name in names]
    known = [pool for pool in POOLS if pool]
    for name in names:
        if name not in known:
            raise ValueError(f"pool: {name!r}, allowed are {', '.join(known)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"pool: {names}, allowed are one or more, each once")
    return names


def _numbers(given: Any, what: str) -> list[float]:
    """One number or several, from 0, each once."""
    several = hasattr(given, "__iter__") and not isinstance(given, str)
    numbers = [as_float(value, what) for value in (given if several else [given])]
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"{what} must be one number or several, each once: {numbers}")
    if min(numbers) < 0:
        raise ValueError(f"{what} must be at least 0, not {min(numbers):g}")
    return numbers


def _refuse_one_class(labels: Labels, loss: Loss) -> None:
    if labels.ndim == 1 and loss.classes > 1 and len(np.unique(labels)) < 2:
        raise ValueError(
            f"y is of one class only, {labels[0]}: training needs two at least"
        )
