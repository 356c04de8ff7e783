# SPDX-License-Identifier: Apache-2.0
"""What is assigned is what computes: an array is loaded, all else is refused."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import X, copies, refused, same, small

import vitpool
from vitpool.labels import labels_for

PATHS = [
    "cls_token",
    "reg_token",
    "pos_embed",
    "patch_embed.proj.weight",
    "blocks.0.norm1.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.attn.qkv.bias",
    "blocks.1.ls2.gamma",
    "attn_pool.latent",
    "attn_pool.kv.weight",
    "head.weight",
    "head.bias",
]


@pytest.fixture
def model() -> Any:
    return small(depth=2, global_pool="map", reg_tokens=1, init_values=0.5)


def assign(model: Any, path: str, value: Any) -> None:
    part, _, name = path.rpartition(".")
    setattr(model.get_submodule(part), name, value)


def shown(model: Any, path: str) -> Any:
    part, _, name = path.rpartition(".")
    return getattr(model.get_submodule(part), name)


@pytest.mark.parametrize("path", PATHS)
def test_an_array_that_is_assigned_is_loaded(model: Any, path: str) -> None:
    """As load_state_dict would: shown, in the state dict and in the output."""
    value = recipe.picture(model.param_shapes()[path], 7)
    before, expected = copies(model), copy.copy(model)
    output = model(X)
    expected.load_state_dict({path: value}, strict=False)
    assign(model, path, value)
    assert same(copies(model), before | {path: value})
    np.testing.assert_array_equal(shown(model, path), value)
    np.testing.assert_array_equal(model(X), expected(X))
    assert not np.array_equal(model(X), output)
    value[...] = 0  # the caller's array is not the model's
    assert shown(model, path).any()


def test_what_a_float_array_may_be_is_taken(model: Any) -> None:
    for value in (
        np.full(10, 0.5),
        np.full(10, 0.5, np.float16),
        np.full((10, 2), 0.5, "f4")[:, 0],
        [0.5] * 10,
    ):
        model.head.bias = np.zeros(10, "f4")
        model.head.bias = value
        np.testing.assert_array_equal(model.head.bias, np.full(10, 0.5, "f4"))


REFUSED: dict[str, tuple[type[Exception], str, Any]] = {
    "shape": (ValueError, "(10, 32)", np.zeros((9, 32), "f4")),
    "transposed": (ValueError, "(10, 32)", np.zeros((32, 10), "f4")),
    "integers": (TypeError, "head.weight", np.zeros((10, 32), int)),
    "None": (TypeError, "head.weight", None),
    "number": (ValueError, "(10, 32)", np.float32(1)),
    "text": (TypeError, "head.weight", "weights.npz"),
    "masked": (TypeError, "head.weight", np.ma.masked_all((10, 32), "f4")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_array_that_does_not_fit_changes_nothing(model: Any, name: str) -> None:
    error, words, value = REFUSED[name]
    with refused(error, words, model=model):
        model.head.weight = value


@pytest.mark.parametrize(
    ("path", "way"),
    [
        ("patch_embed.strict_img_size", "VisionTransformer(dynamic_img_size=True)"),
        ("patch_embed.img_size", "model.set_input_size"),
        ("norm.eps", "VisionTransformer(norm_layer=(name, eps))"),
        ("norm.normalized_shape", "options"),
        ("blocks.0.attn.num_heads", "VisionTransformer(num_heads=...)"),
        ("blocks.0.attn.scale", "options"),
        ("blocks.0.attn", "assign its parameters"),
        ("blocks.0.attn.qkv", "assign its parameters"),
        ("head.out_features", "model.reset_classifier"),
        ("head_drop.p", "options"),
        ("norm_pre.weight", "Identity"),
        ("head.scale", "has no 'scale' to assign to"),
        ("head.forward", "read-only"),
        ("attn_pool.num_heads", "num_heads"),
        ("num_classes", ""),
        ("head", ""),
        ("norm", ""),
    ],
)
def test_what_is_no_parameter_cannot_be_assigned(
    model: Any, path: str, way: str
) -> None:
    with refused(AttributeError, way, model=model):
        assign(model, path, 1)


def test_what_the_model_was_built_without_cannot_be_assigned() -> None:
    model = small(qkv_bias=False, class_token=False, global_pool="avg")
    with refused(AttributeError, "blocks.0.attn.qkv.bias", "without it", model=model):
        model.blocks[0].attn.qkv.bias = np.zeros(96, "f4")
    with refused(AttributeError, "cls_token cannot be assigned", model=model):
        model.cls_token = np.zeros((1, 1, 32), "f4")


def test_what_was_read_cannot_be_written_into(model: Any) -> None:
    """NumPy says so; a copy can."""
    with pytest.raises(ValueError, match="read-only"):
        model.head.bias[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        model.head.bias += 1
    bias = model.head.bias.copy()
    bias[0] = 100
    model.head.bias = bias
    assert model(X).argmax(1).tolist() == [0, 0]


def test_a_name_cannot_be_deleted(model: Any) -> None:
    for path in ("head.weight", "norm.eps", "blocks.0.attn"):
        part, _, name = path.rpartition(".")
        with refused(AttributeError, model=model):
            delattr(model.get_submodule(part), name)


def test_assignments_of_several_threads_are_all_loaded() -> None:
    """Each changes what it names, and undoes no other's."""
    model = small(depth=4)
    ready = threading.Barrier(4)

    def work(block: int) -> None:
        part = model.blocks[block].norm1
        ready.wait(60)
        for number in range(50):
            part.weight = np.full(32, number, "f4")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for block in model.blocks:
        assert block.norm1.weight.tolist() == [49.0] * 32


