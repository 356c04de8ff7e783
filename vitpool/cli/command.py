# SPDX-License-Identifier: Apache-2.0
"""The whole command line: its parser, and errors to exit codes."""

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
        "1 some pictures could not be read, 2 wrong usage or cannot run.",
    )
    parser.add_argument("--version", action="version", version=f"vitpool {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. argv: the arguments, default sys.argv."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as error:  # argparse has told; its own codes are 0 and 2
        return int(error.code or 0)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:  # `vitpool list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except StrictError as error:
        say(str(error))
        return SOME_FAILED
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        if os.environ.get("VITPOOL_TRACEBACK"):
            raise
        say(one_line(error))
        return CANNOT
