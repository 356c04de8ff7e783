# SPDX-License-Identifier: Apache-2.0
"""A snapshot of the core: one state of a model, for as many questions as there are."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from models import X, small

from vitpool import _core

LOGITS = 3


@pytest.fixture
def model() -> Any:
    return small(depth=2)


def test_no_later_change_reaches_a_snapshot() -> None:
    model = small(depth=2, global_pool="map")
    now = model._snapshot()
    assert type(now) is _core.VisionTransformer
    serials = now._serial, now._pool_serial
    assert serials == (model._serial, model._pool_serial)
    before = now._options(), now._run(X, LOGITS)[0].tobytes()
    changes: list[Any] = [
        lambda: model.reset_classifier(3, "avg"),
        lambda: model.load_state_dict(
            {k: v * 2 for k, v in model.state_dict().items()}
        ),
        lambda: model.prune_intermediate_layers([0]),
    ]
    for change in changes:
        change()
        assert (now._serial, now._pool_serial) == serials
        assert (now._options(), now._run(X, LOGITS)[0].tobytes()) == before
    assert model._options() != before[0]


def test_a_changed_snapshot_takes_the_models_place_once(model: Any) -> None:
    before = model._snapshot()
    after = before._snapshot()
    after.reset_classifier(3, seed=1)
    assert model.num_classes == 10
    assert model._commit(before, after) is True
    assert model.num_classes == 3
    assert model._serial == after._serial
    assert model(X).tobytes() == after._run(X, LOGITS)[0].tobytes()
    other = before._snapshot()
    other.reset_classifier(4)
    assert model._commit(before, other) is False
    assert model.num_classes == 3
    assert before._options()["num_classes"] == 10


def test_options_are_the_callers_own(model: Any) -> None:
    now = model._snapshot()
    for options in (model._options(), now._options()):
        options["depth"] = 77
        options.clear()
    assert model._options()["depth"] == now._options()["depth"] == 2
    assert model._snapshot()._options() == model._options()


def test_a_snapshot_has_no_scratch_memory_of_its_own(model: Any) -> None:
    model(X)
    held = model.memory_bytes()["workspace"]
    assert held > 0
    now = model._snapshot()
    now._run(X, LOGITS)
    assert model.memory_bytes()["workspace"] == held
    assert now.memory_bytes() == model.memory_bytes()
    del model
    now._run(X, LOGITS)  # the workspaces live as long as either
    assert now.memory_bytes()["workspace"] == held
    now.release_workspace()
    assert now.memory_bytes()["workspace"] == 0


def test_a_copy_has_scratch_memory_of_its_own(model: Any) -> None:
    model(X)
    assert model.__copy__().memory_bytes()["workspace"] == 0


def test_a_snapshot_taken_beside_changes_is_of_one_state() -> None:
    model = small(global_pool="avg")
    states = ((3, "avg"), (4, "max"))
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for state in states:
                model.reset_classifier(*state)

    model.reset_classifier(*states[0])
    thread = threading.Thread(target=change)
    thread.start()
    seen = set()
    for _ in range(2000):
        now = model._snapshot()
        options = now._options()
        outputs = now.param_shapes()["head.bias"][0]
        seen.add((options["num_classes"], options["global_pool"], outputs))
    stop.set()
    thread.join()
    assert seen <= {(*state, state[0]) for state in states}
