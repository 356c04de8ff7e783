# SPDX-License-Identifier: Apache-2.0
"""Memory: no growth, workspaces that go, a MemoryError at every allocation."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import BASE, X, everything, same, small

import vitpool
from vitpool import _core

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process in memory."""
    return int(STATM.read_text().split()[1]) * 4096


def grows(work: Callable[[], object], calls: int, warm: int) -> float:
    """Resident bytes that `calls` calls add after `warm` ones."""
    for _ in range(warm):
        work()
    gc.collect()
    before = resident()
    for _ in range(calls):
        work()
    gc.collect()
    return resident() - before


linux = pytest.mark.skipif(not STATM.exists(), reason="reads Linux's /proc")


@linux
def test_thousands_of_mixed_calls_do_not_grow() -> None:
    model = small(dynamic_img_size=True, global_pool="avg", depth=2)
    pick = random.Random(0)
    pictures = {
        (h, w): recipe.picture((3, 3, 16 * h, 16 * w))
        for h in range(1, 7)
        for w in range(1, 7)
    }

    def call() -> None:
        x = pictures[pick.randint(1, 6), pick.randint(1, 6)][: pick.randint(0, 3)]
        kind = pick.randrange(6)
        if kind == 0:
            model.forward_features(x)
        elif kind == 1:
            model.forward_intermediates(x, indices=[0, 1])
        elif kind == 2:
            model.forward(x, return_attn=[0, 1])
        elif kind == 3:
            model.forward_head(np.ones((2, pick.randint(2, 40), 32), np.float32))
        else:
            model(x)

    assert grows(call, calls=6000, warm=1500) < 2 << 20


@linux
def test_changing_a_model_does_not_grow() -> None:
    model = small(global_pool="map", depth=1)
    states = [recipe.weights(model.param_shapes(), seed=s) for s in (1, 2)]
    bad = dict(states[0], **{"head.weight": np.ones((3, 3), np.float32)})

    def change() -> None:
        model.load_state_dict(states[0])
        model.reset_classifier(7, "avg")
        model.reset_classifier(10, "map", add_attn_pool=True)
        with pytest.raises(ValueError, match="head"):
            model.load_state_dict(bad)
        with pytest.raises(ValueError, match="pool"):
            model.reset_classifier(10, "prr")
        model.load_state_dict(states[1])
        copy.deepcopy(model)
        model.state_dict()
        pickle.loads(pickle.dumps(model))

    assert grows(change, calls=400, warm=100) < 2 << 20


@linux
def test_a_large_batch_needs_no_larger_workspace() -> None:
    model = small(img_size=64, patch_size=8)
    x = recipe.picture((300, 3, 64, 64))
    model(x)
    chunk = model.memory_bytes()["workspace"]
    model(np.concatenate([x] * 2))
    assert model.memory_bytes()["workspace"] == chunk


def test_the_workspace_is_the_largest_seen_until_released() -> None:
    model = small(dynamic_img_size=True)
    sizes = []
    for side in (32, 96, 32, 64):
        model(recipe.picture((1, 3, side, side)))
        sizes.append(model.memory_bytes()["workspace"])
    assert sizes[0] < sizes[1]
    assert sizes[1] == sizes[2] == sizes[3]
    model.release_workspace()
    assert model.memory_bytes()["workspace"] == 0
    want = small(dynamic_img_size=True)(X)
    assert model(X).tobytes() == want.tobytes()


def test_many_image_sizes_keep_few_embeddings() -> None:
    model = small(dynamic_img_size=True)
    for width in range(1, 60):
        model(recipe.picture((1, 3, 16, 16 * width)))
    assert len(model._pos_embeds) <= 16


# -- references --


def test_calls_keep_no_reference_to_what_they_are_given() -> None:
    model = small(global_pool="map", depth=2)
    tokens = model.forward_features(X)
    mask = np.ones((5, 5), bool)
    half = X.astype(np.float16)
    given = [X, tokens, mask, half, model]
    names = model.state_dict()

    def call() -> None:
        model(X)
        model(half, attn_mask=mask)
        model(X, return_attn=[0, "attn_pool"])
        model.forward_intermediates(X, indices=[0])
        model.forward_head(tokens)
        model.pool(tokens, "avg")
        model.load_state_dict(names)
        for wrong in (X[:, :1], X.astype(int), None, tokens):
            with pytest.raises((TypeError, ValueError)):
                model(wrong)
        with pytest.raises(ValueError, match="attn_mask"):
            model(X, attn_mask=mask[:3])
        with pytest.raises(KeyError):
            model.get_parameter("nothing")

    call()
    gc.collect()  # what other tests have left of X
    before = [sys.getrefcount(g) for g in given]
    arrays = [sys.getrefcount(a) for a in names.values()]
    for _ in range(50):
        call()
    gc.collect()
    assert [sys.getrefcount(g) for g in given] == before
    assert [sys.getrefcount(a) for a in names.values()] == arrays


