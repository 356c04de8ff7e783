# SPDX-License-Identifier: Apache-2.0
"""Exit codes, the command's own errors, and the one way to a line on the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO

from ..text import printable

# As grep has them: 1 is an answer (nothing found, pictures left out), 2 an error.
OK, SOME_FAILED, CANNOT = 0, 1, 2
NOTHING_FOUND = DIFFER = 1
INTERRUPTED = 130  # as shells have it: 128 and the number of the signal

bars: list[Any] = []  # tqdm's, on stderr now


class StrictError(ValueError):
    """A picture cannot be read, and --strict was given."""


class UsageError(ValueError):
    """The command line asks for something that cannot be done; one line."""


def write(line: str, file: TextIO) -> None:
    """A line of its own, in what the file can encode, the rest as Python's escapes.

    A bar on the same terminal goes before it, and comes again when it has news.
    """
    for bar in bars if file.isatty() else ():
        if bar.last_print_t > bar.start_t:  # it has been drawn
            bar.clear()
    encoding = file.encoding or "utf-8"
    line = line.encode(encoding, "backslashreplace").decode(encoding)
    # In one go with its end, or Ctrl-C comes between them and its word on this line.
    print(f"{line}\n", end="", file=file)


def say(message: str) -> None:
    """A line on stderr."""
    with contextlib.suppress(BrokenPipeError):  # nobody reads stderr
        write(printable(f"vitpool: {message}"), sys.stderr)


def one_line(error: BaseException) -> str:
    """An error as one line that names what it is about."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}"
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory ({text})" if text else "out of memory"
    return text or type(error).__name__
