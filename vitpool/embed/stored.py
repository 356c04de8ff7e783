# SPDX-License-Identifier: Apache-2.0
"""Vectors read back from the files of a run, as arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..model import Embeddings, Float32
from ..text import natural_key
from .embedder import difference
from .parts import count_rows, numbers_in, part_path, read_meta, read_part
from .rows import need_pyarrow


@dataclass(frozen=True, repr=False, eq=False)
class Stored(Embeddings):
    """What `load` gives: vectors of the pictures that could be read, and their paths.

    As the answer of `model.embed`, with `vectors` (N, C), or a pool's in `pools`;
    `indices` has each row's place among all rows in the files, `errors` the reasons of
    those without a vector, by theirs. meta: what made them: `run` (options, pools and
    transform by value, the weights by a digest), `source` (the model's name and
    options), `versions`.
    """

    meta: dict[str, Any]

    @property
    def paths(self) -> list[str]:
        """Each row's picture."""
        return self.sources


class Folder(NamedTuple):
    """The files of one run, in order, and what made them."""

    path: Path
    files: list[Path]
    sizes: dict[str, int]  # the width of each pool's vectors
    meta: dict[str, Any]

    def pool(self, pool: str | None) -> str:
        """The pool that is meant; ValueError where it is not one of these."""
        if pool is None and len(self.sizes) == 1:
            return next(iter(self.sizes))
        if pool not in self.sizes:
            there = ", ".join(self.sizes)
            if pool is None:
                raise ValueError(f"pool: {self.path} has several ({there}); say which")
            raise ValueError(f"pool: {pool!r}, allowed of {self.path} are {there}")
        return pool


def open_folder(folder: str | os.PathLike[str]) -> Folder:
    """Look at the files of a run, of this machine's engine or of Ray's.

    FileNotFoundError where there is no folder; ValueError where it has no embeddings,
    other Parquet files, or those of several runs.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    need_pyarrow()
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no folder of embeddings there")
    told = path.absolute().with_name(path.absolute().name + ".ray") / "run.json"
    if told.exists() and not any(path.glob("part-*.parquet")):
        meta = json.loads(told.read_text(encoding="utf-8"))
        files = sorted(path.glob("*.parquet"), key=lambda file: natural_key(file.name))
        metas = [meta] * len(files)
    else:
        files = [part_path(path, number) for number in numbers_in(path)]
        metas = [read_meta(file) for file in files]
    if not files:
        raise ValueError(f"{path}: no embeddings in it")
    for file, meta in zip(files, metas, strict=True):
        if meta["run"] != metas[0]["run"]:
            other = difference(meta["run"], metas[0]["run"])
            raise ValueError(
                f"{file}: {other or 'of another run'} than {files[0].name}; embeddings "
                "of two runs cannot be compared"
            )
    sizes = {
        field.name: field.type.list_size
        for field in pq.read_schema(files[0])
        if pa.types.is_fixed_size_list(field.type)
    }
    return Folder(path, files, sizes, metas[0])


class Rows(NamedTuple):
    """A file's rows: all paths and reasons, and vectors of those that have some."""

    paths: list[str]
    errors: dict[int, str]
    good: NDArray[np.int64]  # a place in paths for each vector
    vectors: dict[str, Float32]


def rows_of(folder: Folder, pools: Iterable[str]) -> Iterator[Rows]:
    """The rows, file by file: one is in memory. ValueError for a broken one."""
    import pyarrow as pa

    for file in folder.files:
        columns = ["path", "error", *pools]
        try:
            table = read_part(file, columns)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file}: cannot be read ({error})") from error
        if table.column_names != columns:
            raise ValueError(f"{file}: its columns are {', '.join(table.column_names)}")
        failed = np.asarray(table["error"].is_valid())
        good, bad = np.flatnonzero(~failed), np.flatnonzero(failed).tolist()
        errors = dict(zip(bad, table["error"].drop_null().to_pylist(), strict=True))
        vectors = {}
        for pool in pools:
            # without the nulls: no Python object a number, nor one a row
            flat = table[pool].drop_null().combine_chunks().flatten().to_numpy()
            vectors[pool] = flat.reshape(-1, folder.sizes[pool])
            if len(vectors[pool]) != len(good):
                raise ValueError(f"{file}: has rows with neither a vector nor a reason")
        yield Rows(table["path"].to_pylist(), errors, good, vectors)


def load(
    folder: str | os.PathLike[str], pool: str | Iterable[str] | None = None
) -> Stored:
    """Read the vectors that `embed_images` wrote: `load("vectors").vectors` is (N, C).

    pool: one, 'map,avg' or a list; default all. Rows without a vector are left out:
    `errors` has their reasons. Memory is that of the vectors that are asked for, and a
    file's more.

    FileNotFoundError: no such folder. ValueError: a folder without embeddings, with
    other Parquet files or with those of several runs, and a pool that is not there.
    """
    found = open_folder(folder)
    if isinstance(pool, str):
        pool = [name.strip() for name in pool.split(",")]
    names = list(found.sizes) if pool is None else [found.pool(name) for name in pool]
    most = sum(count_rows(file) for file in found.files)
    pools = {name: np.empty((most, found.sizes[name]), np.float32) for name in names}
    indices = np.empty(most, np.int64)
    sources: list[str] = []
    errors: dict[int, str] = {}
    done = 0
    for rows in rows_of(found, names):
        here = slice(len(sources), len(sources) + len(rows.good))
        for name in names:
            pools[name][here] = rows.vectors[name]
        indices[here] = done + rows.good
        sources += [rows.paths[row] for row in rows.good]
        for row, reason in rows.errors.items():
            errors[done + row] = f"{rows.paths[row]}: {reason}"
        done += len(rows.paths)
    pools = {name: vectors[: len(sources)] for name, vectors in pools.items()}
    return Stored(pools, sources, indices[: len(sources)], errors, found.meta)
