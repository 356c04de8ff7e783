# SPDX-License-Identifier: Apache-2.0
"""A batch that goes through in several chunks is each picture alone, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from golden import recipe

import vitpool

TOKENS, WIDTH = 17, 64
OPTIONS: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": WIDTH,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
}
POOLS = ("token", "avg", "map", "prr", "")
CHUNK = (12 << 20) // 4 // (TOKENS * (5 * WIDTH + 4 * WIDTH))
COUNT = 2 * CHUNK + CHUNK // 2
# Pictures on both sides of each border, and the ends.
SOME = (0, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, COUNT - 1)
X = recipe.picture((COUNT, 3, 32, 32))


def build(pool: str, **options: Any) -> Any:
    model = vitpool.VisionTransformer(**OPTIONS | options, global_pool=pool, seed=0)
    model.load_state_dict(recipe.weights(model.param_shapes()))
    return model


def mask(kind: str) -> np.ndarray:
    """A mask for each picture, which every head shares."""
    return recipe.mask(kind, (COUNT, 1, TOKENS, TOKENS))


def check(call: Callable[..., Any], *arrays: np.ndarray) -> None:
    """Raise AssertionError unless call(*arrays) is what each picture gives alone."""
    whole = list(recipe.flat(call(*arrays)))
    assert whole
    for i in SOME:
        alone = dict(recipe.flat(call(*(a[i : i + 1] for a in arrays))))
        for path, array in whole:
            assert len(array) == COUNT
            assert alone[path][0].tobytes() == array[i].tobytes(), f"{path}, row {i}"


def test_the_batch_goes_through_in_three_chunks() -> None:
    """Or nothing below would be a test."""
    profile = build("token").profile(X)
    assert profile["pos_embed"]["calls"] == 3


@pytest.mark.parametrize("pool", POOLS)
def test_logits_of_every_chunk_are_those_of_each_picture(pool: str) -> None:
    check(build(pool), X)


@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_a_mask_for_each_picture_moves_with_the_chunk(kind: str) -> None:
    model = build("token")
    check(lambda x, m: model(x, attn_mask=m), X, mask(kind))


@pytest.mark.parametrize("pool", ["token", "map", "prr"])
def test_attention_weights_of_every_chunk_have_their_place(pool: str) -> None:
    model = build(pool)
    keys = [0, 1] if pool == "token" else [0, 1, "attn_pool"]
    check(lambda x, m: model(x, attn_mask=m, return_attn=keys), X, mask("bool"))


@pytest.mark.parametrize("norm", [False, True])
def test_intermediates_of_every_chunk_have_their_place(norm: bool) -> None:
    model = build("token")
    check(
        lambda x, m: model.forward_intermediates(x, attn_mask=m, norm=norm),
        X,
        mask("additive"),
    )


@pytest.mark.parametrize("pool", POOLS)
def test_tokens_are_pooled_and_classified_in_chunks(pool: str) -> None:
    model = build(pool)
    tokens = model.forward_features(X)
    check(model.forward_head, tokens)
    check(lambda x: model.forward_head(x, pre_logits=True), tokens)
    check(model.pool, tokens)
    for name in ("", "max"):
        check(lambda x, name=name: model.pool(x, name), tokens)
