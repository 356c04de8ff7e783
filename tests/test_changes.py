# SPDX-License-Identifier: Apache-2.0
"""What changes a model: nothing stale afterwards, nothing lost that came between."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import BASE, X, copies, same, small

import vitpool

# -- position embeddings of other image sizes --

WIDE = recipe.picture((2, 3, 32, 64))


def loaded(model: Any, seed: int) -> Any:
    model.load_state_dict(recipe.weights(model.param_shapes(), seed))
    return model


def reshaped(model: Any) -> Any:
    model.set_input_size(48)
    return model


@pytest.mark.parametrize(
    "change",
    [
        lambda m: loaded(m, 7),
        reshaped,
        lambda m: loaded(reshaped(m), 7),
        lambda m: copy.copy(loaded(m, 7)),
    ],
    ids=["load", "set_input_size", "both", "copy"],
)
def test_positions_of_another_size_are_those_of_the_weights_now(
    change: Callable[[Any], Any],
) -> None:
    model = small(dynamic_img_size=True)
    before = model(WIDE)
    model = change(model)
    fresh = vitpool.VisionTransformer(**model.config, weights=model.state_dict())
    got = model(WIDE)
    assert got.tobytes() == fresh(WIDE).tobytes()
    assert got.tobytes() != before.tobytes()


# -- a change that another thread makes meanwhile --


class Interrupted(vitpool.VisionTransformer):
    """Runs `meanwhile`, once, when a change has read it and is about to be made."""

    meanwhile: Callable[[Any], None] | None = None

    def _commit(self, before: Any, after: Any) -> bool:
        work, self.meanwhile = self.meanwhile, None
        if work is not None:
            work(self)
        return super()._commit(before, after)


def interrupted(meanwhile: Callable[[Any], None], **options: Any) -> Any:
    model = Interrupted(**BASE | {"depth": 3} | options, seed=0)
    model.load_state_dict(recipe.weights(model.param_shapes()))
    model.meanwhile = meanwhile
    return model


def test_a_load_beside_set_input_size_is_not_lost() -> None:
    new = recipe.weights(small(depth=3).param_shapes(), seed=3)
    model = interrupted(lambda m: m.load_state_dict(new))
    model.set_input_size(48, 8)
    after = small(depth=3)
    after.load_state_dict(new)
    after.set_input_size(48, 8)
    assert same(copies(model), copies(after))
    assert model.img_size == (48, 48)


def test_a_reset_beside_set_input_size_is_not_lost() -> None:
    model = interrupted(lambda m: m.reset_classifier(3, "avg"))
    model.set_input_size(48)
    assert (model.num_classes, model.global_pool) == (3, "avg")
    assert model.head.weight.shape == (3, 32)
    assert model.img_size == (48, 48)


def test_a_reset_beside_pruning_is_not_lost() -> None:
    model = interrupted(lambda m: m.reset_classifier(3, "avg"))
    assert model.prune_intermediate_layers([0, 1], prune_head=False) == [0, 1]
    assert (model.num_classes, model.global_pool) == (3, "avg")
    assert len(model.blocks) == 2


def test_a_pruning_beside_pruning_counts_the_blocks_that_are_left() -> None:
    model = interrupted(lambda m: m.prune_intermediate_layers([1]))
    with pytest.raises(ValueError, match="indices must be from -2 to 1"):
        model.prune_intermediate_layers([2])
    assert len(model.blocks) == 2


class Reset(vitpool.VisionTransformer):
    """Gets another head whenever one of its parts has been read."""

    restless = False

    @property
    def config(self) -> dict[str, Any]:
        config = super().config
        self.stir()
        return config

    def state_dict(self) -> dict[str, np.ndarray]:
        state = super().state_dict()
        self.stir()
        return state

    def stir(self) -> None:
        if self.restless:
            self.reset_classifier(self.num_classes + 1, seed=0)


def test_a_pickle_is_of_one_moment() -> None:
    model = Reset(**BASE, seed=0)
    model.restless = True
    again = pickle.loads(pickle.dumps(model))
    assert again.head.weight.shape == (again.num_classes, 32)
    assert np.isfinite(again(X)).all()


# -- parts that are held --


def test_a_held_head_keeps_its_weights_after_a_reset() -> None:
    model = small()
    head, weight = model.head, model.head.weight
    model.reset_classifier(5)
    assert head.weight.tobytes() == weight.tobytes()
    assert model.head is not head
    assert model.head.weight.shape == (5, 32)
    model.reset_classifier(0)
    assert head.weight.tobytes() == weight.tobytes()


@pytest.mark.parametrize("pool", ["avg", "token", ""])
def test_a_held_attention_pool_keeps_its_weights_after_another_pool(pool: str) -> None:
    model = small(global_pool="map")
    held, latent = model.attn_pool, model.attn_pool.latent
    model.reset_classifier(5, pool)
    assert model.attn_pool is None
    assert held.latent.tobytes() == latent.tobytes()
    assert held.mlp.fc1.weight.shape == (128, 32)
