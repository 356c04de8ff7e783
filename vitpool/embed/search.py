# SPDX-License-Identifier: Apache-2.0
"""The pictures of a run that are nearest to others, by the cosine of their vectors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config import as_bool, as_int
from ..model import Float32
from ..registry import create_model
from ..transforms import Transform, create_transform
from .embedder import Embedder, difference
from .index import nearly
from .stored import Folder, open_folder, rows_of


class Match(NamedTuple):
    """A picture that was found, and the cosine of the angle to what was asked: to 1."""

    path: str
    score: float


class Found(NamedTuple):
    """What is nearest to a picture, the nearest first."""

    query: str
    matches: list[Match]


def search(
    vectors: str | os.PathLike[str],
    images: Any,
    k: int = 10,
    *,
    pool: str | None = None,
    model: Any = None,
    transform: Transform | None = None,
    errors: Literal["raise", "skip"] = "raise",
    index: bool = False,
) -> list[Found]:
    """The k pictures nearest to each of some pictures, of those embedded in a folder.

    vectors: a folder that `embed_images` wrote, here or on Ray. images: as
    `model.embed` takes them; one that is in the folder finds itself. pool: which
    vectors, where the folder has several. model, transform: default those that the
    files name, made again with their weights, from the hub or a folder. errors: what a
    picture of `images` that cannot be read does: raise ImageError, or be left out with
    an ImageWarning.

    The search is exact, and reads the folder file by file: memory is that of one file.
    Pictures of the same score come in the order of the rows. With index it goes through
    an index (USearch's HNSW, extra `search`), which is built beside the files, again
    where those have changed: that takes a while, and pays where many searches of many
    vectors follow. Such a search may now and then miss one of the nearest.

    ImportError: index without usearch. ValueError: a folder as `load` refuses, a pool
    that is not there, and a model or transform that is not the one behind the vectors,
    with what differs.
    """
    folder = open_folder(vectors)
    k, pool, index = as_int(k, "k", 1), folder.pool(pool), as_bool(index, "index")
    model = model if model is not None else rebuild(folder)
    transform = transform or _transform(folder)
    now = Embedder(model, list(folder.sizes)).identity(transform)
    other = difference(folder.meta["run"], now)
    if other:
        raise ValueError(
            f"{folder.path}: {other} than are here; a search needs the model and the "
            "transform of the vectors"
        )
    asked = model.embed(images, pool, transform=transform, errors=errors)
    queries = directions(asked.vectors)
    paths: list[str] = []

    def blocks() -> Iterator[Float32]:
        for rows in rows_of(folder, [pool]):
            paths.extend(rows.paths[row] for row in rows.good)
            yield directions(rows.vectors[pool])

    near: Sequence[Any]  # indices and scores, a row a query
    if index:
        paths, *near = nearly(folder, pool, blocks(), queries, k)
    else:
        near = nearest(blocks(), queries, k)
    return [
        Found(query, [Match(paths[i], float(s)) for i, s in zip(*row, strict=True)])
        for query, *row in zip(asked.sources, *near, strict=True)
    ]


def nearest(
    blocks: Iterable[Float32], queries: Float32, k: int
) -> tuple[NDArray[np.int64], Float32]:
    """The k nearest rows to each query: indices and scores, (Q, k) each.

    blocks: the rows, some at a time; there may be fewer than k. Rows and queries are of
    length 1, or 0.
    """
    indices = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    done = 0
    for rows in blocks:
        here = np.arange(done, done + len(rows))
        done += len(rows)
        indices = np.hstack([indices, np.broadcast_to(here, (len(queries), len(rows)))])
        scores = np.hstack([scores, queries @ rows.T])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        indices = np.take_along_axis(indices, best, 1)
        scores = np.take_along_axis(scores, best, 1)
    return indices, scores


def directions(rows: Float32) -> Float32:
    """Rows of length 1; a row of zeros has no direction, and stays so."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def rebuild(folder: Folder) -> Any:
    """The model that the files name; ValueError where they name none."""
    source = folder.meta.get("source") or {}
    if not source.get("name"):
        raise ValueError(
            f"{folder.path}: does not say what its model is called; give the model"
        )
    dtype = source.get("dtype", "float32")  # before vitpool had others
    return create_model(source["name"], True, dtype=dtype, **source["options"])


def _transform(folder: Folder) -> Transform:
    told = dict(folder.meta["run"]["transform"])
    if told.pop("class") != "Transform":
        raise ValueError(f"{folder.path}: made with a transform of your own; give it")
    return create_transform(**told)
