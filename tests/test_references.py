# SPDX-License-Identifier: Apache-2.0
"""Whatever a call comes to, it lets go of all that it was given and has made.

References of the arrays, the core's allocations and Python's memory are counted before
and after many calls of each kind: those that work, and every refusal of the binding.
"""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import X, small

from vitpool import _core

CALLS = 25
KEY = "blocks.0.mlp.fc1.weight"


def arrays() -> dict[str, np.ndarray]:
    """What the calls are given, each a new array."""
    return {
        "x": X.copy(),
        "half": X.astype(np.float16),
        "wide": recipe.picture((2, 3, 32, 48)),
        "large": recipe.picture((2, 3, 64, 64)),
        "grey": recipe.picture((2, 1, 32, 32)),
        "integers": np.ones((2, 3, 32, 32), np.int32),
        "tokens": recipe.picture((2, 5, 32)),
        "narrow": recipe.picture((2, 5, 31)),
        "seen": np.ones((5, 5), bool),
        "added": np.zeros((2, 1, 5, 5), np.float32),
        "counts": np.ones((5, 5), np.int64),
        "short": np.ones((5, 4), bool),
        "flat": np.zeros(5, np.float32),
        "weight": recipe.weight(KEY, (128, 32)),
        "turned": recipe.weight(KEY, (32, 128)),
        "turned_half": recipe.weight(KEY, (32, 128)).astype(np.float16),
        "whole": np.ones((128, 32), np.int32),
        "pos": recipe.weight("pos_embed", (1, 17, 32)),
        "pixels": np.zeros((4, 4, 3), np.uint8),
        "three": np.ones(3, np.float32),
        "two": np.ones(2, np.float32),
    }


class Breaking(dict[str, Any]):
    """A mapping whose second value cannot be had."""

    def __getitem__(self, key: str) -> Any:
        if key != KEY:
            return super().__getitem__(key)
        raise OSError("the disk is gone")


def broken(model: Any) -> Breaking:
    return Breaking(model.state_dict())


def dynamic(model: Any, *pictures: Any) -> None:
    """Calls of several sizes, each of which needs a larger workspace."""
    other = small(dynamic_img_size=True)
    for x in pictures:
        other(x)


def in_core(model: Any, **options: Any) -> Any:
    """A core model of the same options but for these."""
    return _core.VisionTransformer(model._options() | options)


