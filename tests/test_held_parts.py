# SPDX-License-Identifier: Apache-2.0
"""Who holds a part that a change drops keeps it as it was; the rest shows the model."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from models import small

from vitpool.model import VisionTransformer


def weights(part: Any) -> dict[str, np.ndarray]:
    return dict(part.named_parameters())


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def held(model: VisionTransformer) -> dict[str, Any]:
    last = model.blocks[-1]
    return {
        "block": last,
        "attention": last.attn,
        "linear": last.attn.qkv,
        "head": model.head,
        "pool": model.attn_pool,
        "pool's norm": model.attn_pool.norm,
        "norm": model.norm,
    }


@pytest.mark.parametrize("prune_norm", [False, True])
@pytest.mark.parametrize("prune_head", [False, True])
def test_what_pruning_drops_is_kept_by_who_holds_it(
    prune_norm: bool, prune_head: bool
) -> None:
    model = small(depth=3, global_pool="map", seed=1)
    parts = held(model)
    before = {name: weights(part) for name, part in parts.items()}
    assert all(before.values())
    model.prune_intermediate_layers([0], prune_norm, prune_head)
    for name, part in parts.items():
        assert same(weights(part), before[name]), name
    dropped = ["block", "attention", "linear"] + ["norm"] * prune_norm
    if prune_head:
        dropped += ["head", "pool", "pool's norm"]
        assert not weights(model.head)
        assert model.attn_pool is None
    state = model.state_dict()
    model.load_state_dict({key: value + 1 for key, value in state.items()})
    for name, part in parts.items():
        assert same(weights(part), before[name]) == (name in dropped), name


def test_what_reset_classifier_drops_is_kept_by_who_holds_it() -> None:
    model = small(depth=2, global_pool="map", seed=1)
    parts = held(model)
    before = {name: weights(part) for name, part in parts.items()}
    model.reset_classifier(4, "avg")
    state = model.state_dict()
    model.load_state_dict({key: value + 1 for key, value in state.items()})
    for name, part in parts.items():
        dropped = name in ("head", "pool", "pool's norm")
        assert same(weights(part), before[name]) == dropped, name


def test_a_part_that_stays_shows_the_model_as_it_is() -> None:
    model = small(depth=2, seed=1)
    block = model.blocks[0]
    model.set_input_size(img_size=64)
    model.prune_intermediate_layers([0])
    state = model.state_dict()
    model.load_state_dict({key: value + 1 for key, value in state.items()})
    expected = model.get_parameter("blocks.0.norm1.bias")
    np.testing.assert_array_equal(block.norm1.bias, expected)


def test_parts_that_nobody_holds_are_forgotten() -> None:
    model = small(depth=2)
    for _ in range(100):
        assert model.blocks[0].attn.qkv.weight.any()
    assert len(model._parts) == 0


def test_a_pool_of_another_kind_is_another_part() -> None:
    """prr's pool has no parameters; the held one must not show those of map's."""
    model = small(global_pool="prr")
    pool = model.attn_pool
    before = weights(pool)
    model.reset_classifier(3, "map", add_attn_pool=True)
    assert model.attn_pool is not pool
    assert same(weights(pool), before)
    assert weights(model.attn_pool)


def test_a_part_is_one_object_for_as_long_as_it_is_held() -> None:
    model = small(depth=2, global_pool="map")
    parts = [model.head, model.attn_pool, model.blocks, model.blocks[1].attn.qkv]
    again = [model.head, model.attn_pool, model.blocks, model.blocks[-1].attn.qkv]
    assert all(a is b for a, b in zip(parts, again, strict=True))


def test_parts_of_a_dropped_part_are_of_it() -> None:
    model = small(depth=3)
    block = model.blocks[2]
    want = weights(block.mlp)
    model.prune_intermediate_layers([0])
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
    assert same(weights(block.mlp), want)
    assert len(list(model.blocks)) == 1
    with pytest.raises(IndexError):
        model.blocks[2]


def test_a_part_is_not_looked_up_while_a_model_is_exchanged() -> None:
    """Between a model's exchange and the moment at which the old head is kept."""
    found: list[Any] = []
    waited: list[bool] = []

    class Slow(VisionTransformer):
        def _keep_lost_parts(self, *states: Any) -> None:
            other = threading.Thread(target=lambda: found.append(self.head))
            other.start()
            other.join(0.1)
            waited.append(not found)
            super()._keep_lost_parts(*states)
            threads.append(other)

    threads: list[threading.Thread] = []
    model = small(depth=1)
    model.__class__ = Slow
    old = model.head
    model.reset_classifier(3)
    threads[0].join(60)
    assert waited == [True]
    assert found[0] is model.head
    assert found[0] is not old
    assert found[0].bias.shape == (3,)
    assert old.bias.shape == (10,)


def test_a_model_dies_with_its_last_holder_without_the_collector() -> None:
    model = small()
    head = model.head
    seen = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert seen() is not None
        assert head.bias.shape == (10,)
        del head
        assert seen() is None
    finally:
        gc.enable()
