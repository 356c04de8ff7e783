# SPDX-License-Identifier: Apache-2.0
"""A batch that goes through in several chunks is each picture alone, bit for bit.

Chunks are two pictures here, and the blocks of attention a few tokens: the core's own
are far too large for a model that a test has time for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from golden import recipe

import vitpool
from vitpool import _core

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
COUNT = 5  # two chunks and a half
PICTURE_BYTES = TOKENS * (5 * WIDTH + 4 * WIDTH) * 4
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
    for i in range(COUNT):
        alone = dict(recipe.flat(call(*(a[i : i + 1] for a in arrays))))
        for path, array in whole:
            assert len(array) == COUNT
            assert alone[path][0].tobytes() == array[i].tobytes(), f"{path}, row {i}"


@pytest.fixture(autouse=True)
def _small_pieces() -> Iterator[None]:
    _core._set_limits(chunk_bytes=2 * PICTURE_BYTES, block_keys=8, block_queries=6)
    yield
    _core._set_limits()


def test_the_loops_are_entered() -> None:
    """Or nothing below would be a test."""
    profile = build("token").profile(X)
    assert profile["chunks"] == 3
    assert profile["pos_embed"]["calls"] == 3
    assert profile["key_blocks"] == 3 * profile["query_blocks"]
    whole = 3 * COUNT * OPTIONS["num_heads"]  # the first block's queries, all of them
    assert profile["query_blocks"] > whole


@pytest.mark.parametrize("pool", POOLS)
def test_blocks_of_queries_do_not_change_a_bit(pool: str) -> None:
    model = build(pool)
    how: dict[str, Any] = {"attn_mask": mask("bool"), "return_attn": [0, 1]}
    want = list(recipe.flat(model(X, **how)))
    for queries in (1, 5, 16, 17, 0):
        _core._set_limits(block_keys=8, block_queries=queries)
        got = dict(recipe.flat(model(X, **how)))
        for path, array in want:
            assert got[path].tobytes() == array.tobytes(), f"{queries}, {path}"


def test_blocks_of_keys_change_no_more_than_rounding() -> None:
    """With every mask: none, causal, bool and additive."""
    model = build("")
    hows: list[dict[str, Any]] = [{}, {"is_causal": True}]
    hows += [{"attn_mask": mask(kind)} for kind in ("bool", "additive")]
    for how in hows:
        _core._set_limits()
        want = model(X, **how)
        for keys in (1, 3, 8, 16):
            _core._set_limits(block_keys=keys)
            np.testing.assert_allclose(model(X, **how), want, rtol=0, atol=2e-5)


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


def test_a_block_may_be_asked_for_twice() -> None:
    weights = build("token")._run(X, 3, maps=[(1, 0), (0, 0), (1, 0)])[2]
    assert weights[2].tobytes() == weights[0].tobytes() != weights[1].tobytes()


def test_a_pass_from_tokens_goes_on_in_chunks() -> None:
    model = build("token")
    logits, (tokens,), _, _ = model._run(X, 3, taps=[(0, 0)])
    assert model._run(tokens, 3, first=1)[0].tobytes() == logits.tobytes()
    check(lambda x: model._run(x, 3, first=1)[0], tokens)


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
