# SPDX-License-Identifier: Apache-2.0
"""A worker process for each engine, and rounds in which each has the machine alone.

All workers but the one being timed are stopped (SIGSTOP): a thread pool that spins
while it waits cannot take a core from another engine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Between two engines: the stopped one's memory traffic and interrupts have ended.
PAUSE = 0.02


class WorkerError(RuntimeError):
    """An engine that could not do what it was told."""


def environment() -> dict[str, str]:
    """This process's environment, with the checkout in the path."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def run_module(module: str, *args: str, caps: Mapping[str, str] | None = None) -> str:
    """The output of `python -m benchmarks.MODULE ARGS`; WorkerError with its end."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *args]
    given = {**environment(), **(caps or {})}
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    if done.returncode:
        raise WorkerError(last_line(done.stderr) or f"exit status {done.returncode}")
    return done.stdout


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


class Worker:
    """One engine with one model at one number of threads, in an environment that may
    cap its instructions.
    """

    def __init__(
        self,
        engine: str,
        spec: dict[str, Any],
        files: Path,
        threads: int,
        caps: Mapping[str, str],
        module: str = "worker",
    ) -> None:
        self.engine = engine
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        args = (engine, json.dumps(spec), str(files), str(threads))
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *args],
            env={**environment(), "OMP_NUM_THREADS": str(threads), **caps},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            bufsize=1,
        )
        assert self.process.stdin
        assert self.process.stdout
        self.orders, self.answers = self.process.stdin, self.process.stdout
        self.process.send_signal(signal.SIGSTOP)

    def send(self, **order: Any) -> None:
        """Wake the worker with an order."""
        self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # receive() tells why
            self.orders.write(json.dumps(order) + "\n")

    def receive(self) -> dict[str, Any]:
        """The answer to the last order; the worker is stopped then."""
        line = self.answers.readline()
        if not line:
            self.log.seek(0)
            raise WorkerError(last_line(self.log.read()) or "the process ended")
        self.process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def tell(self, **order: Any) -> dict[str, Any]:
        """One order and its answer: this worker alone is awake in between."""
        self.send(**order)
        return self.receive()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.answers, self.log):
            pipe.close()
        with contextlib.suppress(BrokenPipeError):
            self.orders.close()


class Pool:
    """The workers of one model at one number of threads; engines: name to caps.

    module: of this package, what a worker runs.
    """

    def __init__(
        self,
        engines: Mapping[str, Mapping[str, str]],
        spec: dict[str, Any],
        files: Path,
        threads: int,
        module: str = "worker",
    ) -> None:
        self.workers = {
            engine: Worker(engine, spec, files, threads, caps, module)
            for engine, caps in engines.items()
        }
        # Nothing is timed yet, so they may load side by side.
        for worker in self.workers.values():
            worker.send(do="load")
        for worker in self.workers.values():
            with contextlib.suppress(WorkerError):  # prepare() tries again and tells
                worker.receive()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def prepare(
        self, engines: list[str], batch: int, folder: Path, pictures: str = ""
    ) -> dict[str, dict[str, Any]]:
        """Each engine's answer for this batch, {'error': ...} where it cannot.

        pictures: a file of them, noise if none.
        """
        answers = {}
        for engine in engines:
            try:
                out = str(folder / f"{engine}.npy")
                order = {"batch": batch, "out": out, "pictures": pictures}
                answers[engine] = self.workers[engine].tell(do="prepare", **order)
            except WorkerError as error:
                answers[engine] = {"error": str(error)}
        return answers

    def rounds(
        self, engines: list[str], rounds: int, seconds: float, limit: float
    ) -> dict[str, list[list[float]]]:
        """Times in seconds, by engine and round.

        Each round times each engine once, in rotating order, for some `seconds` after
        its own warm-up. No new round starts after `limit` seconds.
        """
        times: dict[str, list[list[float]]] = {engine: [] for engine in engines}
        longest = 0.0
        end = time.monotonic() + limit
        for number in range(rounds):
            if number and time.monotonic() > end:
                break
            shift = number % len(engines)
            for engine in engines[shift:] + engines[:shift]:
                time.sleep(PAUSE)
                # A call that takes a second needs none before it to be warm.
                warm = 0.0 if longest > 1.0 else min(seconds / 4, 0.1)
                got = self.workers[engine].tell(
                    do="run", warm=warm, seconds=seconds, calls=200
                )["times"]
                times[engine].append(got)
            longest = max(min(t) for rows in times.values() for t in rows)
        return times
