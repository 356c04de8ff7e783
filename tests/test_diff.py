# SPDX-License-Identifier: Apache-2.0
"""model.diff: what a change did, in words and lists, and as the state dicts say."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import BASE, refused, small

import vitpool
from vitpool import _core

HEAD = ["head.weight", "head.bias"]
QKV = "blocks.0.attn.qkv.weight"


def pooled() -> Any:
    return small(global_pool="map", class_token=False, depth=3)


def test_the_sentence_of_a_new_head() -> None:
    model = pooled()
    before = model.snapshot()
    model.reset_classifier(5)
    difference = model.diff(before)
    assert str(difference).splitlines() == [
        "pos_embed: kept, bit for bit",
        "patch_embed: kept, bit for bit",
        "blocks.0-2: kept, bit for bit",
        "norm: kept, bit for bit",
        "attn_pool: kept, bit for bit",
        "head: new, untrained (5, 32)",
        "num_classes: 10 -> 5",
    ]
    assert difference.changed == difference.untrained == HEAD
    assert not difference.added
    assert not difference.removed
    assert difference.options == {"num_classes": (10, 5)}
    assert difference


def test_a_head_of_as_many_classes_is_new_and_one_that_is_loaded_is_not() -> None:
    model = small()
    before = model.snapshot()
    model.reset_classifier(10)
    assert "head: new, untrained (10, 32)" in model.diff(before).lines()
    model.load_state_dict({k: np.ones(v.shape) for k, v in head(model)}, strict=False)
    assert model.diff(before).untrained == []
    assert "head: changed, max |difference| " in str(model.diff(before))
    model.load_state_dict(before.state_dict())
    assert not model.diff(before)


def head(model: Any) -> list[tuple[str, np.ndarray]]:
    return [(name, model.get_parameter(name)) for name in HEAD]


def test_dropped_blocks_and_pools_are_told_of_where_they_were() -> None:
    model = pooled()
    before = model.snapshot()
    model.prune_intermediate_layers([0], prune_head=False)
    model.reset_classifier(10, "avg")
    assert model.diff(before).lines()[2:6] == [
        "blocks.0: kept, bit for bit",
        "blocks.1-2: dropped",
        "norm: kept, bit for bit",
        "attn_pool: dropped",
    ]
    assert model.diff(before).options == {
        "global_pool": ("map", "avg"),
        "depth": (3, 1),
    }
    model.set_head(np.ones((3, 32)), np.ones(3))
    assert "head: changed, (10, 32) -> (3, 32)" in model.diff(before).lines()
    assert model.diff(before).shapes["head.bias"] == ((10,), (3,))
    assert model.diff(before).shapes["attn_pool.q.bias"] == ((32,), None)
    back = before.diff(model)
    assert "blocks.1-2: new" in back.lines()
    assert back.added == model.diff(before).removed


def test_a_pool_that_is_made_is_untrained_until_it_is_loaded() -> None:
    model = small()
    before = model.snapshot()
    model.reset_classifier(10, "map", add_attn_pool=True)
    assert "attn_pool: new, untrained" in model.diff(before).lines()
    state = {k: v for k, v in model.state_dict().items() if k.startswith("attn_pool")}
    model.load_state_dict(state, strict=False)
    assert "attn_pool: new" in model.diff(before).lines()
    again = model.snapshot()
    model.reset_classifier(10)
    assert "attn_pool: kept, bit for bit" in model.diff(again).lines()


def test_one_changed_parameter_is_named_and_the_others_are_counted() -> None:
    model = small(depth=2)
    before = model.snapshot()
    changed = before.state_dict()[QKV]
    changed[0, 0] += 0.25
    model.load_state_dict({QKV: changed}, strict=False)
    difference = model.diff(before)
    assert difference.changed == [QKV]
    assert difference.largest[QKV] == pytest.approx(0.25, abs=1e-6)
    lines = difference.lines()
    assert f"{QKV}: changed, max |difference| 0.25" in lines
    assert "blocks.0, 11 others: kept, bit for bit" in lines
    assert "blocks.1: kept, bit for bit" in lines


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.0])
def test_other_bits_are_a_change_whatever_they_are(value: float) -> None:
    model = small()
    model.load_state_dict({"norm.bias": np.zeros(32, "f4")}, strict=False)
    before = model.snapshot()
    bias = np.zeros(32, "f4")
    bias[3] = value
    model.load_state_dict({"norm.bias": bias}, strict=False)
    difference = model.diff(before)
    assert difference.changed == ["norm.bias"]
    largest = difference.largest["norm.bias"]
    assert math.isnan(largest) if math.isnan(value) else largest == abs(value)
    assert not model.diff(model.snapshot()), "NaN is the same NaN"


def test_fresh_models_say_so_and_another_size_is_a_change() -> None:
    model = vitpool.VisionTransformer(**BASE, seed=0)
    assert all(line.endswith("kept, bit for bit, untrained") for line in told(model))
    trained = small()
    before = trained.snapshot()
    trained.set_input_size(64)
    assert (
        "pos_embed: changed, (1, 5, 32) -> (1, 17, 32)" in trained.diff(before).lines()
    )
    assert trained.diff(before).options == {"img_size": (32, 64)}


def told(model: Any) -> list[str]:
    lines = str(model.diff(model.snapshot())).splitlines()
    assert lines[0] == "no difference"
    return lines[1:]


def test_a_snapshot_stays_what_it_was_and_is_a_model() -> None:
    model = small()
    model.class_names = ["a"]
    before = model.snapshot()
    model.reset_classifier(3)
    assert (before.num_classes, before.class_names) == (10, ["a"])
    assert isinstance(before, vitpool.VisionTransformer)
    assert not before.diff(copy.deepcopy(before))


@pytest.mark.parametrize("wrong", [None, {}, "before", 1])
def test_a_diff_is_with_a_model(wrong: Any) -> None:
    with refused(TypeError, "diff takes a model", type(wrong).__name__, model=small()):
        small().diff(wrong)


def test_a_diff_of_a_bare_core_model_is_taken_and_html_is_escaped() -> None:
    model = small()
    core = _core.VisionTransformer(model._options(), model.state_dict())
    assert not model.diff(core)
    model.reset_classifier(5)
    text = model.diff(core)._repr_html_()
    assert "num_classes: 10 -&gt; 5" in text


# Any sequence of changes, beside the state dicts and what was done.

Change = Callable[[Any, set[str]], set[str]]


def reset(classes: int, pool: str) -> Change:
    def change(model: Any, random: set[str]) -> set[str]:
        had = model.attn_pool is not None
        model.reset_classifier(classes, pool, add_attn_pool=pool == "map")
        new = {"head"} if had else {"head", "attn_pool"}
        return random | {n for n in model.param_shapes() if n.split(".")[0] in new}

    return change


def load(part: str, value: float) -> Change:
    def change(model: Any, random: set[str]) -> set[str]:
        names = [n for n in model.param_shapes() if n.startswith(part)]
        state = {n: np.full(model.param_shapes()[n], value, "f4") for n in names}
        model.load_state_dict(state, strict=False)
        return random - set(names)

    return change


def prune(model: Any, random: set[str]) -> set[str]:
    model.prune_intermediate_layers([0], prune_norm=False, prune_head=False)
    return random


def resize(size: int) -> Change:
    def change(model: Any, random: set[str]) -> set[str]:
        model.set_input_size(size)
        return random

    return change


CHANGES = st.one_of(
    st.builds(reset, st.sampled_from([0, 4, 10]), st.sampled_from(["map", "avg", ""])),
    st.builds(
        load,
        st.sampled_from(["head", "attn_pool", "blocks.1", "norm", QKV]),
        st.sampled_from([0.0, 1.0]),
    ),
    st.just(prune),
    st.builds(resize, st.sampled_from([32, 48])),
)


@settings(max_examples=60, deadline=None)
@given(st.booleans(), st.lists(CHANGES, min_size=1, max_size=5), st.integers(0, 4))
def test_lists_are_what_the_state_dicts_say(
    fresh: bool, changes: list[Change], start: int
) -> None:
    options = BASE | {"depth": 2, "global_pool": "map", "class_token": False}
    model = vitpool.VisionTransformer(**options, seed=0) if fresh else small(**options)
    random = set(model.untrained())
    before = model.snapshot()
    for i, change in enumerate(changes):
        if i == start:
            before = model.snapshot()
        random = change(model, random) & set(model.param_shapes())
    old, new = before.state_dict(), model.state_dict()
    difference = model.diff(before)
    same = [
        n
        for n in new
        if n in old
        and new[n].shape == old[n].shape
        and new[n].tobytes() == old[n].tobytes()
    ]
    assert difference.kept == same
    assert difference.changed == [n for n in new if n in old and n not in same]
    assert difference.added == [n for n in new if n not in old]
    assert difference.removed == [n for n in old if n not in new]
    assert difference.untrained == [n for n in new if n in random]
    assert sorted(difference.shapes) == sorted({*old, *new})
    assert bool(difference) == (list(old) != same or difference.options != {})
    lines = difference.lines()
    assert len(lines) == len(set(lines))
    for name in difference.changed + difference.added + difference.removed:
        part = name.split(".")[0]
        assert any(line.startswith(part) and "kept" not in line for line in lines)
