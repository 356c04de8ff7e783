# SPDX-License-Identifier: Apache-2.0
"""Pictures on their way through a model: batches, a bar, and those that fail."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..labels import Labels, best, labels_for, probabilities
from ..text import printable, some, warn_user
from ..transforms import (
    Batch,
    ImageWarning,
    Transform,
    create_transform,
    image_name,
    resolve_data_config,
    sources_of,
    stream,
)
from .parts import Float32

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Reader", "best", "classifier", "probable"]


def classifier(model: Any) -> tuple[Any, Labels]:
    """The model as it is now, and its labels; ValueError where it has no classifier."""
    now = copy.copy(model)
    if now.num_classes < 1 or now.global_pool == "":
        raise ValueError(
            f"the model has no classifier (num_classes {now.num_classes}, pool "
            f"{now.global_pool!r}): embed() gives its features"
        )
    return now, labels_for(now.pretrained_cfg, now.num_classes)


def probable(model: Any, batch: Batch) -> Float32:
    """The classes' probabilities of those that could be read, (their number, K)."""
    return probabilities(model(batch.inputs))


class Reader:
    """Batches of pictures for a model, what failed, and which rows an answer has."""

    def __init__(
        self,
        model: Any,
        images: Any,
        transform: Transform | None,
        batch_size: int,
        num_workers: int | None,
        progress: bool,
        errors: str,
    ) -> None:
        if errors not in ("raise", "skip", "nan"):
            raise ValueError(f"errors: {errors!r}, allowed are 'raise', 'skip', 'nan'")
        pictures, self.one = sources_of(images)
        if progress and isinstance(images, (str, os.PathLike)):
            pictures = list(pictures)  # names, to know how many
        self._gaps = errors == "nan" or (errors == "skip" and self.one)
        self._total = len(pictures) if isinstance(pictures, list) else None
        self._progress = progress
        self._bar: Any = None
        self._batches = stream(
            pictures,
            transform or create_transform(**resolve_data_config(model)),
            batch_size=batch_size,
            num_workers=num_workers,
            strict=errors == "raise",
        )
        self.done = 0  # pictures before the batch at hand
        self.errors: dict[int, str] = {}  # name and reason, by the place in the whole

    def __enter__(self) -> Self:
        if self._progress:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=self._total, unit="picture")
        return self

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            for index, reason in batch.errors.items():
                name = self.name(batch, index)
                self.errors[self.done + index] = f"{name}: {reason}"
            yield batch
            self.done += len(batch.sources)
            if self._bar is not None:
                self._bar.update(len(batch.sources))

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._batches.close()  # an interrupt, too, leaves no thread and no bar
        if self._bar is not None:
            self._bar.close()
        if self.errors and kind is None:
            text = (
                f"{len(self.errors)} of {self.done} pictures could not be read and "
                f"{'have no values' if self._gaps else 'are left out'}: "
                f"{printable(some(self.errors.values()))}"
            )
            warn_user(ImageWarning(text))

    def name(self, batch: Batch, index: int) -> str:
        """A picture's path, or what it is."""
        return image_name(batch.sources[index])

    def kept(self, batch: Batch) -> Iterable[int]:
        """Which of a batch's pictures the answer has a row for."""
        return range(len(batch.sources)) if self._gaps else batch.good

    def rows(self, batch: Batch, good: Float32) -> Float32:
        """The rows of those that could be read, to one for each that is kept."""
        if not (self._gaps and batch.errors):
            return good
        full = np.full((len(batch.sources), *good.shape[1:]), np.nan, np.float32)
        full[batch.good] = good
        return full
