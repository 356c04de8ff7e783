# SPDX-License-Identifier: Apache-2.0
"""Part files: what is in one, whether it is whole and right, how it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..files import replacing
from .rows import Stamp

if TYPE_CHECKING:
    import pyarrow

_META = b"vitpool"
_NAME = re.compile(r"part-(\d{6,})\.parquet")


class Part(NamedTuple):
    """Rows of a part file that are on their way: their places in it, their stamps."""

    path: Path
    places: Sequence[int]  # those past the end of what is there are added
    stamps: list[Stamp]


def part_path(folder: Path, number: int) -> Path:
    """The name of a part."""
    return folder / f"part-{number:06d}.parquet"


def numbers_in(folder: Path) -> list[int]:
    """The numbers of the parts in a folder; ValueError for any other Parquet file."""
    numbers = []
    for path in folder.glob("*.parquet"):
        found = _NAME.fullmatch(path.name)
        if found is None:
            raise ValueError(
                f"{folder}: {path.name} there is no part of ours; give another -o"
            )
        numbers.append(int(found[1]))
    return sorted(numbers)


def read_meta(path: Path) -> dict[str, Any]:
    """What a part says of itself; ValueError for any other file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        raw = (pq.read_schema(path).metadata or {}).get(_META)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from error
    if raw is None:
        raise ValueError(f"{path}: not written by vitpool embed; give another -o")
    meta: dict[str, Any] = json.loads(raw)
    return meta


def remove_stale(folder: Path) -> None:
    """Delete what `replacing` was writing when a run was killed."""
    for path in folder.glob(".*.parquet.tmp"):
        path.unlink()


def write_part(part: Part, made: pyarrow.Table, meta: Mapping[str, Any]) -> None:
    """Write a part: the rows that were made, among those that are there.

    meta: its run, and what else is to be said of what made it.
    """
    import pyarrow as pa

    whole = made
    if part.path.exists():
        old = read_part(part.path).select(made.column_names)
        order = np.arange(max(len(old), part.places[-1] + 1))
        order[part.places] = len(old) + np.arange(len(made))
        whole = pa.concat_tables([old, made]).take(pa.array(order)).combine_chunks()
        if whole.equals(old):  # what failed has failed again
            return
    replace_part(part.path, whole, meta)


def replace_part(path: Path, table: pyarrow.Table, meta: Mapping[str, Any]) -> None:
    """Write a part, in place of what is there."""
    import pyarrow.parquet as pq

    rows, good = len(table), table["error"].null_count
    meta = {**meta, "rows": rows, "failed": rows - good}
    table = table.replace_schema_metadata({_META: json.dumps(meta).encode()})
    with replacing(path) as file:
        # vectors neither repeat nor compress
        pq.write_table(table, file, use_dictionary=["error"])


def read_part(path: Path, columns: list[str] | None = None) -> pyarrow.Table:
    """The rows of a part."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(path).read(columns)
    return table.replace_schema_metadata(None)


def count_rows(path: Path) -> int:
    """How many rows a part has."""
    import pyarrow.parquet as pq

    rows: int = pq.read_metadata(path).num_rows
    return rows
