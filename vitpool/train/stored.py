# SPDX-License-Identifier: Apache-2.0
"""Rows of features: in memory, or in a file that is mapped into it.

A file is a .npy, which numpy.load reads (bfloat16 as the uint16 of its bits), with
what made it behind the numbers: so one rename makes it whole, with all it tells.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..files import WINDOWS, lock

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_IN_FILES = {"float32": "<f4", "bfloat16": "<u2"}
_END = struct.Struct("<Q8s")  # the length of the JSON before it, and who wrote it
_MAGIC = b"vitpool\1"


def checked_dtype(dtype: str) -> str:
    """ValueError: a type that rows cannot be held as."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype!r}, allowed are {', '.join(DTYPES)}")
    return dtype


class Features:
    """What the frozen part of a model makes of pictures, a row a picture.

    An array to NumPy and scikit-learn: `features[indices]` is float32, whatever the
    numbers are held as; `shape` (n, C) or (n, N, C); `len`. entry and block: where in
    the model the rows go in, as `gradients` names it. indices: each row's place in the
    pictures given; with on_error="skip" some are left out, and labels must be, too:
    `labels[features.indices]`. errors: why pictures could not be read, by that place.
    path: the file, where one was asked for.
    """

    def __init__(
        self,
        rows: NDArray[Any],
        entry: str,
        block: int,
        indices: NDArray[np.int64],
        errors: Mapping[int, str],
        path: Path | None = None,
    ) -> None:
        self._rows = rows
        self.entry, self.block, self.path = entry, block, path
        self.indices, self.errors = indices, dict(errors)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, C), or (n, N, C) for tokens."""
        return self._rows.shape

    @property
    def ndim(self) -> int:
        """2, or 3 for tokens."""
        return self._rows.ndim

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """float32: of what indexing gives."""
        return np.dtype(np.float32)

    @property
    def held_as(self) -> str:
        """'float32' or 'bfloat16': of the numbers in memory or in the file."""
        return self._rows.dtype.name

    @property
    def mapped(self) -> bool:
        """Are the numbers in a file?"""
        return isinstance(self._rows, np.memmap)

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers as they are held."""
        return self._rows.nbytes

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        return np.asarray(self._rows[key], np.float32, order="C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        rows = self[:]
        return rows.astype(dtype or rows.dtype, copy=bool(copy))

    def batch(self, indices: Any, epoch: int = 0, seed: int = 0) -> NDArray[np.float32]:
        """These rows, as a dataset gives a batch; the same in every epoch."""
        return self[indices]

    def __repr__(self) -> str:
        where = "mapped" if self.mapped else "in memory"
        entry = f"block {self.block}" if self.entry == "block" else self.entry
        return (
            f"<Features {self.shape} for {entry}: {self.held_as}, "
            f"{self.nbytes / 1e6:.1f} MB {where}>"
        )


class Writer:
    """Takes rows batch by batch: into memory up to `memory` bytes, else into a file.

    count: the most rows that may come. file: one to write to in any case; None: a
    nameless one in the folder for temporary files, where they need one.
    """

    def __init__(
        self, count: int, dtype: str, memory: int, file: IO[bytes] | None = None
    ) -> None:
        self.count, self.dtype, self.memory = count, dtype, memory
        self.done = 0
        self._file, self._rows = file, np.empty(0, np.float32)
        self._row: tuple[int, ...] | None = None
        self._start = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take in rows (b, ...) float32."""
        if self._row is None:
            self._begin(rows.shape[1:])
        held = rows.astype(DTYPES[self.dtype], copy=False)
        if self._file is None:
            self._rows[self.done : self.done + len(rows)] = held
        else:
            # bytes: ml_dtypes' arrays have no buffer that a file takes
            self._file.write(np.ascontiguousarray(held).view(np.uint8).data)
        self.done += len(rows)

    def _begin(self, row: tuple[int, ...]) -> None:
        self._row = row
        size = self.count * math.prod(row) * DTYPES[self.dtype].itemsize
        if self._file is None and size <= self.memory:
            self._rows = np.empty((self.count, *row), DTYPES[self.dtype])
            return
        if self._file is None:
            # nameless: gone with the process, however that ends
            self._file = tempfile.TemporaryFile(prefix="vitpool-")  # noqa: SIM115
        self._start = self._header(self._file, (self.count, *row))

    def _header(self, file: IO[bytes], shape: tuple[int, ...]) -> int:
        """Write what .npy files begin with; gives where the numbers begin."""
        descr = _IN_FILES[self.dtype]
        about = {"descr": descr, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, about)
        return file.tell()

    def end(self, told: Mapping[str, Any]) -> None:
        """No more rows; a file gets what is told of them. ValueError: none came."""
        if self._row is None:
            raise ValueError("no picture could be read")
        if self._file is None:
            self._rows = self._rows[: self.done]
            self._rows.flags.writeable = False
            return
        shape = (self.done, *self._row)
        text = json.dumps(told).encode()
        self._file.write(text + _END.pack(len(text), _MAGIC))
        if self.done < self.count:
            self._file.seek(0)
            if self._header(self._file, shape) != self._start:
                # NumPy leaves room for the digits of any count.
                raise RuntimeError(f"a header of another length for {shape}")
        self._file.flush()

    def rows(self) -> NDArray[Any]:
        """All rows that came, read-only, once it has ended."""
        if self._file is None or self._row is None:
            return self._rows
        return _mapped(self._file, self.dtype, (self.done, *self._row), self._start)


def _mapped(file: Any, dtype: str, shape: tuple[int, ...], start: int) -> NDArray[Any]:
    if 0 in shape:  # which cannot be mapped
        return np.empty(shape, DTYPES[dtype])
    rows = np.memmap(file, _IN_FILES[dtype], "r", start, shape)
    return rows.view(DTYPES[dtype])


def told_by(path: Path) -> dict[str, Any] | None:
    """What a file of ours tells of its rows; None where there is no file.

    ValueError: a file that is not ours, which is not to be written over.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return None
    with file:
        size = os.fstat(file.fileno()).st_size
        if size >= _END.size:
            file.seek(size - _END.size)
            length, magic = _END.unpack(file.read(_END.size))
            if magic == _MAGIC and length <= size - _END.size:
                file.seek(size - _END.size - length)
                told: dict[str, Any] = json.loads(file.read(length))
                return told
    raise ValueError(f"{path}: there, and not written by features(); give another path")


def mapped(path: Path, dtype: str) -> NDArray[Any]:
    """The rows of a file of ours."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
        return _mapped(file, dtype, shape, file.tell())


@contextlib.contextmanager
def one_writer(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name once it is whole, and that one process writes.

    Until then it lies beside it, hidden, as `.NAME.tmp`, which a kill leaves behind
    and the next run writes over. ValueError: another process is writing it.
    """
    hidden = path.with_name(f".{path.name}.tmp")
    file = _locked(hidden, path)
    try:
        with file:
            file.truncate()
            yield file
            file.flush()
            os.fsync(file.fileno())
            if not WINDOWS:
                os.replace(hidden, path)  # while it is locked
        if WINDOWS:  # where a file that is open keeps its name
            os.replace(hidden, path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def _locked(hidden: Path, path: Path) -> IO[bytes]:
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        descriptor = os.open(hidden, flags, 0o666)
        file = os.fdopen(descriptor, "r+b")
        try:
            lock(file)
        except BlockingIOError:
            file.close()
            raise ValueError(f"{path}: another process is writing it") from None
        except OSError:
            return file  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            if os.stat(hidden).st_ino == os.fstat(descriptor).st_ino:
                return file
        file.close()  # it was renamed before the lock: another run was done


def pairs(errors: Mapping[int, str]) -> Sequence[tuple[int, str]]:
    """Errors as JSON has them, whose keys are no numbers."""
    return sorted(errors.items())
