# SPDX-License-Identifier: Apache-2.0
"""Rows of pictures and vectors as Arrow tables (pyarrow, extra `parquet`)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..transforms import Batch
from .embedder import Embedder

if TYPE_CHECKING:
    import pyarrow


def need_pyarrow() -> None:
    """ImportError where pyarrow is missing or too old, with what to install."""
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            "embeddings need pyarrow: pip install 'pyarrow>=26'"
        ) from error
    if int(pyarrow.__version__.partition(".")[0]) < 26:
        # 17 to 24 cannot write a null in a column of fixed-size lists to Parquet, 25
        # cannot read it again
        raise ImportError(
            "embeddings need pyarrow 26 or later (so Python 3.11), for null vectors "
            f"in Parquet; found {pyarrow.__version__}"
        )


# The size of a picture's file and when it was written, in ns since 1970; None where the
# file is not there. What has another stamp is taken for another picture.
Stamp: TypeAlias = tuple[int, int] | None

_LATEST = 2**63 - 1  # in the year 2262; file systems have later ones


def stamp_of(path: str) -> Stamp:
    """The stamp of a file."""
    try:
        told = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name that no file has
        return None
    return told.st_size, min(told.st_mtime_ns, _LATEST)


def schema(sizes: dict[str, int]) -> pyarrow.Schema:
    """The columns: path, a vector for each pool, error, and the file's stamp.

    That is its size in bytes and its mtime, ns since 1970, as they were before it was
    read.
    """
    import pyarrow as pa

    vectors = [(pool, pa.list_(pa.float32(), size)) for pool, size in sizes.items()]
    # no timestamp: its nanoseconds cannot become Python's, so to_pylist() would fail
    stamp = [("size", pa.int64()), ("mtime", pa.int64())]
    return pa.schema([("path", pa.string()), *vectors, ("error", pa.string()), *stamp])


def table(
    paths: Sequence[str],
    vectors: dict[str, NDArray[np.float32]],
    good: Sequence[int],
    errors: dict[int, str],
    stamps: Sequence[Stamp] = (),
) -> pyarrow.Table:
    """Rows in the order of paths; vectors[pool] has a row for each index in good.

    stamps: what `stamp_of` gave for each path before it was read; default none.
    """
    import pyarrow as pa

    missing = np.ones(len(paths), bool)
    missing[list(good)] = False
    columns: list[Any] = [pa.array([text(p) for p in paths], pa.string())]
    for rows in vectors.values():
        full = np.zeros((len(paths), rows.shape[1]), np.float32)
        full[list(good)] = rows
        columns.append(
            pa.FixedSizeListArray.from_arrays(
                pa.array(full.ravel()), rows.shape[1], mask=pa.array(missing)
            )
        )
    reasons = [text(errors[i]) if i in errors else None for i in range(len(paths))]
    columns.append(pa.array(reasons, pa.string()))
    for place in (0, 1):
        column = [stamp and stamp[place] for stamp in stamps or [None] * len(paths)]
        columns.append(pa.array(column, pa.int64()))
    sizes = {pool: rows.shape[1] for pool, rows in vectors.items()}
    return pa.Table.from_arrays(columns, schema=schema(sizes))


def text(path: str) -> str:
    """A path as text that Parquet can hold: names need not be UTF-8 on Linux."""
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a character that no name has
        raw = path.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


class Rows:
    """Rows that wait until their part is whole: at most a part and a batch of them."""

    def __init__(self, embedder: Embedder) -> None:
        self.sizes, self.count = embedder.sizes, 0
        self.rows: deque[tuple[str, dict[str, Any] | None, str | None]] = deque()

    def add(self, batch: Batch, vectors: dict[str, NDArray[np.float32]]) -> None:
        """Take in a batch and the vectors of those of it that could be read."""
        place = {index: row for row, index in enumerate(batch.good)}
        for index, source in enumerate(batch.sources):
            row = place.get(index)
            own = None if row is None else {p: v[row] for p, v in vectors.items()}
            self.rows.append((source, own, batch.errors.get(index)))
        self.count += len(batch.sources)

    def take(self, stamps: Sequence[Stamp]) -> pyarrow.Table:
        """The first rows as a table: one for each stamp."""
        count = len(stamps)
        taken = [self.rows.popleft() for _ in range(count)]
        self.count -= count
        good = [i for i, row in enumerate(taken) if row[1] is not None]
        errors = {i: row[2] for i, row in enumerate(taken) if row[2] is not None}
        vectors = {
            pool: np.array([taken[i][1][pool] for i in good], np.float32).reshape(  # type: ignore[index]
                len(good), size
            )
            for pool, size in self.sizes.items()
        }
        return table([row[0] for row in taken], vectors, good, errors, stamps)
