# SPDX-License-Identifier: Apache-2.0
"""One engine with one model in a process of its own, told what to do line by line.

    python -m benchmarks.worker ENGINE SPEC_JSON DIR THREADS

A line of JSON in, a line of JSON out:
    {"do": "load"}  reads the model
    {"do": "prepare", "batch": B, "out": FILE, "pictures": FILE or none}
        builds for B images, noise if none are given, runs once, saves the output
    {"do": "run", "warm": s, "seconds": s, "calls": n}
        the times of n calls, or of as many as fit into the seconds (at least one)
    {"do": "memory"}  the largest resident size so far, in bytes
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .engines import ENGINES


def die_with_parent() -> None:
    """A stopped worker would outlive a killed parent (PR_SET_PDEATHSIG is 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def memory(field: str) -> int:
    """A size of this process in bytes: VmRSS resident now, VmHWM the most so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    return memory("VmHWM")


def pictures(batch: int, image: int) -> np.ndarray:
    shape = (batch, 3, image, image)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def timed(call: Any, seconds: float, calls: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < calls:
        start = time.perf_counter()
        if times and start > end:
            break
        call()
        times.append(time.perf_counter() - start)
    return times


def main(argv: list[str], engines: Mapping[str, Any] = ENGINES) -> None:
    die_with_parent()
    # Answers go out here alone: whatever an engine prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine, spec, files, threads = argv[0], json.loads(argv[1]), argv[2], int(argv[3])
    state: dict[str, Any] = {}

    def load(_: dict[str, Any]) -> dict[str, Any]:
        if "engine" not in state:
            state["engine"] = engines[engine](spec, Path(files), threads)
        return {}

    def prepare(order: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        load(order)
        state.pop("call", None)
        given = order.get("pictures")
        x = np.load(given) if given else pictures(order["batch"], spec["image"])
        call = state["engine"].prepare(x)
        np.save(order["out"], call())
        state["call"] = call
        return {
            "seconds": time.perf_counter() - start,
            "version": state["engine"].version,
            "setup": state["engine"].setup,
            "peak": peak_memory(),
        }

    def run(order: dict[str, Any]) -> dict[str, Any]:
        if order["warm"]:
            timed(state["call"], order["warm"], order["calls"])
        return {"times": timed(state["call"], order["seconds"], order["calls"])}

    def resident(_: dict[str, Any]) -> dict[str, Any]:
        return {"peak": peak_memory()}

    orders = {"load": load, "prepare": prepare, "run": run, "memory": resident}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = orders[order["do"]](order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
