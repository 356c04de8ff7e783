# SPDX-License-Identifier: Apache-2.0
"""Attributes of the user's own on a model, and names that are the model's."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from models import BASE, X, copies, refused, same, small
from test_pickles import MODELS, load

import vitpool
from vitpool import _core

WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {n}": lambda m, n=n: pickle.loads(pickle.dumps(m, n))
        for n in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


class Named(vitpool.VisionTransformer):
    """A user's subclass: another constructor, a default, a property, a method."""

    threshold = 0.5

    def __init__(self, names: list[str]) -> None:
        super().__init__(**BASE | {"num_classes": len(names)}, seed=0)
        self.class_names = names

    @property
    def first(self) -> str:
        return self.class_names[0]

    @first.setter
    def first(self, name: str) -> None:
        self.class_names[0] = name

    def named(self, x: np.ndarray) -> list[str]:
        return [self.class_names[i] for i in self(x).argmax(1)]


@pytest.mark.parametrize("way", WAYS)
def test_own_attributes_go_along(way: str) -> None:
    model = small()
    model.class_names = ["cat", "dog"]
    model._mine = {"of": "mine"}
    model.pretrained_cfg = {"tag": "a"}
    twin = WAYS[way](model)
    assert twin.class_names == ["cat", "dog"]
    assert twin._mine == {"of": "mine"}
    assert twin.pretrained_cfg == {"tag": "a"}
    assert same(copies(twin), copies(model))
    twin.more = 1
    assert not hasattr(model, "more")


def test_a_copy_shares_what_a_deep_copy_does_not() -> None:
    model = small()
    model.class_names = ["cat", "dog"]
    model.pretrained_cfg = {"mean": [0.5]}
    model.itself = model
    assert copy.copy(model).class_names is model.class_names
    deep = copy.deepcopy(model)
    deep.class_names.append("cow")
    deep.pretrained_cfg["mean"].append(1)
    assert model.class_names == ["cat", "dog"]
    assert model.pretrained_cfg == {"mean": [0.5]}
    assert deep.itself is deep
    twin = pickle.loads(pickle.dumps(model))
    assert twin.itself is twin


@pytest.mark.parametrize("way", WAYS)
def test_a_subclass_with_another_constructor_goes_round(way: str) -> None:
    model = Named(["a", "b", "c"])
    model.threshold = 0.7
    model.first = "A"
    twin = WAYS[way](model)
    assert type(twin) is Named
    assert (twin.class_names, twin.threshold, twin.first) == (["A", "b", "c"], 0.7, "A")
    assert twin.named(X) == model.named(X)
    assert Named.threshold == 0.5


def test_own_attributes_can_be_deleted_and_are_not_made_up() -> None:
    model = small()
    model.class_names = 1
    del model.class_names
    assert not hasattr(model, "class_names")
    assert not hasattr(copy.copy(model), "class_names")


@pytest.mark.parametrize("name", MODELS)
def test_pickles_of_0_1_0_take_own_attributes_too(name: str) -> None:
    model = load(name)
    model.class_names = ["cat"]
    assert pickle.loads(pickle.dumps(model)).class_names == ["cat"]
    assert model.untrained() == []


def test_a_pickle_of_version_2_loads() -> None:
    model = small(global_pool="map")
    rebuild, arguments = model.__reduce__()
    twin = rebuild(*arguments[:4], 2)
    assert same(copies(twin), copies(model))
    assert twin.untrained() == []


def owned() -> list[str]:
    """Every public name of the model's that cannot be set."""
    names = {n for n in dir(vitpool.VisionTransformer) if not n.startswith("__")}
    members = {n: inspect.getattr_static(vitpool.VisionTransformer, n) for n in names}
    return sorted(n for n, m in members.items() if getattr(m, "fset", None) is None)


@pytest.mark.parametrize("name", owned())
def test_a_name_of_the_models_own_is_refused_and_not_hidden(name: str) -> None:
    model = small()
    with refused(AttributeError, name, model=model):
        setattr(model, name, 5)
    assert name not in vars(model)


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("num_classes", "reset_classifier"),
        ("global_pool", "reset_classifier"),
        ("head", "reset_classifier"),
        ("attn_pool", "add_attn_pool=True"),
        ("img_size", "set_input_size"),
        ("blocks", "prune_intermediate_layers"),
        ("norm", "load_state_dict"),
        ("forward", "a subclass may override it"),
        ("embed_dim", "constructor's options"),
    ],
)
def test_a_refusal_says_the_way(name: str, way: str) -> None:
    with pytest.raises(AttributeError, match=way):
        setattr(small(), name, None)


