# SPDX-License-Identifier: Apache-2.0
"""Pictures through a model: classes, labels, probabilities and vectors of many."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, TypedDict, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..config import as_int
from ..labels import Labels, best, labels_for, probabilities
from ..text import some
from ..transforms import (
    Batch,
    ImageWarning,
    Transform,
    create_transform,
    image_name,
    preprocess,
    resolve_data_config,
    sources_of,
    stream,
)
from .answers import Class, Classification, Classifications, Embeddings
from .copying import Copying
from .parts import Float32
from .pooling import Pooling

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack


class UntrainedWarning(UserWarning):
    """Pictures went through weights that were drawn, and not loaded or set since."""


Errors: TypeAlias = Literal["raise", "skip", "nan"]


class _Options(TypedDict, total=False):
    """The keywords of `classify`, for its overloads."""

    transform: Transform | None
    batch_size: int
    num_workers: int | None
    progress: bool
    errors: Errors


class Pictures(Copying):
    """The part of VisionTransformer that takes pictures."""

    def preprocess(self, images: Any, **kwargs: Any) -> Float32:
        """Pictures to a batch (B, in_chans, height, width) for this model.

        images: paths, bytes, open files, PIL images, uint8 arrays, or a folder. See
        vitpool.transforms.preprocess.
        """
        batch: Float32 = preprocess(images, self, **kwargs)
        return batch

    @overload
    def classify(
        self,
        images: bytes | bytearray | memoryview | BinaryIO | Image.Image,
        topk: int = ...,
        **options: Unpack[_Options],
    ) -> Classification: ...
    @overload
    def classify(
        self,
        images: list[Any] | tuple[Any, ...] | Iterator[Any],
        topk: int = ...,
        **options: Unpack[_Options],
    ) -> Classifications: ...
    @overload
    def classify(
        self, images: Any, topk: int = ..., **options: Unpack[_Options]
    ) -> Any: ...
    def classify(
        self,
        images: Any,
        topk: int = 5,
        *,
        transform: Transform | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        progress: bool = False,
        errors: Errors = "raise",
    ) -> Any:
        """The topk most probable classes of pictures, with labels and probabilities.

        images: one picture, for one `Classification`; or a folder, a pattern or many
        pictures, for a list of them (see vitpool.transforms.sources_of). Labels are
        those of pretrained_cfg, else ImageNet's by the number of classes, else numbers.

        The other arguments are those of `embed`. With errors="nan" a picture that
        cannot be read has no classes, and its reason in `error`; one picture alone is
        never left out. ValueError: the model has no classifier. An UntrainedWarning
        says which weights are random, as those of a head that `reset_classifier` made.
        """
        topk = as_int(topk, "topk", 1)
        model, labels = _classifier(self)
        _warn_of_random(model.untrained())
        found: list[Classification] = []
        with _Reader(
            model, images, transform, batch_size, num_workers, progress, errors
        ) as reader:
            for batch in reader:
                values = _probabilities(model, batch)
                tops = iter(
                    tuple(Class(labels[i], float(row[i]), i) for i in order)
                    for row, order in zip(
                        values, best(values, topk).tolist(), strict=True
                    )
                )
                for index in reader.kept(batch):
                    error = batch.errors.get(index)
                    top = next(tops) if error is None else ()
                    name = image_name(batch.sources[index])
                    found.append(Classification(name, top, error))
        return found[0] if reader.one else Classifications(found, reader.errors)

    def predict(
        self,
        images: Any,
        *,
        transform: Transform | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        progress: bool = False,
        errors: Errors = "raise",
    ) -> NDArray[Any]:
        """The most probable label of each picture, (N,), as scikit-learn's predict.

        images: as in `classify`; one picture is a list of one. Labels are text, as
        `classify` has it. Two classes may have the same, as ImageNet's cranes:
        `predict_proba(images).argmax(1)` has their numbers.

        The other arguments are those of `embed`. With errors="nan" the array is one of
        objects, and has None for a picture that cannot be read.
        """
        model, labels = _classifier(self)
        _warn_of_random(model.untrained())
        found: list[str | None] = []
        with _Reader(
            model, images, transform, batch_size, num_workers, progress, errors
        ) as reader:
            for batch in reader:
                first = iter(best(_probabilities(model, batch), 1)[:, 0].tolist())
                for index in reader.kept(batch):
                    bad = index in batch.errors
                    found.append(None if bad else labels[next(first)])
        return np.array(found, object if errors == "nan" else str)

    def predict_proba(
        self,
        images: Any,
        *,
        transform: Transform | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        progress: bool = False,
        errors: Errors = "raise",
    ) -> Float32:
        """The probability of every class for each picture, (N, K) float32.

        images: as in `classify`; one picture is a list of one. The other arguments are
        those of `embed`; with errors="nan" a picture that cannot be read is a row of
        NaN.
        """
        model, _ = _classifier(self)
        _warn_of_random(model.untrained())
        rows = [np.empty((0, model.num_classes), np.float32)]
        with _Reader(
            model, images, transform, batch_size, num_workers, progress, errors
        ) as reader:
            for batch in reader:
                rows.append(reader.rows(batch, _probabilities(model, batch)))
        return np.concatenate(rows)

    def embed(
        self,
        images: Any,
        pool: str | Iterable[str] | None = None,
        *,
        transform: Transform | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        progress: bool = False,
        errors: Errors = "raise",
    ) -> Embeddings:
        """Vectors of pictures: `model.embed("photos").vectors` is (N, C) float32.

        images: a folder, a pattern, many pictures or one (see
        vitpool.transforms.sources_of). They are read as they are needed, batch_size at
        once and two batches ahead: memory grows with the vectors, not the pictures.
        pool: 'map', 'map,avg' or a list: pools to take, all from one pass; default the
        model's own. transform: default the model's. num_workers: decoding threads,
        default the processors, at most 8. progress: show a bar.

        errors: of pictures that cannot be read, "raise" raises at the first, "skip"
        leaves them out, and "nan" keeps their rows, of NaN. With the last two an
        ImageWarning says which, and the answer has the reasons in `errors`.

        The vectors are bit for bit those of `vitpool embed`, whatever the batches.
        ValueError: a pool that the model cannot have.
        """
        pooling = Pooling(self, pool)
        _warn_of_random(pooling.untrained())
        parts = {p: [np.empty((0, d), np.float32)] for p, d in pooling.sizes.items()}
        sources: list[str] = []
        indices: list[int] = []
        with _Reader(
            pooling.model, images, transform, batch_size, num_workers, progress, errors
        ) as reader:
            for batch in reader:
                for name, vectors in pooling(batch.inputs).items():
                    parts[name].append(reader.rows(batch, vectors))
                for index in reader.kept(batch):
                    sources.append(image_name(batch.sources[index]))
                    indices.append(reader.done + index)
        return Embeddings(
            {name: np.concatenate(rows) for name, rows in parts.items()},
            sources,
            np.array(indices, np.int64),
            reader.errors,
        )


def _classifier(model: Pictures) -> tuple[Any, Labels]:
    """The model as it is now, and its labels; ValueError where it has no classifier."""
    now = copy.copy(model)
    if now.num_classes < 1 or now.global_pool == "":
        raise ValueError(
            f"the model has no classifier (num_classes {now.num_classes}, pool "
            f"{now.global_pool!r}): embed() gives its features"
        )
    return now, labels_for(now.pretrained_cfg, now.num_classes)


def _warn_of_random(names: list[str]) -> None:
    if names:
        warnings.warn(
            f"{some(names)}: random numbers, neither loaded nor set; what they make of "
            "a picture means nothing",
            UntrainedWarning,
            stacklevel=3,
        )


def _probabilities(model: Any, batch: Batch) -> Float32:
    """(pictures that could be read, K)."""
    return probabilities(model(batch.inputs))


class _Reader:
    """Batches of pictures for a model, what failed, and which rows an answer has."""

    def __init__(
        self,
        model: Any,
        images: Any,
        transform: Transform | None,
        batch_size: int,
        num_workers: int | None,
        progress: bool,
        errors: Errors,
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
                name = image_name(batch.sources[index])
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
            warnings.warn(
                f"{len(self.errors)} of {self.done} pictures could not be read and "
                f"{'have no values' if self._gaps else 'are left out'}: "
                f"{some(self.errors.values())}",
                ImageWarning,
                stacklevel=3,
            )

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
