# SPDX-License-Identifier: Apache-2.0
"""return_attn's numbers, against softmax(q k^T / sqrt(d)) written out in NumPy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import X, small

from vitpool import _core
from vitpool.model import LayerNorm

BLOCK = 1  # whose weights are looked at: lambda's start depends on the depth
HEADS, WIDTH = 4, 32
BLOCKS = [
    "Block",
    "ResPostBlock",
    "ParallelThingsBlock",
    "ParallelScalingBlock",
    "DiffParallelScalingBlock",
]


def build(**options: Any) -> Any:
    return small(depth=BLOCK + 1, num_heads=HEADS, **options)


def below(model: Any, x: np.ndarray) -> np.ndarray:
    """The tokens that BLOCK gets."""
    first = copy.copy(model)
    first.prune_intermediate_layers([BLOCK - 1], prune_norm=True)
    tokens: np.ndarray = first.forward_features(x)
    return tokens.astype(np.float64)


def norm(part: Any, x: np.ndarray) -> np.ndarray:
    """LayerNorm over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6)
    return x * part.weight.astype(np.float64) + part.bias


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def heads_of(x: np.ndarray, heads: int) -> np.ndarray:
    """(B, N, heads * d) to (B, heads, N, d)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def attention(q: np.ndarray, k: np.ndarray, mask: Any = None) -> np.ndarray:
    """softmax(q k^T / sqrt(d)) of (B, heads, N, d)."""
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = (
            np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
        )
    return softmax(scores)


def of_qkv(attn: Any, rows: np.ndarray, index: int, mask: Any = None) -> np.ndarray:
    """The weights of one attention from its joint projection's rows (B, N, 3 C)."""
    diff = hasattr(attn, "lambda_q1")
    heads = HEADS * 2 if diff else HEADS
    q, k = (heads_of(rows[..., i * WIDTH : (i + 1) * WIDTH], heads) for i in (0, 1))
    if isinstance(attn.q_norm, LayerNorm):
        q, k = norm(attn.q_norm, q), norm(attn.k_norm, k)
    weights = attention(q, k, mask)
    if not diff:
        return weights
    vectors = {
        n: getattr(attn, f"lambda_{n}").astype(np.float64)
        for n in ("q1", "k1", "q2", "k2")
    }
    factor = np.exp(vectors["q1"] @ vectors["k1"]) - np.exp(
        vectors["q2"] @ vectors["k2"]
    )
    factor += 0.8 - 0.6 * np.exp(-0.3 * index)
    return weights[:, 0::2] - factor * weights[:, 1::2]


def linear(part: Any, x: np.ndarray) -> np.ndarray:
    return x @ part.weight.T.astype(np.float64) + part.bias


def of_block(model: Any, x: np.ndarray, mask: Any = None) -> np.ndarray:
    """timm's attention weights of BLOCK, parallel ones as heads one after the other."""
    block, tokens = model.blocks[BLOCK], below(model, x)
    if hasattr(block, "attns"):
        parts = [
            of_qkv(a.attn, linear(a.attn.qkv, norm(a.norm, tokens)), BLOCK, mask)
            for a in block.attns
        ]
        return np.concatenate(parts, axis=1)
    if hasattr(block, "in_proj"):
        rows = linear(block.in_proj, norm(block.in_norm, tokens))
        return of_qkv(block, rows[..., -3 * WIDTH :], BLOCK, mask)
    if model.config.get("block_fn") != "ResPostBlock":
        tokens = norm(block.norm1, tokens)
    return of_qkv(block.attn, linear(block.attn.qkv, tokens), BLOCK, mask)


def agree(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == np.float32
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    heads = got.reshape(len(got), got.shape[1], -1)
    assert len({h.tobytes() for h in heads[0]}) == got.shape[1], "heads that are equal"


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_weights_of_every_block_are_the_softmax_of_its_scores(
    block: str, qk_norm: bool
) -> None:
    model = build(block_fn=block, qk_norm=qk_norm)
    agree(model(X, return_attn=[BLOCK])[1][BLOCK], of_block(model, X))


@pytest.mark.parametrize("block", ["Block", "ParallelThingsBlock"])
def test_differential_weights_are_a_pairs_difference(block: str) -> None:
    model = build(block_fn=block, attn_layer="diff")
    agree(model(X, return_attn=[BLOCK])[1][BLOCK], of_block(model, X))


def test_weights_of_the_map_pool_are_head_by_head() -> None:
    model = build(global_pool="map", reg_tokens=1)
    got = model(X, return_attn=["attn_pool"])[1]["attn_pool"]
    pool, tokens = model.attn_pool, model.forward_features(X)[:, 2:].astype(np.float64)
    q = linear(pool.q, pool.latent.astype(np.float64))
    k = linear(pool.kv, tokens)[..., :WIDTH]
    agree(got, attention(heads_of(q, HEADS), heads_of(k, HEADS)))


def test_weights_of_the_prr_pool_are_head_by_head() -> None:
    model = build(global_pool="prr", reg_tokens=1)
    got = model(X, return_attn=["attn_pool"])[1]["attn_pool"]
    tokens = heads_of(model.forward_features(X).astype(np.float64), HEADS)
    agree(got, attention(tokens, tokens))


# More tokens than attention takes keys at a time (512), or here queries.
LARGE = {"img_size": 400}
PICTURE = recipe.picture((2, 3, 400, 400))


@pytest.fixture
def query_blocks() -> Iterator[None]:
    _core._set_limits(block_queries=448)
    yield
    _core._set_limits()


@pytest.mark.usefixtures("query_blocks")
@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_weights_of_many_tokens_follow_a_mask_of_each_head(kind: str) -> None:
    model = build(**LARGE)
    mask = recipe.mask(kind, (2, HEADS, 626, 626))
    got = model(PICTURE, attn_mask=mask, return_attn=[BLOCK])[1][BLOCK]
    first = copy.copy(model)
    first.prune_intermediate_layers([BLOCK - 1], prune_norm=True)
    tokens = first.forward_features(PICTURE, attn_mask=mask).astype(np.float64)
    block = model.blocks[BLOCK]
    rows = linear(block.attn.qkv, norm(block.norm1, tokens))
    agree(got, of_qkv(block.attn, rows, BLOCK, mask))


@pytest.mark.usefixtures("query_blocks")
def test_a_causal_mask_of_many_tokens_is_the_lower_triangle() -> None:
    model = build(**LARGE)
    tril = np.tri(626, dtype=bool)
    causal, weights = model(PICTURE, is_causal=True, return_attn=[0, BLOCK])
    masked, same = model(PICTURE, attn_mask=tril, return_attn=[0, BLOCK])
    added = model(PICTURE, attn_mask=np.where(tril, np.float32(0), -np.inf))
    assert causal.tobytes() == masked.tobytes() == added.tobytes()
    for key, got in weights.items():
        assert got.tobytes() == same[key].tobytes()
        assert not got[..., ~tril].any()
        np.testing.assert_allclose(got.sum(-1), 1, rtol=0, atol=1e-5)
