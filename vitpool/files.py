# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, and stay so after a crash."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


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
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
