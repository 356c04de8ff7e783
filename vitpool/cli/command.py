# SPDX-License-Identifier: Apache-2.0
"""The whole command line: its parser, and which error ends with which exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from . import attention, benchmark, classify, convert, embed, info, list
from .errors import CANNOT, OK, SOME_FAILED, StrictError, one_line, say

COMMANDS = (classify, embed, attention, info, list, convert, benchmark)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="vitpool",
        description="timm's Vision Transformers on a CPU, without PyTorch.",
        epilog="vitpool COMMAND --help tells a command's options. Exit codes: 0 done, "
        "1 some pictures could not be read or no model matches, 2 wrong usage or it "
        "cannot run.",
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
        code: int = args.run(args)
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        raise
    except StrictError as error:
        say(str(error))
        return SOME_FAILED
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        if os.environ.get("VITPOOL_TRACEBACK", "0") not in ("", "0"):
            raise
        say(one_line(error))
        return CANNOT
