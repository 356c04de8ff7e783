# SPDX-License-Identifier: Apache-2.0
"""Many subjects, each in a process of its own: a crash or a hang is a finding.

The processes are forked, so that what this one has imported is there at once; nothing
is computed here, for threads do not survive a fork. Each runs on one thread.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Collection, Generator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Protocol

from ..._core import set_num_threads
from .finding import Audit, Finding, Skip
from .registry import Check, chosen
from .run import report, run_check
from .source import arguments
from .subject import Subject

SECONDS = 300.0  # for one check
TOLD = 200  # characters of what a process said before it died
CHECK = "@check@"  # in a program, for the name of one


class Entry(Protocol):
    """What is audited; its subject is made in the process that audits it."""

    @property
    def name(self) -> str:
        """How a report calls it."""

    def subject(self) -> Subject:
        """The subject; what this raises is told as what cannot be built."""


def audit_many(
    entries: Sequence[Entry],
    *,
    only: Collection[str] = (),
    skip: Collection[str] = (),
    jobs: int = 2,
    seconds: float = SECONDS,
) -> Generator[Audit, None, None]:
    """The report of each entry, as soon as it is whole.

    A process that dies in a check, or that is ended since the check takes longer than
    `seconds`, has that as a finding; another goes on with the checks that are left. All
    processes end with the iterator.

    Args:
        entries: with `.name` and `.subject()`, as `testing.audit.timm.classes` gives.
        only, skip: names of checks.
        jobs: how many processes at once.
        seconds: for one check.

    Raises:
        ValueError: no check has that name, or this platform cannot fork.
    """
    checks = chosen(only, skip)
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError("an audit in processes needs a platform that can fork")
    waiting = deque(entries)
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Worker(waiting.popleft(), checks))
            pipes = {worker.pipe: worker for worker in running}
            for pipe in wait(list(pipes), timeout=0.5):
                pipes[pipe].receive()  # type: ignore[index]  # pipes, as given
            for worker in [*running]:
                worker.look_at_the_clock(seconds)
                if worker.done:
                    running.remove(worker)
                    took = time.monotonic() - worker.began
                    yield report(worker.entry.name, worker.results, took)
    finally:
        for worker in running:
            worker.stop()


class _Worker:
    """A process at work on an entry, and another where that one dies."""

    def __init__(self, entry: Entry, checks: Sequence[Check]) -> None:
        self.entry = entry
        self.results: list[tuple[str, list[Finding | Skip]]] = []
        self.began = time.monotonic()
        self.done = False
        self._left = deque(checks)  # the first one runs now
        self._program = ""  # that runs a check alone; '' until a model was made
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe(duplex=False)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  until _close
        self._since = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self._process = context.Process(
            target=_work,
            args=(self.entry, [*self._left], theirs, self._log.fileno()),
        )
        with warnings.catch_warnings():
            # Of Python 3.12 and later, for threads that wait: libraries have started
            # them when they were imported. A child that hangs is told as such.
            warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
            self._process.start()
        theirs.close()

    def receive(self) -> None:
        """Take what the process has sent, or its end."""
        try:
            kind, what = self.pipe.recv()
        except EOFError:
            self._process.join()
            if self._left:
                self._died(_end(self._process.exitcode) + self._last_words())
            else:
                self._close()
            return
        self._since = time.monotonic()
        if kind == "made":
            self._program = what
        elif kind == "found":
            self.results.append((self._left.popleft().name, what))
        else:
            skip = Skip("build", f"no model can be made: {what}", failed=True)
            self.results.append(("build", [skip]))
            self._left.clear()

    def look_at_the_clock(self, seconds: float) -> None:
        """End a check that takes longer."""
        if not self.done and time.monotonic() - self._since > seconds:
            self._kill()
            self._died(f"takes longer than {seconds:g} s")

    def stop(self) -> None:
        """End the process and what it has started."""
        if not self.done:
            self._kill()
            self._close()

    def _died(self, how: str) -> None:
        """Tell of the check that ran how the process died, and go on behind it."""
        self._close()
        if not self._program:
            skip = Skip("build", f"the process that makes a model {how}", failed=True)
            self.results.append(("build", [skip]))
            return
        name = self._left.popleft().name
        program = self._program.replace(CHECK, name)
        self.results.append((name, [Finding(name, "B", f"the process {how}", program)]))
        if self._left:
            self.done = False
            self._start()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()  # where it has no group of its own yet
        self._process.join()

    def _close(self) -> None:
        self.pipe.close()
        self._log.close()
        self.done = True

    def _last_words(self) -> str:
        """What a process wrote to its log of how it ended, or last."""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        fatal = [line for line in lines if line.startswith("Fatal Python error")]
        return f": {[*fatal, lines[-1]][0][:TOLD]}" if lines else ""


def _work(entry: Entry, checks: list[Check], pipe: Connection, log: int) -> None:
    """The life of a process: what each check found goes into the pipe."""
    os.setsid()  # Ctrl-C is for the parent, which ends this process and its children
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    faulthandler.enable(log)
    set_num_threads(1)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    try:
        subject = entry.subject()
        subject.build()
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        pipe.send(("cannot", " ".join(text.split())))
        return
    pipe.send(("made", _program(subject)))
    for check in checks:
        pipe.send(("found", run_check(check, subject)))


def _program(subject: Subject) -> str:
    """A program that runs one check and fails where it finds anything."""
    imports: set[str] = set()
    given = ", ".join(
        ["make", f"only=[{CHECK!r}]", *arguments(subject.kwargs, imports)]
    )
    return subject.program(
        *sorted(imports),
        "from vitpool.testing import audit",
        f"report = audit(make, {given})",
        "assert report.ok, report",
    )


def _end(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"
