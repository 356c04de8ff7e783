# SPDX-License-Identifier: Apache-2.0
"""Part files: what is in one, whether it is whole and right, how it is written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from .embedder import difference, versions

if TYPE_CHECKING:
    import pyarrow

_META = b"vitpool"
_NAME = re.compile(r"part-(\d{6,})\.parquet")


class Part(NamedTuple):
    """A part file: its name, how many rows it has, which of them are to be made."""

    path: Path
    rows: int
    todo: list[int]
    meta: dict[str, Any]


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


def _read_meta(path: Path) -> dict[str, Any]:
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


def plan(path: Path, first: int, paths: Sequence[str], run: dict[str, Any]) -> Part:
    """A part of these pictures, the first of which is picture number `first`.

    Of a part that is there the rows that failed are to be made again, and those that
    were added to its pictures since. Raises ValueError where it holds other pictures,
    or was made by another run.
    """
    import pyarrow.parquet as pq

    meta = {"run": run, "rows": len(paths), "paths": digest_of(paths)}
    if not path.exists():
        return Part(path, len(paths), list(range(len(paths))), meta)
    there = _read_meta(path)
    other = difference(there["run"], run)
    if other:
        raise ValueError(f"{path}: {other}; give another -o, or delete the old parts")
    rows = there["rows"]
    if rows > len(paths) or there["paths"] != digest_of(paths[:rows]):
        last = first + max(rows, len(paths)) - 1
        raise ValueError(
            f"{path}: holds other pictures than are now numbers {first} to {last}; "
            "give another -o, or delete the old parts"
        )
    todo: list[int] = []
    if there["failed"]:
        error = pq.read_table(path, columns=["error"])["error"]
        todo = [
            row for row, failed in enumerate(error.is_valid().to_pylist()) if failed
        ]
    return Part(path, len(paths), [*todo, *range(rows, len(paths))], meta)


def digest_of(paths: Iterable[str]) -> str:
    """A text that tells one list of paths from another."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(path.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


# What a file system says that has no locks: NFS without them, Lustre without -o flock,
# some of FUSE's.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run at a time in a folder; the lock dies with the process.

    Where the file system has no locks, a warning says so and the run goes on.
    """
    import fcntl

    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: another run is writing there") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise OSError(error.errno, error.strerror, file.name) from error
            warnings.warn(
                f"{folder}: no locks there ({error.strerror}); make sure that no "
                "other run writes into it",
                RuntimeWarning,
                stacklevel=4,
            )
        yield


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name once it is whole, and on the disk."""
    hidden = path.with_name(f".{path.name}.tmp")
    with open(hidden, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(hidden, path)


def remove_stale(folder: Path) -> None:
    """Delete what `replacing` was writing when a run was killed."""
    for path in folder.glob(".*.parquet.tmp"):
        path.unlink()


def write_part(part: Part, made: pyarrow.Table) -> None:
    """Write a part: the rows that were to be made, among those that are there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    whole = made
    if part.path.exists():
        old = pq.read_table(part.path).select(made.column_names)
        order = np.arange(part.rows)
        order[part.todo] = len(old) + np.arange(len(made))
        whole = pa.concat_tables([old, made]).take(pa.array(order)).combine_chunks()
        if whole.equals(old):  # what failed has failed again
            return
    failed = part.rows - whole["error"].null_count
    meta = {**part.meta, "failed": failed, "versions": versions()}
    whole = whole.replace_schema_metadata({_META: json.dumps(meta).encode()})
    with replacing(part.path) as file:
        # vectors neither repeat nor compress
        pq.write_table(whole, file, use_dictionary=["error"])
