# SPDX-License-Identifier: Apache-2.0
"""The command in a process of its own, on a terminal; and what one then sees there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Sequence
from typing import Any

COMMAND = (sys.executable, "-m", "vitpool")
# The same, but that a bar is drawn from the start, and whenever it has news.
EAGER = (
    sys.executable,
    "-c",
    "import sys, vitpool.cli\n"
    "sys.modules['vitpool.cli.progress'].DELAY = 1e-9\n"
    "sys.exit(vitpool.cli.main())",
)


def on_terminal(
    *argv: object,
    columns: int = 200,
    stdout: Any = None,
    command: Sequence[str] = COMMAND,
    interrupt_at: str = "",
    then: Callable[[], Any] = lambda: None,
    **environment: str,
) -> tuple[int, str]:
    """Exit code and all that a terminal gets, byte for byte, of stdout and stderr.

    stdout: where that goes in place of the terminal. interrupt_at: once this has been
    printed, press Ctrl-C; then: what to do after it.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*command, *map(str, argv)],
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "TQDM_MININTERVAL": "0"} | environment,
        preexec_fn=_take_terminal,
    )
    os.close(theirs)
    got = b""
    watch = threading.Timer(60, process.kill)  # a hang is an error
    watch.start()
    with contextlib.suppress(OSError):  # Linux's end of a terminal
        while piece := os.read(ours, 65536):
            got += piece
            if interrupt_at and interrupt_at.encode() in got:
                process.send_signal(signal.SIGINT)
                interrupt_at = ""
                then()
    os.close(ours)
    watch.cancel()
    return process.wait(60), got.decode()


def _take_terminal() -> None:
    # A shell's background jobs, and so their children, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def seen(got: str, check: Callable[[str], Any] = lambda line: None) -> list[str]:
    """The lines that stand on the terminal at the end.

    check: is called with each line as it stood whenever the cursor left it, or went
    back to its start.
    """
    lines, column, escapes = [""], 0, got.count("\x1b")
    assert not escapes, "only carriage returns and line feeds are known here"
    for character in got.replace("\r\n", "\n"):
        if character in "\r\n":
            check(lines[-1].rstrip())
            column = 0
            if character == "\n":
                lines.append("")
        else:
            line = lines[-1].ljust(column)
            lines[-1] = line[:column] + character + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]
