# SPDX-License-Identifier: Apache-2.0
"""VisionTransformerDistilled without torch: two tokens, two heads, and their mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from concepts import options_of, small_of
from golden import recipe
from models import refused

import vitpool
from vitpool.model import Pooling

BASE: dict[str, Any] = options_of("distilled")[1]
X = recipe.picture((2, 3, 32, 48))
WEIGHT = recipe.uniform((2, 3, 32), "heads").astype(np.float32)
BIAS = recipe.uniform((2, 3), "biases").astype(np.float32)


@pytest.fixture
def model() -> Any:
    return small_of("distilled")


def test_it_is_a_vision_transformer(model: Any) -> None:
    assert isinstance(model, vitpool.VisionTransformer)
    assert model.num_prefix_tokens == 2
    assert model.pos_embed.shape == (1, 2 + 6, 32)
    layers = model.get_intermediate_layers(X, return_prefix_tokens=True)
    assert layers[0][1].shape == (2, 2, 32)


def test_logits_are_the_mean_of_two_heads(model: Any) -> None:
    tokens = model.forward_features(X)
    head, head_dist = model.get_classifier()
    assert (head, head_dist) == (model.head, model.head_dist)
    mean = (head(tokens[:, 0]) + head_dist(tokens[:, 1])) / 2
    assert np.allclose(model(X), mean, atol=1e-5)
    features = (tokens[:, 0] + tokens[:, 1]) / 2
    assert np.allclose(model.forward_head(tokens, pre_logits=True), features, atol=1e-6)
    model.reset_classifier(0)
    assert np.allclose(model(X), features, atol=1e-6)


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        ("global_pool", "avg", "class and distillation tokens"),
        ("global_pool", "", "class and distillation tokens"),
        ("class_token", False, "reads the class token"),
        ("reg_tokens", 1, "class and a distillation token"),
        ("pos_embed", "none", "always has a position embedding"),
        ("no_embed_class", True, "have positions"),
        ("fc_norm", True, "before the heads' tokens"),
    ],
)
def test_options_that_two_heads_cannot_have(option: str, value: Any, why: str) -> None:
    with refused(ValueError, option, "VisionTransformerDistilled", why):
        vitpool.VisionTransformerDistilled(**BASE | {option: value})


def test_both_heads_are_made_anew(model: Any) -> None:
    held = model.get_classifier()
    before = [head.weight.copy() for head in held]
    model.reset_classifier(7, "token")
    assert model.untrained() == [
        *("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")
    ]
    assert model.head.weight.tobytes() != model.head_dist.weight.tobytes()
    for head, weight, now in zip(held, before, model.get_classifier(), strict=True):
        assert head is not now
        assert head.weight.tobytes() == weight.tobytes()  # who holds it keeps it


def test_other_pools_are_refused(model: Any) -> None:
    for pool in ("avg", "max", "map", ""):
        with refused(ValueError, "global_pool", "token", model=model, x=X):
            model.reset_classifier(3, pool)
    model.reset_classifier(0, "")  # as timm's builder of feature extractors asks for
    assert model.global_pool == "token"


def test_one_head_of_given_numbers_is_both(model: Any) -> None:
    features = model.forward_head(model.forward_features(X), pre_logits=True)
    model.set_head(WEIGHT[0], BIAS[0])
    assert model.head.weight.tobytes() == model.head_dist.weight.tobytes()
    assert np.allclose(model(X), features @ WEIGHT[0].T + BIAS[0], atol=1e-5)


def test_two_heads_of_given_numbers(model: Any) -> None:
    tokens = model.forward_features(X)
    model.set_head(WEIGHT, BIAS, labels=["a", "b", "c"])
    both = [tokens[:, i] @ WEIGHT[i].T + BIAS[i] for i in (0, 1)]
    assert np.allclose(model(X), (both[0] + both[1]) / 2, atol=1e-5)
    assert model.pretrained_cfg["label_names"] == ["a", "b", "c"]
    model.set_head(WEIGHT)
    assert not model.head_dist.bias.any()


@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (WEIGHT[:, :, 1:], BIAS),
        (WEIGHT[:1], BIAS[:1]),
        (WEIGHT, BIAS[0]),
        (WEIGHT[0], BIAS),
        (WEIGHT[:, :0], BIAS[:, :0]),
        (WEIGHT[None], BIAS),
    ],
)
def test_heads_that_do_not_fit(model: Any, weight: Any, bias: Any) -> None:
    with refused(ValueError, "must have shape", model=model, x=X):
        model.set_head(weight, bias)


def test_it_does_not_train_its_heads_apart(model: Any) -> None:
    model.set_distilled_training(False)
    model.distilled_training = False
    assert model.distilled_training is False
    for enable in (
        lambda: model.set_distilled_training(),
        lambda: setattr(model, "distilled_training", True),
    ):
        with refused(NotImplementedError, "training", model=model, x=X):
            enable()


def test_a_folder_names_both_classifiers(model: Any, tmp_path: Any) -> None:
    model.save_pretrained(tmp_path)
    twin = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert twin.pretrained_cfg["classifier"] == ("head", "head_dist")
    other = vitpool.create_model(
        f"local-dir:{tmp_path}", pretrained=True, num_classes=2
    )
    assert other.untrained() == [k for k in other.state_dict() if k.startswith("head")]
    assert twin(X).tobytes() == model(X).tobytes()


def test_its_vector_is_the_same_beside_other_pools(model: Any) -> None:
    alone, both = Pooling(model)(X), Pooling(model, "token,avg")(X)
    assert both["token"].tobytes() == alone["token"].tobytes()
    tokens = model.forward_features(X)
    assert np.allclose(alone["token"], tokens[:, :2].mean(1), atol=1e-6)
    assert np.allclose(both["avg"], tokens[:, 2:].mean(1), atol=1e-6)
