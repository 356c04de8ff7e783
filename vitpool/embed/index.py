# SPDX-License-Identifier: Apache-2.0
"""An index of a folder's vectors, for many searches in many vectors (extra `search`).

It lies beside the files, as `_index-POOL-STATE.usearch`; its name tells the state of
the files that it was made of, so that one of others is never taken for it. Readers of a
folder of Parquet files leave out what begins so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import sync
from ..model import Float32
from .stored import Folder, rows_of


def nearly(
    folder: Folder, pool: str, blocks: Iterable[Float32], queries: Float32, k: int
) -> tuple[list[str], list[NDArray[np.int64]], list[Float32]]:
    """The k nearest rows to each query, nearly always, and without reading all rows.

    The index is built where there is none of the folder as it is now: for that alone
    blocks, the rows some at a time, are read. Rows and queries are of length 1, or 0.
    ImportError without usearch; ValueError where the folder is written to meanwhile.

    Gives the paths of all rows, and each query's indices and scores.
    """
    try:
        from usearch.index import Index
    except ImportError as error:
        raise ImportError("an index needs usearch: pip install usearch") from error
    state = _state(folder)
    path = folder.path / f"_index-{pool}-{state}.usearch"
    if not path.exists():
        index = Index(ndim=folder.sizes[pool], metric="ip", dtype="f32")
        for rows in blocks:
            index.add(np.arange(len(index), len(index) + len(rows)), rows)
        _save(index, path)
        for old in path.parent.glob(f"_index-{pool}-*.usearch"):
            if old != path:
                old.unlink()
    index = Index.restore(path, view=True)  # mapped: what a search visits is read
    found = [index.search(query, k) for query in queries]
    indices = [one.keys.astype(np.int64) for one in found]
    scores = [1 - one.distances for one in found]
    paths = [rows.paths[row] for rows in rows_of(folder, []) for row in rows.good]
    if _state(folder) != state:
        raise ValueError(f"{folder.path}: written to during the search; search again")
    return paths, indices, scores


def _state(folder: Folder) -> str:
    """A text that changes with any file that is written, added or taken away."""
    digest = hashlib.blake2b(digest_size=8)
    for file in folder.files:
        told = file.stat()
        digest.update(f"{file.name} {told.st_size} {told.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _save(index: Any, path: Path) -> None:
    hidden = path.with_name(f".{path.name}.tmp")
    try:
        index.save(hidden)
        sync(hidden)
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
