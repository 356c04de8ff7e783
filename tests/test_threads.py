# SPDX-License-Identifier: Apache-2.0
"""Threads, forks, signals, the end of the process: nothing hangs, nothing is torn."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import X, small
from process import run

import vitpool


def at_once(*works: Any) -> None:
    """Run all in threads; raise the first error."""
    errors: list[BaseException] = []

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(w,)) for w in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.fixture(autouse=True)
def _three_threads() -> Any:
    before = vitpool.get_num_threads()
    vitpool.set_num_threads(3)
    yield
    vitpool.set_num_threads(before)


# -- fork --


def in_child(work: Any) -> int:
    """The exit status of a forked child that runs `work`; 1 when it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(60)  # a deadlock is a failure
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def test_a_forked_child_and_its_parent_go_on() -> None:
    model = small()
    want = model(X).tobytes()

    def child() -> None:
        assert model(X).tobytes() == want
        model.reset_classifier(3, "avg")
        assert model(X).shape == (2, 3)
        assert small()(X).tobytes() == want
        assert in_child(lambda: model(X)) == 0  # from a process with threads

    for _ in range(5):
        assert in_child(child) == 0
        assert model(X).tobytes() == want
    assert model.num_classes == 10


def test_a_fork_while_other_threads_compute() -> None:
    model = small()
    want = model(X).tobytes()
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            assert model(X).tobytes() == want
            model.release_workspace()

    def fork() -> None:
        try:
            for _ in range(10):

                def child() -> None:
                    assert model(X).tobytes() == want

                assert in_child(child) == 0
        finally:
            stop.set()

    at_once(compute, compute, fork)


def _square(model_and_x: tuple[Any, np.ndarray]) -> bytes:
    model, x = model_and_x
    return bytes(model(x).tobytes())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_multiprocessing_pool(method: str) -> None:
    model = small()
    want = model(X).tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context(method).Pool(2) as pool:
            results = pool.map_async(_square, [(model, X)] * 6).get(timeout=100)
    assert results == [want] * 6


# -- the end of the process --

LOOP = """
import os, signal, sys, threading, time
from models import X, small
from process import run
import vitpool
vitpool.set_num_threads(3)
model = small()
want = model(X).tobytes()
started = threading.Event()
def loop():
    while True:
        model(X)
        started.set()
"""


@pytest.mark.parametrize(
    "end", ["pass", "sys.exit(0)", "os._exit(0)", "raise SystemExit(0)"]
)
def test_the_process_ends_with_calls_in_flight(end: str) -> None:
    code = f"""{LOOP}
for _ in range(3):
    threading.Thread(target=loop, daemon=True).start()
started.wait()
time.sleep(0.05)
{end}
"""
    for _ in range(3):
        done = run(code)
        assert (done.returncode, done.stderr) == (0, "")


