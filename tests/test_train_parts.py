# SPDX-License-Identifier: Apache-2.0
"""What `train` means, and that training goes on from what the frozen part gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import X, small

from vitpool.train import features_of, gradients, logits_of, part_of

MAP = {"class_token": False, "global_pool": "map", "depth": 3}
Y = np.array([1, 7])


def starts(names: tuple[str, ...]) -> set[str]:
    """Where each name's module is: two words for a block's."""
    words = (name.split(".") for name in names)
    return {".".join(w[: 2 if w[0] == "blocks" else 1]) for w in words}


BEHIND = {"attn_pool", "head"}


@pytest.mark.parametrize(
    ("train", "modules", "entry", "block"),
    [
        ("head", {"head"}, "pre_logits", 0),
        ("pool", BEHIND, "features", 0),
        (0, BEHIND | {"norm"}, "block", 3),
        (1, BEHIND | {"norm", "blocks.2"}, "block", 2),
        (3, BEHIND | {"norm", "blocks.0", "blocks.1", "blocks.2"}, "block", 0),
        (["norm.bias"], {"norm"}, "block", 3),
        (["head.bias", "blocks.1.norm1.weight"], {"blocks.1", "head"}, "block", 1),
        (["attn_pool.latent"], {"attn_pool"}, "features", 0),
        (["head.bias"], {"head"}, "pre_logits", 0),
        (["pos_embed"], {"pos_embed"}, "images", 0),
        (["patch_embed.proj.bias", "head.bias"], {"patch_embed", "head"}, "images", 0),
    ],
)
def test_train_names_parameters_and_where_they_begin(
    train: Any, modules: set[str], entry: str, block: int
) -> None:
    part = part_of(small(**MAP), train)
    assert (starts(part.names), part.entry, part.block) == (modules, entry, block)


def test_all_is_every_parameter_in_order() -> None:
    model = small(**MAP)
    part = part_of(model, "all")
    assert part.names == tuple(model.param_shapes())
    assert part.entry == "images"


def test_a_pool_without_parameters_is_the_head_and_fc_norm_goes_with_it() -> None:
    assert part_of(small(), "pool") == part_of(small(), "head")
    part = part_of(small(global_pool="avg"), "pool")
    assert starts(part.names) == {"fc_norm", "head"}
    assert part.entry == "features"


@pytest.mark.parametrize("train", ["head", "pool", 0, 1, 2, 3, "all", ["head.weight"]])
@pytest.mark.parametrize(
    "options", [MAP, {"depth": 3, "reg_tokens": 2}, {"depth": 3, "global_pool": "avg"}]
)
def test_features_lead_to_the_models_logits_loss_and_gradients(
    train: Any, options: dict[str, Any]
) -> None:
    model = small(**options)
    part = part_of(model, train)
    features = features_of(model, part, X)
    assert part.is_images(features.shape, model._options()) == (part.entry == "images")
    np.testing.assert_allclose(
        logits_of(model, part, features), model(X), rtol=1e-5, atol=1e-5
    )
    loss, arrays = gradients(model, X, Y, train=train)
    again, same = gradients(model, features, Y, train=train)
    assert tuple(arrays) == part.names
    assert loss == again
    for name, array in arrays.items():
        assert array.shape == model.param_shapes()[name]
        assert np.array_equal(array, same[name]), name


@pytest.mark.parametrize("train", ["head", 1, 3, "all"])
def test_images_of_another_size_train_where_the_model_takes_them(train: Any) -> None:
    model = small(**MAP, dynamic_img_size=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 48, 32), np.float32)
    part = part_of(model, train)
    features = features_of(model, part, x)
    np.testing.assert_allclose(
        logits_of(model, part, features), model(x), rtol=1e-5, atol=1e-5
    )
    assert gradients(model, x, Y, train=train)[0] == pytest.approx(
        gradients(model, features, Y, train=train)[0], rel=1e-6
    )


@pytest.mark.parametrize("train", ["head", 0, "all"])
def test_a_model_without_blocks_trains(train: Any) -> None:
    model = small(depth=0)
    features = features_of(model, part_of(model, train), X)
    loss, _ = gradients(model, features, Y, train=train)
    logits = model(X).astype(np.float64)
    exact = np.log(np.exp(logits).sum(1)) - logits[[0, 1], Y]
    assert loss == pytest.approx(exact.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("train", "error", "text"),
    [
        ("haed", ValueError, "did you mean 'head'"),
        ("norm.bias", ValueError, r"one name is \['norm.bias'\]"),
        (4, ValueError, "at most the model's 3 blocks, not 4"),
        (-1, ValueError, "train must be at least 0"),
        (True, TypeError, "not bool"),
        (1.0, TypeError, "not float"),
        (None, TypeError, "not NoneType"),
        ([], ValueError, "empty"),
        ([1], TypeError, "strings, not int"),
        (["norm.biass"], ValueError, "'norm.biass'; did you mean 'norm.bias'"),
    ],
)
def test_a_train_that_is_nothing_is_refused(
    train: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        part_of(small(**MAP), train)


def test_a_model_without_head_or_pool_does_not_train() -> None:
    with pytest.raises(ValueError, match=r"no classifier.*reset_classifier"):
        part_of(small(num_classes=0), "head")
    with pytest.raises(ValueError, match="no pool"):
        part_of(small(global_pool=""), "head")


@pytest.mark.parametrize(
    ("train", "shape"),
    [
        ("head", (2, 31)),
        ("head", (2, 5, 32)),
        ("pool", (2, 32)),
        ("all", (2, 5, 32)),
        (1, (2, 4, 32, 32)),
    ],
)
def test_inputs_of_another_shape_are_refused(
    train: Any, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"x must be images \(B, 3, height, width\)"):
        gradients(small(**MAP), np.zeros(shape, np.float32), Y, train=train)