def test_a_subclass_may_override_and_assign_what_it_overrides() -> None:
    class Own(vitpool.VisionTransformer):
        forward_head: Any = None
        num_features = 3

    model = Own(**BASE, seed=0)
    model.num_features = 4
    assert model.num_features == 4
    with pytest.raises(AttributeError, match="reset_classifier"):
        model.num_classes = 4  # type: ignore[misc]


# which parameters are random

HEAD = ["head.weight", "head.bias"]


def loaded(**options: Any) -> Any:
    model = small(**options)
    assert model.untrained() == []
    return model


def test_a_model_without_weights_is_untrained_until_they_are_loaded() -> None:
    model = vitpool.VisionTransformer(**BASE, seed=0)
    names = list(model.param_shapes())
    assert model.untrained() == names
    state = model.state_dict()
    model.load_state_dict({"norm.weight": state["norm.weight"]}, strict=False)
    assert model.untrained() == [n for n in names if n != "norm.weight"]
    model.load_state_dict(state)
    assert model.untrained() == []
    assert vitpool.VisionTransformer(**BASE, weights=state).untrained() == []


def test_a_new_head_and_a_new_pool_are_untrained() -> None:
    model = loaded()
    model.reset_classifier(5)
    assert model.untrained() == HEAD
    model.reset_classifier(5, "map", add_attn_pool=True)
    pool = [n for n in model.param_shapes() if n.startswith("attn_pool.")]
    assert model.untrained() == [*pool, *HEAD]
    model.load_state_dict({n: model.get_parameter(n) for n in pool}, strict=False)
    model.reset_classifier(5)
    assert model.untrained() == HEAD, "a pool that is kept was loaded"
    model.reset_classifier(0, "avg")
    assert model.untrained() == []


def test_a_parameter_that_is_assigned_is_random_no_more() -> None:
    model = loaded()
    model.reset_classifier(5)
    model.head.weight = np.ones((5, 32), np.float32)
    assert model.untrained() == ["head.bias"]
    model.pos_embed = model.pos_embed
    assert model.untrained() == ["head.bias"]


def test_a_failed_change_leaves_what_is_random_alone() -> None:
    model = vitpool.VisionTransformer(**BASE, seed=0)
    before = model.untrained()
    with pytest.raises(ValueError, match=r"head\.bias"):
        model.load_state_dict(model.state_dict() | {"head.bias": np.zeros(3)})
    assert model.untrained() == before


def test_resampled_random_numbers_are_random_and_pruning_keeps_the_rest() -> None:
    model = vitpool.VisionTransformer(**BASE | {"depth": 2}, seed=0)
    model.set_input_size(64, patch_size=8)
    assert model.untrained() == list(model.param_shapes())
    model.prune_intermediate_layers([0])
    assert model.untrained() == list(model.param_shapes())
    trained = loaded()
    trained.set_input_size(64, patch_size=8)
    assert trained.untrained() == []


@pytest.mark.parametrize("way", WAYS)
def test_copies_and_pickles_know_what_is_random(way: str) -> None:
    model = loaded()
    model.reset_classifier(5)
    assert WAYS[way](model).untrained() == HEAD


def test_a_head_that_no_file_had_is_untrained(tmp_path: Any) -> None:
    from safetensors.numpy import save_file

    from vitpool.checkpoint import build_with_checkpoint

    path = tmp_path / "model.safetensors"
    save_file(copies(loaded()), path)
    cfg = {"num_classes": 10}
    assert build_with_checkpoint(BASE, cfg, path).untrained() == []
    other = BASE | {"num_classes": 3}
    assert build_with_checkpoint(other, cfg, path).untrained() == HEAD
    weights = {k: v for k, v in copies(loaded()).items() if "norm1" not in k}
    save_file(weights, path)
    partly = build_with_checkpoint(other, cfg, path, strict=False)
    assert partly.untrained() == [
        "blocks.0.norm1.weight",
        "blocks.0.norm1.bias",
        *HEAD,
    ]


def test_marks_are_a_container_of_names() -> None:
    model = _core.VisionTransformer(small()._options(), small().state_dict())
    model._replace(None, {}, {"norm.bias", "no such name"})
    assert model.untrained() == ["norm.bias"]
