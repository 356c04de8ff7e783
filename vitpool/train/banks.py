# SPDX-License-Identifier: Apache-2.0
"""Probes that train side by side on the same batches.

Linear ones of one pool are the groups of one wide head: one product for all. Of those
with an attention pool each is a model of its own, which shares what is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .. import _core
from ..model import Float32
from .batch_norm import BatchNorm
from .gradients import view_of
from .history import Sums
from .losses import Labels, Loss
from .optimizers import Optimizer, groups_of
from .parts import logits_of, part_of
from .sources import generator
from .state import arrays_of

# Optimizer with its name and betas or momentum put in.
MakeOptimizer = Callable[..., Optimizer]

_INIT = 3  # a stream of random numbers beside those of sources.py


@dataclass
class Probe:
    """One combination: its options, its weights, and how it does."""

    pool: str
    lr: float
    weight_decay: float
    weights: dict[str, Float32]
    optimizer: Optimizer
    sums: Sums = field(default_factory=Sums)
    diverged: int | None = None  # in this step, from 1

    def update(
        self, gradients: dict[str, Float32], loss: float, share: float, step: int
    ) -> None:
        """A step of the optimiser with lr * share; or its end, where it diverges.

        share: of the schedule. step: from 1.
        """
        squares = [_core.squares(g) for g in gradients.values()]
        if np.isfinite([loss, *squares]).all():
            self.optimizer.step(self.weights, gradients, self.lr * share, step)
        else:
            self.end(step)

    def end(self, step: int) -> None:
        """Notes that it has diverged; what is not finite is slow, and of no use."""
        self.diverged = step
        for array in self.weights.values():
            array[...] = 0


class Bank(Protocol):
    """Some probes on one kind of input."""

    probes: list[Probe]

    def step(
        self, inputs: Float32, labels: Labels, loss: Loss, share: float, step: int
    ) -> None:
        """One step of all; adds its loss and hits to their sums."""
        ...

    def judge(self) -> Callable[[Float32], list[Float32]]:
        """Inputs to each probe's logits (B, K), as the finished model gives them."""
        ...

    def finished(self, index: int) -> dict[str, Float32]:
        """The model's parameters that make it this probe."""
        ...


class LinearBank:
    """Heads on pooled features (B, C), all of one pool."""

    def __init__(
        self,
        now: _core.VisionTransformer,
        pool: Any,
        grid: Sequence[tuple[float, float]],
        make: MakeOptimizer,
        batch_norm: bool,
        seed: int,
    ) -> None:
        options = now._options()
        classes, width = options["num_classes"], options["embed_dim"]
        self._now = now._snapshot()
        self._now.reset_classifier(len(grid) * classes, pool)
        self._norm = BatchNorm(width) if batch_norm else None
        weight, bias = fresh_head(classes, width, seed)
        self._weights = {
            "head.weight": np.tile(weight, (len(grid), 1)),
            "head.bias": np.tile(bias, len(grid)),
        }
        self._gradients = {n: np.zeros_like(w) for n, w in self._weights.items()}
        self._slices = [slice(i * classes, (i + 1) * classes) for i in range(len(grid))]
        groups = groups_of(view_of(self._now), self._weights)
        self.probes = []
        for place, (lr, weight_decay) in zip(self._slices, grid, strict=True):
            weights = {name: w[place] for name, w in self._weights.items()}
            own = make(groups, shapes_of(weights), weight_decay=weight_decay)
            self.probes.append(Probe(pool, lr, weight_decay, weights, own))

    def step(
        self, inputs: Float32, labels: Labels, loss: Loss, share: float, step: int
    ) -> None:
        """See Bank."""
        if self._norm is not None:
            inputs = self._norm.train(inputs)
        for gradient in self._gradients.values():
            gradient[...] = 0
        losses, logits = self._with(self._weights)._gradients(
            np.ascontiguousarray(inputs),
            loss.targets(loss.soft(labels)),
            self._gradients,
            entry="pre_logits",
            loss=loss.name,
            weights=loss.weights,
            scale=1 / loss.share(labels),
            groups=len(self.probes),
        )
        for i, probe in enumerate(self.probes):
            if probe.diverged is None:
                place = self._slices[i]
                own = {name: g[place] for name, g in self._gradients.items()}
                note(probe, float(losses[i]), logits[:, place], labels, loss)
                probe.update(own, float(losses[i]), share, step)

    def judge(self) -> Callable[[Float32], list[Float32]]:
        """See Bank."""
        whole = [self.finished(i) for i in range(len(self.probes))]
        view = view_of(
            self._with({n: np.concatenate([one[n] for one in whole]) for n in whole[0]})
        )

        def logits(inputs: Float32) -> list[Float32]:
            wide = np.asarray(view.head(inputs))
            return [wide[:, place] for place in self._slices]

        return logits

    def finished(self, index: int) -> dict[str, Float32]:
        """See Bank."""
        weights = self.probes[index].weights
        if self._norm is None:
            return weights
        folded = self._norm.folded(weights["head.weight"], weights["head.bias"])
        return dict(zip(("head.weight", "head.bias"), folded, strict=True))

    def _with(self, weights: dict[str, Float32]) -> _core.VisionTransformer:
        self._now._replace(None, weights)
        return self._now