def test_keyboard_interrupt_stops_a_loop_and_breaks_nothing() -> None:
    # A shell's background jobs, and so their children, ignore SIGINT.
    done = run(f"""{LOOP}
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    loop()
except KeyboardInterrupt:
    assert model(X).tobytes() == want
    print("interrupted")
""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_a_model_dies_in_another_thread_than_it_was_made() -> None:
    made: list[Any] = []
    at_once(lambda: made.append(small()))
    want = made[0](X).tobytes()
    assert small()(X).tobytes() == want
    at_once(made.clear)


# -- one model, many threads --


def test_reset_load_and_forward_are_atomic_to_each_other() -> None:
    """A forward sees one whole state: weights A or B, their head or a fresh one."""
    model = small(global_pool="avg", depth=2)
    shapes = model.param_shapes()
    a, b = recipe.weights(shapes, seed=1), recipe.weights(shapes, seed=2)
    allowed = set()
    for weights in (a, b):
        for pool in ("avg", "max"):
            model.load_state_dict(weights)
            model.reset_classifier(10, pool, seed=5)
            fresh = model.state_dict()["head.weight"].tobytes()
            allowed.add(model(X).tobytes())
            model.load_state_dict(weights)
            allowed.add(model(X).tobytes())
    assert len(allowed) == 8
    heads = {w["head.weight"].tobytes() for w in (a, b)} | {fresh}
    bodies = {w["blocks.1.mlp.fc2.weight"].tobytes(): w for w in (a, b)}

    def load() -> None:
        for i in range(60):
            model.load_state_dict(b if i % 2 else a)

    def reset() -> None:
        for i in range(120):
            model.reset_classifier(10, "max" if i % 2 else "avg", seed=5)

    def forward() -> None:
        for _ in range(200):
            assert model(X).tobytes() in allowed, "a forward saw half a change"

    def read() -> None:
        for _ in range(60):
            state = model.state_dict()
            body = bodies[state["blocks.1.mlp.fc2.weight"].tobytes()]
            assert all(
                state[k].tobytes() == body[k].tobytes()
                for k in state
                if not k.startswith("head.")
            ), "a state dict holds half a change"
            assert state["head.weight"].tobytes() in heads

    at_once(load, reset, forward, forward, read)


def test_no_change_is_lost_beside_another() -> None:
    """Of a load and a reset at the same time, both have happened afterwards."""
    model = small(global_pool="avg", depth=12)
    key = "blocks.11.mlp.fc2.weight"
    shapes = {k: s for k, s in model.param_shapes().items() if "blocks" in k}
    states = [recipe.weights(shapes, seed) for seed in (1, 2)]
    together = threading.Barrier(2)

    def load() -> None:
        for i in range(200):
            together.wait(60)
            model.load_state_dict(states[i % 2], strict=False)
            together.wait(60)

    def reset() -> None:
        for i in range(200):
            together.wait(60)
            model.reset_classifier(1500 + i, "max" if i % 2 else "avg")
            together.wait(60)
            got = model.get_parameter(key).tobytes()
            assert got == states[i % 2][key].tobytes(), "the load is lost"
            assert model.num_classes == 1500 + i, "the reset is lost"

    at_once(load, reset)


def test_changing_classes_beside_forwards_gives_whole_shapes() -> None:
    model = small(global_pool="avg")

    def reset() -> None:
        for i in range(150):
            model.reset_classifier(1 + i % 5, "" if i % 3 == 0 else "avg")

    def forward() -> None:
        for _ in range(200):
            out = model(X)
            assert out.shape[0] == 2
            assert np.isfinite(out).all()

    at_once(reset, forward, forward)


def test_dynamic_sizes_beside_changes_of_the_model() -> None:
    model = small(dynamic_img_size=True, global_pool="avg")
    pictures = [recipe.picture((1, 3, 16 * h, 16 * w)) for h in (1, 3) for w in (2, 4)]
    want = [model(x).tobytes() for x in pictures]
    weights = model.state_dict()

    def load() -> None:
        for _ in range(80):
            model.load_state_dict(weights)

    def forward() -> None:
        for i in range(120):
            k = i % len(pictures)
            assert model(pictures[k]).tobytes() == want[k]

    at_once(load, forward, forward, forward)


def test_threads_can_be_set_beside_forwards() -> None:
    model = small()
    want = model(X).tobytes()

    def change() -> None:
        for i in range(300):
            vitpool.set_num_threads(1 + i % 6)

    def forward() -> None:
        for _ in range(100):
            assert model(X).tobytes() == want

    at_once(change, forward, forward)


def test_numpys_blas_in_the_same_process() -> None:
    model = small()
    want = model(X).tobytes()
    square = np.ones((200, 200), np.float32)

    def blas() -> None:
        for _ in range(50):
            assert (square @ square)[0, 0] == 200.0

    def forward() -> None:
        for _ in range(50):
            assert model(X).tobytes() == want

    at_once(blas, forward, blas, forward)


# -- how many threads --


def number(code: str = "", **environment: str) -> int:
    """get_num_threads() of a fresh process."""
    done = run(
        f"{code}\nimport vitpool; print(vitpool.get_num_threads())", **environment
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_the_environment_sets_the_number_of_threads() -> None:
    assert number(VITPOOL_NUM_THREADS="3") == 3
    assert number(OMP_NUM_THREADS="5") == 5
    assert number(VITPOOL_NUM_THREADS="3", OMP_NUM_THREADS="5") == 3
    assert number(VITPOOL_NUM_THREADS="256") == 256
    assert number(OMP_NUM_THREADS="100000") == 256


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5", "257", "2 ", "3,2"])
def test_a_senseless_number_of_threads_is_refused(value: str) -> None:
    done = run("import vitpool", VITPOOL_NUM_THREADS=value)
    message = f"VITPOOL_NUM_THREADS must be an integer from 1 to 256, not {value!r}"
    assert done.stderr.strip().endswith(f"ImportError: {message}")


@pytest.mark.parametrize("value", ["", "0", "-2", "many", "1.5"])
def test_what_is_not_for_us_alone_is_not_refused(value: str) -> None:
    assert number(VITPOOL_NUM_THREADS="") == number()
    assert number(OMP_NUM_THREADS=value) == number()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux's affinity")
def test_the_default_is_within_the_affinity() -> None:
    assert 1 <= number() <= len(os.sched_getaffinity(0))
    one = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    assert number(one) == 1


def test_threads_are_not_pinned() -> None:
    done = run(f"""{LOOP}
before = os.sched_getaffinity(0)
for task in os.listdir("/proc/self/task"):
    assert os.sched_getaffinity(int(task)) == before
print(len(os.listdir("/proc/self/task")))
""")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3


# -- interpreters --

SUBINTERPRETER = """
import importlib
for name in ("_interpreters", "_xxsubinterpreters"):
    try:
        interpreters = importlib.import_module(name)
        break
    except ImportError:
        pass
inner = interpreters.create(**({} if name == "_interpreters" else {"isolated": False}))
try:
    failure = interpreters.run_string(inner, "import vitpool._core")
    print(failure.formatted if failure else "no error")
except Exception as error:
    print(error)
import vitpool
print(vitpool.create_model("vit_digits").num_classes)
"""


def test_a_subinterpreter_is_refused_and_the_main_one_goes_on() -> None:
    done = run(SUBINTERPRETER)
    assert done.returncode == 0, done.stderr
    refusal, number = done.stdout.splitlines()
    assert "ImportError" in refusal
    assert number == "10"
