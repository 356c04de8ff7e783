# SPDX-License-Identifier: Apache-2.0
"""The threads that help a forward pass: signals, sleep, and the interpreter's lock."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from models import BASE, small
from process import run

import vitpool

# A process that knows its workers' task numbers.
WORKERS = """
import os, signal, time
from models import X, small
import vitpool
def tasks():
    return {int(task) for task in os.listdir("/proc/self/task")}
def status(task):
    with open(f"/proc/self/task/{task}/status") as file:
        return dict(line.strip().partition(":\\t")[::2] for line in file)
vitpool.set_num_threads(3)
model = small()
before = tasks()
want = model(X)
workers = tasks() - before
assert len(workers) == 2
"""
# What a thread brings upon itself; all else is for the interpreter's threads.
OWN = ["SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS"]

linux = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="reads Linux's /proc"
)


@linux
def test_workers_take_no_signal_but_what_they_bring_upon_themselves() -> None:
    done = run(f"""{WORKERS}
own = {{getattr(signal, name) for name in {OWN}}}
never = {{signal.SIGKILL, signal.SIGSTOP}}
def blocked(worker):
    mask = int(status(worker)["SigBlk"], 16)
    return {{s for s in signal.valid_signals() if mask >> (s - 1) & 1}}
want = signal.valid_signals() - own - never
end = time.monotonic() + 20
while time.monotonic() < end and any(blocked(w) != want for w in workers):
    time.sleep(0.01)  # a thread is born with every signal blocked
for worker in workers:
    assert blocked(worker) == want, blocked(worker) ^ want
assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
print("looked")
""")
    assert (done.returncode, done.stdout) == (0, "looked\n"), done.stderr


@linux
@pytest.mark.parametrize("name", OWN[:5])  # those that faulthandler knows
def test_a_crash_in_a_worker_prints_a_traceback(name: str) -> None:
    """As the kernel does it: the signal goes to that thread alone."""
    done = run(f"""{WORKERS}
import ctypes, faulthandler, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
faulthandler.enable()
assert ctypes.CDLL(None).tgkill(os.getpid(), min(workers), signal.{name}) == 0
time.sleep(5)
""")
    assert done.returncode == -getattr(signal, name)
    assert "Fatal Python error" in done.stderr
    assert 'File "<string>", line' in done.stderr


@linux
def test_idle_workers_sleep() -> None:
    done = run(f"""{WORKERS}
def ticks():
    stats = [open(f"/proc/self/task/{{worker}}/stat").read() for worker in workers]
    return sum(int(n) for s in stats for n in s.rpartition(")")[2].split()[11:13])
time.sleep(0.2)
start = ticks()
time.sleep(0.5)
spent = (ticks() - start) / os.sysconf("SC_CLK_TCK")
assert spent < 0.05, f"idle workers computed for {{spent}} s"
assert all(status(worker)["State"][0] == "S" for worker in workers)
assert model(X).tobytes() == want.tobytes()  # and they wake up
print("slept")
""")
    assert (done.returncode, done.stdout) == (0, "slept\n"), done.stderr


def images(n: int) -> np.ndarray:
    return np.ones((8 * n, 3, 32, 32), np.float32)


def tokens(n: int) -> np.ndarray:
    return np.ones((n, 2000, 32), np.float32)


# What takes long, and what it is given to take n times as long.
LONG = {
    "forward": (lambda model, x: model(x), images),
    "forward_head": (lambda model, x: model.forward_head(x), tokens),
    "pool": (lambda model, x: model.pool(x), tokens),
    "building": (
        lambda _, n: vitpool.VisionTransformer(**BASE | {"num_classes": n}),
        lambda n: 4096 * n,
    ),
    "converting": (
        lambda _, wide: wide.to("bfloat16"),
        lambda n: vitpool.VisionTransformer(**BASE | {"num_classes": 4096 * n}),
    ),
}


@pytest.fixture
def _one_thread() -> Iterator[None]:
    before = vitpool.get_num_threads()
    vitpool.set_num_threads(1)
    yield
    vitpool.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("name", LONG)
def test_other_python_threads_run_during_a_call(name: str) -> None:
    """The interpreter's lock is not held while the core computes."""
    model = small(global_pool="map", depth=4)
    call, given = LONG[name]
    ended = threading.Event()
    times: list[float] = []

    def work(x: object) -> None:
        times.append(time.perf_counter())
        call(model, x)
        times.append(time.perf_counter())
        ended.set()

    n, waits = 1, []
    while len(waits) < 5:
        x = given(n)
        ended.clear()
        turns = []
        thread = threading.Thread(target=work, args=(x,))
        thread.start()
        while not ended.is_set():
            time.sleep(0.001)
            turns.append(time.perf_counter())
        thread.join()
        began, over = times[-2:]
        took = over - began
        seen = [began, *(t for t in turns if began < t < over), over]
        longest = max(b - a for a, b in pairwise(seen))
        if took < 0.2:  # not long beside the turns of the other thread
            n *= 2
        elif longest < took / 2:
            return
        else:  # a busy machine lets a thread wait now and then, a held lock always
            waits.append(f"{longest:.3f} of {took:.3f} s")
    raise AssertionError(f"no turn for {', '.join(waits)}")
