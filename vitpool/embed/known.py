# SPDX-License-Identifier: Apache-2.0
"""The rows that are there already, found by path."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .embedder import difference
from .parts import numbers_in, part_path, read_meta, read_part, replace_part
from .rows import Stamp

# What is known of a row without reading its vectors: -1 where there is no stamp.
_ROW = np.dtype(
    [("key", np.uint64), ("size", np.int64), ("mtime", np.int64), ("failed", bool)]
)


class Known:
    """The rows in the parts of a folder, found by their paths; some 40 bytes each.

    A row's number counts through all parts. Raises ValueError where a part was made by
    another run, or a Parquet file is no part.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        self.folder, self.numbers = folder, numbers_in(folder)
        read = [_stamps_in(part_path(folder, number), run) for number in self.numbers]
        whole = np.concatenate([np.empty(0, _ROW), *read])
        self.starts = np.cumsum([0, *map(len, read)])
        self.rows = whole
        self._order = np.argsort(whole["key"], kind="stable")
        self._keys = whole["key"][self._order]
        self._found = np.zeros(len(whole), np.int64)  # by a key's first place in _keys
        self.listed = np.zeros(len(whole), bool)

    def find(self, path: str) -> int | None:
        """The row of a picture that is listed; of one listed twice first the first."""
        key = _key(path)
        first = int(np.searchsorted(self._keys, key))
        if first == len(self._keys):
            return None
        place = first + int(self._found[first])
        if place == len(self._keys) or self._keys[place] != key:
            return None
        self._found[first] += 1
        row = int(self._order[place])
        self.listed[row] = True
        return row

    def failed(self, row: int) -> bool:
        """Has it no vector?"""
        return bool(self.rows["failed"][row])

    def is_of(self, row: int, stamp: Stamp) -> bool:
        """Is the row's picture the one that has this stamp?"""
        return stamp == (int(self.rows["size"][row]), int(self.rows["mtime"][row]))

    def room(self, part_size: int) -> Iterator[tuple[Path, int, int]]:
        """Where rows can be added: a part, the first place, how many.

        Parts that are missing come first, then the end of the last one, then new ones.
        """
        last, there = max(self.numbers, default=-1), set(self.numbers)
        for number in range(last):
            if number not in there:
                yield part_path(self.folder, number), 0, part_size
        if last >= 0:
            rows = int(self.starts[-1] - self.starts[-2])
            if rows < part_size:
                yield part_path(self.folder, last), rows, part_size - rows
        for number in itertools.count(last + 1):
            yield part_path(self.folder, number), 0, part_size

    def by_part(
        self, rows: Iterable[int]
    ) -> Iterator[tuple[Path, list[int], list[int]]]:
        """Rows in ascending order, as parts, the rows in each, their places in it."""
        after = functools.partial(np.searchsorted, self.starts, side="right")
        for number, group in itertools.groupby(rows, key=after):
            first, here = int(self.starts[number - 1]), list(group)
            path = part_path(self.folder, self.numbers[number - 1])
            yield path, here, [row - first for row in here]

    def unlisted(self) -> list[int]:
        """The rows that were not found."""
        rows: list[int] = np.flatnonzero(~self.listed).tolist()
        return rows

    def delete(self, rows: Iterable[int], meta: Mapping[str, Any]) -> None:
        """Delete rows, in ascending order; a part that has no others goes too."""
        import pyarrow as pa

        for path, _, places in self.by_part(rows):
            table = read_part(path)
            kept = np.ones(len(table), bool)
            kept[places] = False
            if kept.any():
                replace_part(path, table.filter(pa.array(kept)), meta)
            else:
                path.unlink()


def _key(path: str) -> np.uint64:
    raw = path.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(raw, digest_size=8).digest()
    return np.frombuffer(digest, np.uint64)[0]


def _stamps_in(path: Path, run: Mapping[str, Any]) -> NDArray[np.void]:
    """A part's rows, as `_ROW`; ValueError where it is none of this run's."""
    other = difference(read_meta(path)["run"], run)
    if other:
        raise ValueError(f"{path}: {other}; give another -o, or delete the old parts")
    table = read_part(path, ["path", "error", "size", "mtime"])
    rows = np.empty(len(table), _ROW)
    rows["key"] = [_key(name) for name in table["path"].to_pylist()]
    for name in ("size", "mtime"):
        rows[name] = table[name].fill_null(-1)
    rows["failed"] = table["error"].is_valid()
    return rows