Call = Callable[[Any, Any], object]
WORKS: dict[str, Call] = {
    "forward": lambda m, a: (m(a["x"]), m(a["half"])),
    "masks": lambda m, a: (
        m(a["x"], attn_mask=a["seen"]),
        m(a["half"], attn_mask=a["added"]),
    ),
    "maps": lambda m, a: m(a["x"], return_attn=[0, 1, "attn_pool"]),
    "taps": lambda m, a: m.forward_intermediates(a["x"]),
    "profile": lambda m, a: m.profile(a["x"]),
    "head": lambda m, a: (m.forward_head(a["tokens"]), m.pool(a["tokens"], "max")),
    "parts": lambda m, a: (
        m._run_part("patch_embed", a["half"]),
        m._run_part("blocks.0.attn", a["tokens"], a["seen"]),
        m._run_part("attn_pool", a["tokens"]),
        m._run_part("norm", a["tokens"]),
    ),
    "load": lambda m, a: m.load_state_dict({KEY: a["weight"]}, strict=False),
    "reset": lambda m, a: m.reset_classifier(7),
    "resize": lambda m, a: (m.set_input_size(64), m.set_input_size(32)),
    "copies": lambda m, a: (copy.copy(m), pickle.loads(pickle.dumps(m))),
    "prune": lambda m, a: copy.copy(m).prune_intermediate_layers([0]),
    "larger and larger": lambda m, a: dynamic(m, a["x"], a["wide"], a["large"]),
    "pixels": lambda m, a: _core.normalize_u8(a["pixels"], a["three"], a["three"]),
}
REFUSED: dict[str, Call] = {
    "images of integers": lambda m, a: m(a["integers"]),
    "images of no rank": lambda m, a: m(a["tokens"]),
    "images of other channels": lambda m, a: m(a["grey"]),
    "images of another size": lambda m, a: m(a["wide"]),
    "half images of another size": lambda m, a: m(a["half"][:, :, :16]),
    "images that are none": lambda m, a: m(object()),
    "no images": lambda m, a: m._run(),
    "a mask of integers": lambda m, a: m(a["x"], attn_mask=a["counts"]),
    "a mask of no rank": lambda m, a: m(a["x"], attn_mask=a["flat"]),
    "a mask that is too short": lambda m, a: m(a["half"], attn_mask=a["short"]),
    "a mask that is none": lambda m, a: m(a["x"], attn_mask=object()),
    "a mask and causal": lambda m, a: m(a["x"], attn_mask=a["seen"], is_causal=True),
    "no positions": lambda m, a: in_core(m, dynamic_img_size=True)._run(a["wide"], 3),
    "positions of no rank": lambda m, a: m._run(a["x"], 3, pos_embed=a["flat"]),
    "positions of another grid": lambda m, a: m._run(a["x"], 3, pos_embed=a["pos"]),
    "taps of no pairs": lambda m, a: m._run(a["x"], 1, taps=[(0, 0), 1]),
    "taps of half pairs": lambda m, a: m._run(a["x"], 1, taps=[(0, 0), (1,)]),
    "taps beyond": lambda m, a: m._run(a["x"], 1, taps=[(0, 0), (2, 0)]),
    "taps below": lambda m, a: m._run(a["x"], 1, taps=[(0, 0), (-1, 0)]),
    "taps that are none": lambda m, a: m._run(a["x"], 1, taps=object()),
    "maps of no pairs": lambda m, a: m._run(a["x"], 3, maps=[(0, 0), 1]),
    "maps beyond": lambda m, a: m._run(a["x"], 3, maps=[(0, 0), (2, 0)]),
    "maps of a second": lambda m, a: m._run(a["x"], 3, maps=[(0, 0), (0, 1)]),
    "maps that are none": lambda m, a: m._run(a["x"], 3, maps=object()),
    "maps of no pool": lambda m, a: in_core(m, global_pool="avg")._run(
        a["x"], 3, maps=[(0, 0), (-1, 0)]
    ),
    "a part of no path": lambda m, a: m._run_part("blocks.9.attn", a["tokens"]),
    "a part of half a path": lambda m, a: m._run_part("\ud800", a["tokens"]),
    "a part of images": lambda m, a: m._run_part("patch_embed", a["wide"]),
    "a part of tokens": lambda m, a: m._run_part("attn_pool", a["narrow"]),
    "a part of rows": lambda m, a: m._run_part("norm", a["narrow"]),
    "a part of numbers": lambda m, a: m._run_part("blocks.0.mlp.act", a["integers"]),
    "a part with a short mask": lambda m, a: m._run_part(
        "blocks.0.attn", a["tokens"], a["short"]
    ),
    "a part without a mask": lambda m, a: m._run_part("norm", a["tokens"], a["seen"]),
    "tokens of another width": lambda m, a: m.forward_head(a["narrow"]),
    "tokens of no rank": lambda m, a: m.pool(a["x"]),
    "no tokens": lambda m, a: m.forward_head(),
    "a pool that is unknown": lambda m, a: m.pool(a["tokens"], "mean"),
    "a pool that is none": lambda m, a: m.pool(a["tokens"], 3),
    "a pool of half a character": lambda m, a: m.pool(a["tokens"], "\ud800"),
    "a pool of another model": lambda m, a: m.pool(a["tokens"], "prr"),
    "classes below": lambda m, a: m.reset_classifier(-1),
    "classes of no integer": lambda m, a: m.reset_classifier(1.5),
    "classes and a pool": lambda m, a: m.reset_classifier(3, "prr"),
    "a weight of another shape": lambda m, a: m.load_state_dict(
        {KEY: a["turned"]}, strict=False
    ),
    "a half weight of another shape": lambda m, a: m.load_state_dict(
        {KEY: a["turned_half"]}, strict=False
    ),
    "a weight of integers": lambda m, a: m.load_state_dict(
        {KEY: a["whole"]}, strict=False
    ),
    "a weight that is none": lambda m, a: m.load_state_dict({KEY: None}, strict=False),
    "weights that break": lambda m, a: m.load_state_dict(broken(m)),
    "too few weights": lambda m, a: m.load_state_dict({KEY: a["weight"]}),
    "built from too few weights": lambda m, a: _core.VisionTransformer(
        m._options(), {KEY: a["weight"]}
    ),
    "built from weights that break": lambda m, a: _core.VisionTransformer(
        m._options(), broken(m)
    ),
    "replaced without options": lambda m, a: m._replace({}, {}),
    "replaced by a larger one": lambda m, a: m._replace(
        m._options() | {"depth": 3}, {KEY: a["weight"]}
    ),
    "a parameter that is not there": lambda m, a: m.get_parameter("nothing"),
    "a parameter of no name": lambda m, a: _core.VisionTransformer.get_parameter(m, 3),
    "committing what is none": lambda m, a: m._commit(m, a),
    "adopting what is none": lambda m, a: m._adopt(a),
    "adopting twice": lambda m, a: m._adopt(m),
    "pixels of floats": lambda m, a: _core.normalize_u8(
        a["x"][0], a["three"], a["three"]
    ),
    "a mean of two": lambda m, a: _core.normalize_u8(a["pixels"], a["two"], a["three"]),
    "a deviation of two": lambda m, a: _core.normalize_u8(
        a["pixels"], a["three"], a["two"]
    ),
    "a mean that is none": lambda m, a: _core.normalize_u8(
        a["pixels"], object(), a["three"]
    ),
}


