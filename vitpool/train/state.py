# SPDX-License-Identifier: Apache-2.0
"""What training changes: weights, the optimiser's arrays, the model's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import _core
from ..model import Float32, PlainViT
from ..model.parts import exchange
from .optimizers import Optimizer, groups_of
from .options import Options
from .parts import Part

MOVED = (
    "the model was changed during training (reset_classifier, load_state_dict, ...), "
    "and is left as it was changed; a new Trainer, or fit again, begins from there"
)


class State:
    """Row-major copies of what trains, and snapshots of the model.

    now: the state that the model has. before: the one of a step earlier, until the loss
    of now is known. weights, average: arrays by name; average is None without ema.
    step: steps done.
    """

    def __init__(
        self,
        model: PlainViT,
        now: _core.VisionTransformer,
        part: Part,
        options: Options,
    ) -> None:
        self._model = model
        self.now = now
        self.before: _core.VisionTransformer | None = None
        self.weights = arrays_of(self.now, part)
        self.gradients = {name: np.zeros_like(w) for name, w in self.weights.items()}
        self._decay = options.ema
        self.average: dict[str, Float32] | None = None
        if options.ema is not None:
            self.average = {name: w.copy() for name, w in self.weights.items()}
        self.optimizer = Optimizer(
            options.optimizer,
            groups_of(model, part.names, options.layer_decay),
            {name: w.shape for name, w in self.weights.items()},
            weight_decay=options.weight_decay,
            betas=options.betas,
            momentum=options.momentum,
        )
        self.step = 0

    def check(self) -> None:
        """RuntimeError: someone else has changed the model."""
        if self._model._serial != self.now._serial:
            raise RuntimeError(MOVED)

    def follow(self) -> None:
        """Moves the average by one step."""
        if self.average is not None and self._decay is not None:
            for name, mean in self.average.items():
                mean += np.float32(1 - self._decay) * (self.weights[name] - mean)

    def commit(self) -> None:
        """Makes the weights the model's; what is frozen is shared."""
        self.before = None  # a third copy of what trains, and now is a good state
        self.put(self.with_weights(self.weights))

    def put(self, after: _core.VisionTransformer) -> None:
        """Makes `after` the model's state, unless another thread has changed it."""
        with exchange:
            if not self._model._commit(self.now, after):
                raise RuntimeError(MOVED)
        self.before, self.now = self.now, after

    def take_back(self) -> None:
        """Gives the model the state of a step earlier, if there is one."""
        if self.before is not None:
            self.put(self.before)

    def with_weights(self, weights: Mapping[str, Float32]) -> _core.VisionTransformer:
        """A snapshot like the model's with these weights."""
        after = self.now._snapshot()
        after._replace(None, weights)
        return after

    def judged(self) -> _core.VisionTransformer:
        """The state to evaluate and to keep: the average's, or the model's."""
        return self.now if self.average is None else self.with_weights(self.average)

    # -- as arrays, for a file --

    def arrays(self) -> dict[str, Float32]:
        """Everything by a key of its own."""
        found = {f"weights/{name}": w for name, w in self.weights.items()}
        for kind, states in self.optimizer.states.items():
            found |= {f"{kind}/{name}": s for name, s in states.items()}
        if self.average is not None:
            found |= {f"average/{name}": w for name, w in self.average.items()}
        return found

    def restore(self, arrays: Mapping[str, Float32], step: int) -> None:
        """Takes what `arrays` gave, and gives the model the weights."""
        mine = self.arrays()
        for key, array in mine.items():
            if key not in arrays or arrays[key].shape != array.shape:
                raise ValueError(f"the checkpoint lacks {key!r} of shape {array.shape}")
        for key, array in mine.items():
            np.copyto(array, arrays[key])
        self.step = step
        self.commit()
        self.before = None


def arrays_of(now: _core.VisionTransformer, part: Part) -> dict[str, Float32]:
    """Copies of what trains, by name."""
    arrays: dict[str, Any] = {}
    for name in part.names:
        arrays[name] = now.get_parameter(name)
        arrays[name].flags.writeable = True
    return arrays
