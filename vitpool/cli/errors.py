# SPDX-License-Identifier: Apache-2.0
"""Exit codes, the errors that are the command's own, and the line that tells one."""

from __future__ import annotations

import os
import sys

OK, SOME_FAILED, CANNOT = 0, 1, 2


class StrictError(ValueError):
    """A picture cannot be read, and --strict was given."""


class UsageError(ValueError):
    """The command line asks for something that cannot be done; one line."""


def say(message: str) -> None:
    """A line on stderr."""
    print(f"vitpool: {message}", file=sys.stderr)


def one_line(error: BaseException) -> str:
    """An error as one line that names what it is about."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory ({text})" if text else "out of memory"
    return text or type(error).__name__
