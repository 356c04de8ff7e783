# SPDX-License-Identifier: Apache-2.0
"""Pictures to features in scikit-learn's pipelines (extra `sklearn`).

>>> from sklearn.linear_model import LogisticRegression
>>> from sklearn.pipeline import make_pipeline
>>> from vitpool.sklearn import ViTFeatures
>>> pipeline = make_pipeline(ViTFeatures("vit_digits"), LogisticRegression())
>>> pipeline.fit(paths, labels).predict(others)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils import check_array
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise ImportError(
        "vitpool.sklearn needs scikit-learn: pip install 'vitpool[sklearn]'"
    ) from error

from .config import as_int
from .model import PlainViT, Pooling, UntrainedWarning
from .model.pictures import vectors_of
from .registry import create_model
from .text import some

if TYPE_CHECKING:
    from typing_extensions import Self

    from .model import Float32

__all__ = ["ViTFeatures"]


class ViTFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Pooled features of pictures, (n, D) float32: a transformer for a Pipeline.

    X: paths, PIL images, bytes or uint8 arrays in a list, an array or a column of a
    table; uint8 (n, H, W, C); or floats (n, in_chans, height, width), normalised, as
    the model takes them. Pictures go through the model's own transform.

    model: one of vitpool's classes, or a name, a folder or a file for
    `create_model(model, pretrained=True)`. pool: as in `model.embed`, None for the
    model's own; of several ('map,avg', or a list) the features stand side by side.
    batch_size, num_workers, progress: as in `model.embed`. errors: 'raise' at the first
    picture that cannot be read, or 'nan' for a row of NaN.

    fit opens the model: nothing is learned, and no picture and no label is used.
    Attributes: pooling_, the model without its head and its pools; n_features_in_, the
    numbers of one picture, where X was an array of them. A pickle holds the weights.
    `Pipeline(memory=...)` keeps the features; a model that is given by its name is told
    from others by that name alone.

    TypeError, ValueError: what is no picture, floats that are not finite, or a model or
    pool that cannot be had; as `create_model` and `embed` say it.
    """

    def __init__(
        self,
        model: PlainViT | str | os.PathLike[str] = "vit_digits",
        *,
        pool: str | Iterable[str] | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        progress: bool = False,
        errors: str = "raise",
    ) -> None:
        self.model = model
        self.pool = pool
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.progress = progress
        self.errors = errors

    def fit(self, X: Any, y: Any = None) -> Self:
        """Opens the model; X and y teach it nothing."""
        if self.errors not in ("raise", "nan"):
            raise ValueError(f"errors: {self.errors!r}, allowed are 'raise', 'nan'")
        as_int(self.batch_size, "batch_size", 1)
        array = _as_array(X)
        pooling = Pooling(_opened(self.model), self.pool)
        random = pooling.untrained()
        if random:
            warnings.warn(
                f"{some(random)}: random numbers, neither loaded nor set",
                UntrainedWarning,
                stacklevel=2,
            )
        self.pooling_ = pooling
        if array is not None:
            self.n_features_in_ = int(np.prod(array.shape[1:]))
        elif hasattr(self, "n_features_in_"):
            del self.n_features_in_
        return self

    def transform(self, X: Any) -> Float32:
        """Features (n, D) of pictures X."""
        check_is_fitted(self)
        array = _as_array(X)
        pools = self.pooling_.pools
        if array is None or array.dtype == np.uint8:
            # No embed() with its warning ignored: fit has said it, and filters are the
            # process's, which two threads at once would leave changed.
            found = vectors_of(
                self.pooling_,
                X,
                None,
                self.batch_size,
                self.num_workers,
                self.progress,
                self.errors,
            ).pools
            return np.concatenate([found[pool] for pool in pools], 1)
        rows = [
            self.pooling_(array[first : first + self.batch_size])
            for first in range(0, len(array), self.batch_size)
        ]
        return np.concatenate(
            [np.concatenate([row[pool] for row in rows]) for pool in pools], 1
        )

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """'avg0', 'avg1', ...: pool and place. input_features: not used."""
        check_is_fitted(self)
        sizes = self.pooling_.sizes
        names = [f"{pool}{i}" for pool, size in sizes.items() for i in range(size)]
        return np.array(names, object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # a row of numbers is no picture
        tags.input_tags.one_d_array = True  # of paths
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _opened(model: Any) -> PlainViT:
    if isinstance(model, PlainViT):
        return model
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            "model must be a VisionTransformer or of another of vitpool's classes, "
            "or a name or path of one, "
            f"not {type(model).__name__}"
        )
    name = os.fspath(model)
    if os.path.isdir(name):
        name = f"local-dir:{os.path.abspath(name)}"
    return create_model(name, pretrained=True)


def _as_array(X: Any) -> NDArray[Any] | None:
    """X as an array of numbers, uint8 or float32; None where it is none of numbers."""
    if getattr(X, "ndim", None) is None or getattr(X, "dtype", None) is None:
        return None
    if getattr(X.dtype, "kind", "f") not in "fiub":
        return None
    if X.ndim != 4:
        raise ValueError(
            f"X has shape {tuple(X.shape)}: pictures are uint8 (n, H, W, C), or "
            "floats (n, in_chans, height, width) as the model takes them"
        )
    if X.dtype == np.uint8:
        return np.asarray(X)
    if X.dtype.kind != "f":
        raise TypeError(
            f"X is of {X.dtype}: pixels are uint8, and what is normalised is floats"
        )
    array: Float32 = check_array(X, dtype=np.float32, allow_nd=True)
    return array
