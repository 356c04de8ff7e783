# SPDX-License-Identifier: Apache-2.0
"""What trains, batch by batch, and the streams of random numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..model import Float32, PlainViT
from .features import features
from .parts import Part
from .stored import Features

Indices = NDArray[np.int64]

# What a stream of random numbers is for.
SHUFFLE, MIX, DROP = range(3)


def generator(seed: int, *place: int) -> np.random.Generator:
    """The stream of this seed and this place of a run; others' do not move it."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *place))))


def bits(seed: int, *place: int) -> int:
    """64 bits of this seed and this place of a run."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1, np.uint64)[0])


class Source:
    """An array (n, ...), or a dataset: __len__ and batch(indices, epoch, seed).

    part, options: what takes the batches, and the core's options of the model. A
    dataset's batches are looked at as they come, an array's shape at once.
    """

    def __init__(
        self, x: Any, part: Part, options: Mapping[str, Any], seed: int, what: str = "x"
    ) -> None:
        self._part, self._options, self._seed, self._what = part, options, seed, what
        self._dataset = hasattr(x, "batch") and hasattr(x, "__len__")
        if not self._dataset:
            if not isinstance(x, np.ndarray):
                x = _core.as_float32(x, what)
            _core.as_float32(
                x[:1], what
            )  # its dtype; rows are converted batch by batch
        if isinstance(x, Features) and (x.entry, x.block) != (part.entry, part.block):
            # Tokens of another place have the same shape.
            raise ValueError(f"{what} must be {part.place}, not {x!r}")
        self._shape = None
        if not self._dataset or isinstance(x, Features):
            part.is_images(x.shape, options)
            self._shape = list(x.shape[1:])
        self._x = x
        self._frozen: tuple[PlainViT, Any] | None = None
        if not len(self):
            raise ValueError(f"{what} is empty")

    def run_frozen_once(self, model: PlainViT, train: Any) -> None:
        """From now on an array of images is the features that model makes of them.

        That is done when the first batch is asked for. A dataset's images may be others
        in each epoch, and stay images.
        """
        if self._part.entry != "images" and self.shape and len(self.shape) == 3:
            self._frozen = model, train

    def __len__(self) -> int:
        return len(self._x)

    @property
    def shape(self) -> list[int] | None:
        """Of one image or feature; None: a dataset, which does not say it."""
        return self._shape

    def batch(self, indices: Indices, epoch: int) -> tuple[Float32, bool]:
        """The inputs of these places, float32, and whether they are images."""
        if self._frozen is not None:
            model, train = self._frozen
            self._x, self._frozen = features(model, self._x, train=train), None
        given = (
            self._x.batch(indices, epoch, self._seed)
            if self._dataset
            else self._x[indices]
        )
        inputs = _core.as_float32(given, self._what)
        if len(inputs) != len(indices):
            raise ValueError(
                f"{self._what}.batch gave {len(inputs)} inputs for {len(indices)} "
                "indices"
            )
        return inputs, self._part.is_images(inputs.shape, self._options)