def traced(work: Callable[[], object]) -> int:
    """Bytes of Python and NumPy that `work` leaves behind."""
    before = tracemalloc.get_traced_memory()[0]
    work()
    return tracemalloc.get_traced_memory()[0] - before


Errors = tuple[type[Exception], ...]


def count(call: Call, errors: Errors, model: Any, given: Any) -> None:
    """Raise AssertionError where many calls keep something, or one does not raise."""

    def calls(number: int) -> None:
        for _ in range(number):
            if not errors:
                call(model, given)
            else:
                with pytest.raises(errors):
                    call(model, given)
        gc.collect()
        sys._clear_type_cache()  # which keeps names that were looked up

    calls(5)
    model.release_workspace()
    counts = {name: sys.getrefcount(array) for name, array in given.items()}
    allocations = _core._allocations()
    tracemalloc.start()
    try:
        # Of three rounds the least, since a table of Python's own may grow in one.
        grown = min(traced(lambda: calls(CALLS)) for _ in range(3))
    finally:
        tracemalloc.stop()
    model.release_workspace()
    assert {k: sys.getrefcount(array) for k, array in given.items()} == counts
    assert _core._allocations() == allocations
    # One object that stayed behind at each call would be more.
    assert grown < 40 * CALLS, f"{grown} bytes"


def check(call: Call, errors: Errors = ()) -> None:
    gc.collect()
    before = _core._allocations()
    count(call, errors, small(global_pool="map", depth=2), arrays())
    gc.collect()
    assert _core._allocations() == before, "the model outlives its last reference"


@pytest.mark.parametrize("name", WORKS)
def test_a_call_keeps_nothing(name: str) -> None:
    check(WORKS[name])


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_call_keeps_nothing(name: str) -> None:
    errors = (TypeError, ValueError, KeyError, RuntimeError, OSError)
    check(REFUSED[name], errors)


def test_a_change_that_comes_too_late_keeps_nothing() -> None:
    def late(model: Any, given: Any) -> None:
        before = model._snapshot()
        after = before._snapshot()
        after._replace(None, {KEY: given["weight"]})
        model.load_state_dict({KEY: given["weight"]}, strict=False)
        assert model._commit(before, after) is False

    check(late)


BARE: dict[str, Callable[[Any], object]] = {
    "_run": lambda m: m._run(X, 3),
    "_run_part": lambda m: m._run_part("norm", np.ones((1, 32), np.float32)),
    "forward_head": lambda m: m.forward_head(np.ones((1, 5, 32), np.float32)),
    "pool": lambda m: m.pool(np.ones((1, 5, 32), np.float32)),
    "reset_classifier": lambda m: m.reset_classifier(3),
    "_replace": lambda m: m._replace(None, {}),
    "_snapshot": lambda m: m._snapshot(),
    "_commit": lambda m: m._commit(small(), small()),
    "_options": lambda m: m._options(),
    "_lambdas": lambda m: m._lambdas(),
    "param_shapes": lambda m: m.param_shapes(),
    "get_parameter": lambda m: m.get_parameter("head.weight"),
    "memory_bytes": lambda m: m.memory_bytes(),
    "release_workspace": lambda m: m.release_workspace(),
    "_serial": lambda m: m._serial,
    "_pool_serial": lambda m: m._pool_serial,
    "_grid": lambda m: m._grid(32, 32),
}


@pytest.mark.parametrize("name", BARE)
def test_a_model_that_was_never_initialised_says_so(name: str) -> None:
    bare = _core.VisionTransformer.__new__(_core.VisionTransformer)
    with pytest.raises(RuntimeError, match="has not been initialised"):
        BARE[name](bare)


def test_a_core_model_can_be_referred_to_weakly() -> None:
    model = in_core(small())
    seen = weakref.ref(model)
    assert seen() is model
    del model
    assert seen() is None
