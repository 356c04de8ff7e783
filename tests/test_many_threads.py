# SPDX-License-Identifier: Apache-2.0
"""One model and many threads, on a Python without the GIL as on one with it.

What the GIL used to put in order by itself: arguments that change while they are read,
references that die while they are looked up, what is the whole process's.
"""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import sysconfig
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import BASE, X, small
from process import run

import vitpool
from vitpool import _core
from vitpool.model import UntrainedWarning

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """With a GIL, threads change places as often as they can."""
    interval, threads = sys.getswitchinterval(), vitpool.get_num_threads()
    sys.setswitchinterval(1e-6)
    vitpool.set_num_threads(2)
    yield
    sys.setswitchinterval(interval)
    vitpool.set_num_threads(threads)


def together(*works: Callable[[], None]) -> None:
    """Run all at once, from one moment on; raise the first error."""
    errors: list[BaseException] = []
    begin = threading.Barrier(len(works))

    def guarded(work: Callable[[], None]) -> None:
        try:
            begin.wait(60)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


@pytest.mark.skipif(not FREE_THREADED, reason="a Python with the GIL")
def test_an_import_leaves_the_gil_off() -> None:
    code = "import vitpool, vitpool.train, sys; print(sys._is_gil_enabled())"
    done = run(code, PYTHON_GIL="")
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


def test_many_threads_do_everything_with_one_model() -> None:
    """Whatever comes in between, an answer is of one of the states that there were."""
    model = small(global_pool="map", depth=2, dynamic_img_size=True)
    head = {k: v for k, v in model.state_dict().items() if k.startswith("head.")}
    state = model.state_dict()
    size = model.state_dict()["pos_embed"].shape
    wide = recipe.picture((1, 3, 32, 64))
    finite = np.isfinite

    def forward() -> None:
        for _ in range(40):
            assert finite(model(X)).all()
            assert finite(model(wide)).all()
            assert finite(model.blocks[0](model.forward_features(X))).all()

    def reset() -> None:
        for i in range(60):
            model.reset_classifier(2 + i % 3, ("map", "avg", "token")[i % 3],
                                   add_attn_pool=True, seed=i)  # fmt: skip

    def load() -> None:
        body = {k: v for k, v in state.items() if k.startswith("blocks.")}
        for _ in range(40):
            assert not model.load_state_dict(body, strict=False).unexpected_keys

    def resize() -> None:
        for i in range(30):
            model.set_input_size(32 if i % 2 else 48)

    def read() -> None:
        for _ in range(40):
            now = model.state_dict()
            assert now["pos_embed"].shape in (size, (1, 10, 32))
            for key in state.keys() - head.keys():
                same = key not in now or now[key].tobytes() == state[key].tobytes()
                # an attention pool that was dropped comes back fresh; positions are
                # resampled there and back
                assert same or key.startswith(("attn_pool.", "pos_embed", "norm."))
            assert repr(model)
            assert model.num_classes in (2, 3, 4, 10)

    def copies() -> None:
        for _ in range(15):
            for made in (
                copy.copy(model),
                copy.deepcopy(model),
                pickle.loads(pickle.dumps(model)),
            ):
                assert finite(made(X)).all()

    def parts() -> None:
        for _ in range(60):
            held = [model.head, *model.blocks, model.attn_pool, model.norm]
            assert all(part is None or repr(part) for part in held)
            refs = [weakref.ref(part) for part in held if part is not None]
            del held
            assert len(refs) > 3
            assert dict(model.named_modules())

    def threads() -> None:
        for i in range(100):
            vitpool.set_num_threads(1 + i % 4)
            model.release_workspace()
            assert model.memory_bytes()["weights"] > 0

    together(forward, forward, reset, load, resize, read, copies, parts, threads)
    model.set_input_size(32)
    model.reset_classifier(10, "map", add_attn_pool=True)
    model.load_state_dict(state)
    assert finite(model(X)).all()


def test_a_model_and_its_weak_references_die_at_once() -> None:
    """Here and in a thread; what was allocated is freed."""
    gc.collect()
    before = _core._allocations()
    model = small()
    made: list[Any] = []
    begin, end = threading.Barrier(3), threading.Barrier(3)

    def make() -> None:
        for _ in range(50):
            made.append(copy.copy(model))
            begin.wait(60)
            made.clear()
            end.wait(60)

    def refer() -> None:
        for _ in range(50):
            begin.wait(60)
            for one in list(made):
                refs = [weakref.ref(one, lambda _: None) for _ in range(5)]
                del one, refs
            end.wait(60)

    together(make, refer, refer)
    model = None
    gc.collect()
    assert _core._allocations() <= before


# -- arguments that change while they are read --


class Changing:
    """A number that does something when it is asked for."""

    def __init__(self, number: float, then: Callable[[], None]) -> None:
        self.number, self.then = number, then

    def __index__(self) -> int:
        self.then()
        return int(self.number)

    def __float__(self) -> float:
        self.then()
        return float(self.number)


def test_options_that_change_while_they_are_read_are_those_given() -> None:
    options = small()._options()
    want = _core.param_shapes(options)
    first, *_ = (key for key, value in options.items() if type(value) is int)
    changing = dict(options)
    changing[first] = Changing(options[first], changing.clear)
    assert _core.param_shapes(changing) == want
    assert not changing


def test_rates_that_change_while_they_are_read_are_those_given() -> None:
    model = small(depth=2)
    given = {"drop_path": 0.5, "attn_drop": 0.5}
    targets = np.eye(10, dtype=np.float32)[:2]

    def logits(rates: dict[str, Any]) -> bytes:
        return model._gradients(X, targets, {}, rates=rates, seed=3)[1].tobytes()

    want = logits(given)
    changing: dict[str, Any] = dict(given)
    changing["drop_path"] = Changing(0.5, changing.clear)
    assert logits(changing) == want
    assert not changing
    assert want != logits({"drop_path": 0.5})


def test_options_that_another_thread_changes_are_whole() -> None:
    whole = small()._options()
    want = _core.param_shapes(whole)
    options = dict(whole)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            options["img_size"] = (32, 32)
            options["norm_eps"] = 1e-6 + 0.0

    def read() -> None:
        try:
            for _ in range(300):
                assert _core.param_shapes(options) == want
        finally:
            stop.set()

    together(read, change, change)


# -- parts that are let go of --


def test_a_part_that_is_let_go_of_while_its_model_changes() -> None:
    """A change looks at the parts that anyone holds; others drop theirs meanwhile."""
    model = small(depth=12, global_pool="avg")
    stop = threading.Event()

    def hold() -> None:
        while not stop.is_set():
            held = list(model.blocks)
            while held:
                held.pop()

    def change() -> None:
        try:
            for i in range(1000):
                model.reset_classifier(2 + i % 2)
        finally:
            stop.set()

    together(hold, change, hold)


# -- what is the whole process's --


def test_features_in_two_threads_leave_the_filters_of_warnings() -> None:
    pytest.importorskip("sklearn")
    from vitpool.sklearn import ViTFeatures

    pictures = np.zeros((6, 32, 32, 3), np.uint8)
    features = ViTFeatures(vitpool.VisionTransformer(**BASE, seed=0), num_workers=1)
    with pytest.warns(UntrainedWarning):  # as `embed` would
        features.fit(pictures)
    before = list(warnings.filters)
    seen: list[list[Any]] = []

    def transform() -> None:
        for _ in range(10):
            features.transform(pictures)

    def watch() -> None:
        for _ in range(200):
            seen.append(list(warnings.filters))

    together(transform, transform, watch)
    assert warnings.filters == before
    assert all(filters == before for filters in seen)
