# SPDX-License-Identifier: Apache-2.0
"""Part files: what is in one, whether it is whole and right, how it is written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow

_META = b"vitpool"


class Part(NamedTuple):
    """A part file: its number and name, its first row, its pictures, its metadata."""

    number: int
    path: Path
    first: int
    paths: list[str]
    meta: dict[str, Any]


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


def metadata_of(part: Part) -> dict[str, Any] | None:
    """The metadata of a part that is there and right; None where it must be made."""
    if not part.path.exists():
        return None
    meta = _read_meta(part.path)
    if meta["run"] != part.meta["run"]:
        differ = [k for k, v in part.meta["run"].items() if meta["run"].get(k) != v]
        raise ValueError(
            f"{part.path}: made with other {', '.join(differ) or 'options'}; give "
            "another -o, or delete the old parts"
        )
    if meta["paths"] == part.meta["paths"]:
        return meta
    # the last part of an earlier, shorter list is made again with what was added
    if meta["rows"] < len(part.paths) and meta["paths"] == digest_of(
        part.paths[: meta["rows"]]
    ):
        return None
    last = part.first + max(meta["rows"], len(part.paths)) - 1
    raise ValueError(
        f"{part.path}: holds other pictures than are now numbers {part.first} to "
        f"{last}; give another -o, or delete the old parts"
    )


def digest_of(paths: Iterable[str]) -> str:
    """A text that tells one list of paths from another."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(path.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run at a time in a folder; the lock dies with the process."""
    import fcntl

    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"{folder}: another run is writing there") from error
        yield


def write_part(part: Part, rows: pyarrow.Table) -> None:
    """Write a part so that under its own name it is either whole or not there."""
    import pyarrow.parquet as pq

    rows = rows.replace_schema_metadata({_META: json.dumps(part.meta).encode()})
    hidden = part.path.with_name(f".{part.path.name}.tmp")
    with open(hidden, "wb") as file:
        # vectors neither repeat nor compress
        pq.write_table(rows, file, use_dictionary=["error"])
        file.flush()
        os.fsync(file.fileno())
    os.replace(hidden, part.path)