class AttentiveBank:
    """One attention pool with what follows it, on tokens (B, N, C)."""

    def __init__(
        self,
        now: _core.VisionTransformer,
        pool: Any,
        lr: float,
        weight_decay: float,
        make: MakeOptimizer,
        seed: int,
    ) -> None:
        options = now._options()
        classes, width = options["num_classes"], options["embed_dim"]
        self._now = now._snapshot()
        self._now.reset_classifier(classes, pool, add_attn_pool=True, seed=seed)
        self._part = part_of(self._now, "pool")
        weights = arrays_of(self._now, self._part)
        weights["head.weight"], weights["head.bias"] = fresh_head(classes, width, seed)
        self._gradients = {name: np.zeros_like(w) for name, w in weights.items()}
        groups = groups_of(view_of(self._now), self._part.names)
        own = make(groups, shapes_of(weights), weight_decay=weight_decay)
        self.probes = [Probe(pool, lr, weight_decay, weights, own)]

    def step(
        self, inputs: Float32, labels: Labels, loss: Loss, share: float, step: int
    ) -> None:
        """See Bank."""
        (probe,) = self.probes
        if probe.diverged is not None:
            return
        for gradient in self._gradients.values():
            gradient[...] = 0
        self._now._replace(None, probe.weights)
        losses, logits = self._now._gradients(
            np.ascontiguousarray(inputs),
            loss.targets(loss.soft(labels)),
            self._gradients,
            entry=self._part.entry,
            loss=loss.name,
            weights=loss.weights,
            scale=1 / loss.share(labels),
        )
        note(probe, float(losses[0]), logits, labels, loss)
        probe.update(self._gradients, float(losses[0]), share, step)

    def judge(self) -> Callable[[Float32], list[Float32]]:
        """See Bank."""
        self._now._replace(None, self.probes[0].weights)
        view = view_of(self._now)
        return lambda inputs: [logits_of(view, self._part, inputs)]

    def finished(self, index: int) -> dict[str, Float32]:
        """See Bank."""
        return self.probes[index].weights


def shapes_of(weights: dict[str, Float32]) -> dict[str, tuple[int, ...]]:
    """The shape of each array."""
    return {name: array.shape for name, array in weights.items()}


def note(
    probe: Probe, value: float, logits: Float32, labels: Labels, loss: Loss
) -> None:
    """Adds a step's loss and hits to a probe's sums of the epoch."""
    hits = loss.hits(logits, labels)
    probe.sums = probe.sums.add(value, loss.share(labels), hits)


def fresh_head(classes: int, width: int, seed: int) -> tuple[Float32, Float32]:
    """(K, C) of N(0, 0.01) and (K,) of nought, as DINOv2's and MAE's probes begin."""
    draw = generator(seed, _INIT).standard_normal((classes, width), np.float32)
    return draw * np.float32(0.01), np.zeros(classes, np.float32)