def test_results_belong_to_the_caller_alone() -> None:
    model = small(depth=2)
    out, maps = model(X, return_attn=[1])
    parameter, map_, plain = model.get_parameter("cls_token"), maps.pop(1), np.zeros(1)
    counts = [sys.getrefcount(array) for array in (out, parameter, map_, plain)]
    assert counts == [counts[-1]] * 4


def blocks_in_use() -> int:
    """Of Python's allocator, without what is garbage, and without names that CPython's
    cache of attributes still holds: up to 4096 of them, by their addresses."""
    gc.collect()
    clear = getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache
    clear()
    return sys.getallocatedblocks()


def test_repeated_calls_leave_no_objects() -> None:
    model = small(depth=2)

    def call() -> None:
        small()
        model(X, return_attn=[0])
        model.reset_classifier(10)
        repr(model)
        with pytest.raises(TypeError):
            _core.VisionTransformer({})
        with pytest.raises(TypeError):
            model(object())

    for _ in range(5):
        call()
    before = blocks_in_use()
    for _ in range(100):
        call()
    assert blocks_in_use() - before < 300


def test_a_model_is_freed_with_its_last_reference() -> None:
    import weakref

    model = small()
    alive = weakref.ref(model)
    weights = model.head.weight
    del model
    gc.collect()
    assert alive() is None
    assert weights.shape == (10, 32)


# -- every allocation fails once --


@contextmanager
def failing_after(n: int) -> Iterator[None]:
    """After n more allocations of the core every next one fails."""
    _core._fail_allocations_after(n)
    try:
        yield
    finally:
        _core._fail_allocations_after(-1)


CHANGES: dict[str, Callable[[Any], object]] = {
    "forward": lambda m: m(X),
    "forward_features": lambda m: m.forward_features(X),
    "forward_head": lambda m: m.forward_head(np.ones((2, 9, 32), np.float32)),
    "pool": lambda m: m.pool(np.ones((2, 9, 32), np.float32), "max"),
    "intermediates": lambda m: m.forward_intermediates(X),
    "attention": lambda m: m(X, return_attn=[0, "attn_pool"]),
    "reset": lambda m: m.reset_classifier(4, "avg"),
    "reset, same pool": lambda m: m.reset_classifier(4),
    "load": lambda m: m.load_state_dict(recipe.weights(m.param_shapes(), seed=3)),
    "prune": lambda m: m.prune_intermediate_layers([0]),
    "set_input_size": lambda m: m.set_input_size(64),
    "set patch_size": lambda m: m.set_input_size(patch_size=8),
    "copy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "to int8": lambda m: m.to("int8"),
    "to float16": lambda m: m.to("float16"),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_failed_allocation_leaves_the_model_as_it_was(name: str, dtype: str) -> None:
    model = small(global_pool="map", depth=2).to(dtype)
    failures, done = 0, False
    while not done:
        before = everything(model, X)
        model.release_workspace()
        try:
            with failing_after(failures):
                CHANGES[name](model)
        except MemoryError:
            failures += 1
            after = everything(model, X)
            assert same(before.pop("state"), after.pop("state"))
            assert before == after
        else:
            done = True
    assert failures > 0, "no allocation failed"


def test_every_allocation_of_building_fails_once() -> None:
    options = BASE | {"global_pool": "map", "depth": 2}
    weights = recipe.weights(small(**options).param_shapes())
    for given in ({"seed": 1}, {"weights": weights}):
        failures = 0
        while True:
            try:
                with failing_after(failures):
                    model = vitpool.VisionTransformer(**options, **given)
            except MemoryError:
                failures += 1
            else:
                break
        assert failures > 50
        assert np.isfinite(model(X)).all()


def test_what_was_built_beside_a_failure_is_whole() -> None:
    model = small(depth=2)
    with failing_after(0), pytest.raises(MemoryError):
        vitpool.VisionTransformer(**BASE)
    want = everything(model, X)
    other = small(depth=2)
    assert same(want["state"], other.state_dict())
