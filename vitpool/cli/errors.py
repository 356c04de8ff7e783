# SPDX-License-Identifier: Apache-2.0
"""Exit codes, the command's own errors, and how an error becomes a line on stderr."""

from __future__ import annotations

import contextlib
import os
import sys

from ..text import printable

# As grep has them: 1 is an answer (nothing found, pictures left out), 2 an error.
OK, SOME_FAILED, CANNOT = 0, 1, 2
NOTHING_FOUND = 1


class StrictError(ValueError):
    """A picture cannot be read, and --strict was given."""


class UsageError(ValueError):
    """The command line asks for something that cannot be done; one line."""


def say(message: str) -> None:
    """A line on stderr."""
    with contextlib.suppress(BrokenPipeError):  # nobody reads stderr
        print(printable(f"vitpool: {message}"), file=sys.stderr)


def one_line(error: BaseException) -> str:
    """An error as one line that names what it is about."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory ({text})" if text else "out of memory"
    return text or type(error).__name__
