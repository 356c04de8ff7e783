# SPDX-License-Identifier: Apache-2.0
"""The whole command line: its parser, and which error ends with which exit code."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from . import (
    attention,
    audit,
    benchmark,
    classify,
    compare,
    completion,
    convert,
    embed,
    finetune,
    info,
    list,
    quantize,
    search,
)
from .errors import (
    CANNOT,
    INTERRUPTED,
    OK,
    SOME_FAILED,
    StrictError,
    one_line,
    say,
)
from .parser import Parser

CANNOT_RUN = (OSError, ValueError, TypeError, ImportError, MemoryError)
COMMANDS = (
    classify,
    embed,
    search,
    attention,
    compare,
    finetune,
    audit,
    info,
    list,
    convert,
    quantize,
    benchmark,
    completion,
)


def build_parser() -> Parser:
    """The whole command line."""
    from .. import __version__

    parser = Parser(
        prog="vitpool",
        description="timm's plain Vision Transformers on a CPU, without PyTorch.",
        epilog="`vitpool COMMAND --help` tells a command's options, with examples.\n"
        "Exit codes: 0 done, 1 some pictures could not be read, no model matches, "
        "two models differ or an audit has found something, 2 wrong usage or it cannot "
        "run, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"vitpool {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. argv: the arguments, default sys.argv."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # a closed pipe raises here, not at the process's end
    except BrokenPipeError:  # `vitpool list | head`: the reader has had enough
        # Python flushes stdout once more at its end: that must not raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _run(argv: Sequence[str] | None) -> int:
    """The command, and its errors as exit codes."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as error:  # argparse has printed; its codes are 0, 2
        return int(error.code or 0)
    try:
        with _said():
            code: int = args.run(args)
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except StrictError as error:
        say(str(error))
        return SOME_FAILED
    except (*CANNOT_RUN, Warning) as error:  # a warning where Python's -W has it so
        if os.environ.get("VITPOOL_TRACEBACK", "0") not in ("", "0"):
            raise
        say(args.parser.name_option(one_line(error), args))
        return CANNOT


class _Sayer(logging.Handler):
    """What the library logs, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Let the library's warnings come as one line each, as all that we say does."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(" ".join(str(message).split()))

    log, sayer = logging.getLogger("vitpool"), _Sayer(logging.WARNING)
    log.addHandler(sayer)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        log.removeHandler(sayer)