def test_a_part_that_is_lost_meanwhile_is_not_assigned() -> None:
    """The head is exchanged between the assignment's begin and its end."""
    model = small()
    old = model.head

    class Racing(vitpool.VisionTransformer):
        raced = False

        def _commit(self, *states: Any) -> bool:
            if not Racing.raced:
                Racing.raced = True
                self.reset_classifier(10, seed=5)
            return super()._commit(*states)

    model.__class__ = Racing
    before = old.bias
    with refused(AttributeError, "the model no longer has this part"):
        old.bias = np.ones(10, "f4")
    assert model.head is not old
    assert not (model.head.bias == 1).any()
    np.testing.assert_array_equal(old.bias, before)


# -- set_head --


def test_set_head_makes_a_classifier_and_keeps_the_pool() -> None:
    model = small(global_pool="map")
    pool, old = model.attn_pool, model.head
    features = model.forward_head(model.forward_features(X), pre_logits=True)
    weight, bias = recipe.picture((3, 32)), recipe.picture((3,))
    model.set_head(weight, bias, ["a", "b", "c"])
    assert model.num_classes == 3
    assert model.attn_pool is pool
    assert model.head is not old
    np.testing.assert_array_equal(model.head.weight, weight)
    np.testing.assert_array_equal(model.head.bias, bias)
    want = features @ weight.T + bias
    np.testing.assert_allclose(model(X), want, rtol=1e-4, atol=1e-5)
    assert model.pretrained_cfg["label_names"] == ["a", "b", "c"]
    labels = labels_for(model.pretrained_cfg, 3)
    assert [labels[i] for i in range(3)] == ["a", "b", "c"]
    model.set_head(weight.astype("f8")[:1])
    assert model.num_classes == 1
    assert model.head.bias.tolist() == [0.0]


def test_set_head_gives_a_head_to_a_model_without() -> None:
    model = small(num_classes=0)
    assert model(X).shape == (2, 32)
    model.set_head(np.eye(2, 32, dtype="f4"))
    features = model.forward_head(model.forward_features(X), pre_logits=True)
    np.testing.assert_allclose(model(X), features[:, :2], rtol=1e-6)


BAD_HEADS: dict[str, tuple[type[Exception], str, tuple[Any, ...]]] = {
    "width": (
        ValueError,
        "(K, 32), a row for each class, not (3, 31)",
        (np.ones((3, 31)),),
    ),
    "rank": (ValueError, "(K, 32)", (np.ones(32),)),
    "no class": (ValueError, "(K, 32)", (np.ones((0, 32)),)),
    "integers": (TypeError, "weight", (np.ones((3, 32), int),)),
    "bias": (ValueError, "(3,), not (2,)", (np.ones((3, 32)), np.ones(2))),
    "labels": (
        ValueError,
        "3 names, one a class, not 2",
        (np.ones((3, 32)), None, ["a", ""]),
    ),
    "a label": (TypeError, "strings, not int", (np.ones((1, 32)), None, [3])),
    "text": (TypeError, "a list of names", (np.ones((3, 32)), None, "abc")),
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_head_that_does_not_fit_changes_nothing(name: str) -> None:
    model = small()
    cfg = dict(model.pretrained_cfg)
    error, words, arguments = BAD_HEADS[name]
    with refused(error, words, model=model):
        model.set_head(*arguments)
    assert model.pretrained_cfg == cfg
