# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, and stay so after a crash; locks."""
# What Windows does in another way is here, so that nobody else has to know.

from __future__ import annotations

import contextlib
import errno
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

WINDOWS = os.name == "nt"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name once it is whole, and on the disk.

    Until then it lies beside it, hidden, as `.NAME.tmp`. That is gone after an error;
    only a kill leaves it behind.
    """
    hidden = path.with_name(f".{path.name}.tmp")
    try:
        new = open(hidden, "wb")  # noqa: SIM115
    except OSError as error:
        error.filename = str(path)  # the one that the caller knows
        raise
    try:
        with new as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except BaseException as error:
        hidden.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            error.filename = str(path)  # which a write does not know
        raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    if WINDOWS and path.is_dir():
        return  # which cannot be opened there
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# What a file system says that has no locks: NFS without them, Lustre without -o flock,
# some of FUSE's.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


def lock(file: IO[Any]) -> None:
    """Lock a file until it is closed. BlockingIOError: another process has it.

    Any other OSError: the file system has no locks.
    """
    if WINDOWS:
        _lock_a_byte(file)
        return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Windows locks bytes, and then nobody else reads them: one that no file has.
_LOCKED_BYTE = 1 << 30


def _lock_a_byte(file: IO[Any]) -> None:
    import msvcrt

    descriptor = file.fileno()
    at = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except PermissionError as error:  # what it says where another process has it
        raise BlockingIOError(error.errno, error.strerror) from error
    finally:
        os.lseek(descriptor, at, os.SEEK_SET)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One run at a time in a folder; the lock dies with the process.

    Where the file system has no locks, a warning says so and the run goes on.
    """
    with open(folder / ".lock", "w") as file:
        try:
            lock(file)
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
