# SPDX-License-Identifier: Apache-2.0
"""Pictures through a model: classes, labels, probabilities and vectors of many.

What opens pictures is imported when the first one comes: a model alone needs no Pillow.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from ..config import as_int
from ..text import some
from .answers import Class, Classification, Classifications, Embeddings
from .constructor import Constructed
from .parts import Float32
from .pooling import Pooling

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Unpack

    from ..transforms import Transform


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


class Pictures(Constructed):
    """The part of a model that takes pictures."""

    def preprocess(self, images: Any, **kwargs: Any) -> Float32:
        """Pictures to a batch (B, in_chans, height, width) for this model.

        images: paths, bytes, open files, PIL images, uint8 arrays, or a folder. See
        vitpool.transforms.preprocess.
        """
        from ..transforms import preprocess

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
        from .reading import Reader, best, classifier, probable

        topk = as_int(topk, "topk", 1)
        model, labels = classifier(self)
        _warn_of_random(model.untrained())
        found: list[Classification] = []
        with Reader(
            model, images, transform, batch_size, num_workers, progress, errors
        ) as reader:
            for batch in reader:
                values = probable(model, batch)
                tops = iter(
                    tuple(Class(labels[i], float(row[i]), i) for i in order)
                    for row, order in zip(
                        values, best(values, topk).tolist(), strict=True
                    )
                )
                for index in reader.kept(batch):
                    error = batch.errors.get(index)
                    top = next(tops) if error is None else ()
                    name = reader.name(batch, index)
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
        from .reading import Reader, best, classifier, probable

        model, labels = classifier(self)
        _warn_of_random(model.untrained())
        found: list[str | None] = []
        with Reader(
            model, images, transform, batch_size, num_workers, progress, errors
        ) as reader:
            for batch in reader:
                first = iter(best(probable(model, batch), 1)[:, 0].tolist())
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
        from .reading import Reader, classifier, probable

        model, _ = classifier(self)
        _warn_of_random(model.untrained())
        rows = [np.empty((0, model.num_classes), np.float32)]
        with Reader(
            model, images, transform, batch_size, num_workers, progress, errors
        ) as reader:
            for batch in reader:
                rows.append(reader.rows(batch, probable(model, batch)))
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
        return vectors_of(
            pooling, images, transform, batch_size, num_workers, progress, errors
        )


def vectors_of(
    pooling: Pooling,
    images: Any,
    transform: Transform | None,
    batch_size: int,
    num_workers: int | None,
    progress: bool,
    errors: str,
) -> Embeddings:
    """What `embed` gives, without a word of weights that are random."""
    from .reading import Reader

    parts = {p: [np.empty((0, d), np.float32)] for p, d in pooling.sizes.items()}
    sources: list[str] = []
    indices: list[int] = []
    with Reader(
        pooling.model, images, transform, batch_size, num_workers, progress, errors
    ) as reader:
        for batch in reader:
            for name, vectors in pooling(batch.inputs).items():
                parts[name].append(reader.rows(batch, vectors))
            for index in reader.kept(batch):
                sources.append(reader.name(batch, index))
                indices.append(reader.done + index)
    return Embeddings(
        {name: np.concatenate(rows) for name, rows in parts.items()},
        sources,
        np.array(indices, np.int64),
        reader.errors,
    )


def _warn_of_random(names: list[str]) -> None:
    if names:
        warnings.warn(
            f"{some(names)}: random numbers, neither loaded nor set; what they make of "
            "a picture means nothing",
            UntrainedWarning,
            stacklevel=3,
        )
