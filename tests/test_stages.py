# SPDX-License-Identifier: Apache-2.0
"""A forward pass in stages: from any block on, and read inside one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import X, refused, small

NOTHING, LOGITS = 0, 3
TOKENS = 5  # of the small model: a class token and four patches


BLOCKS = [
    {"block_fn": "Block", "init_values": 0.5},
    {"block_fn": "Block", "attn_layer": "diff"},
    {"block_fn": "ResPostBlock"},
    {"block_fn": "ParallelThingsBlock"},
]


@pytest.mark.parametrize("options", BLOCKS)
def test_the_place_after_attention_is_where_the_mlp_adds_to(options: Any) -> None:
    """An MLP that gives zeros makes it the output, such an attention the input."""
    model = small(depth=2, **options)
    x, attn, out = model._run(
        X, NOTHING, taps=[(1, 0, p) for p in ("in", "attn", "out")]
    )[1]
    assert not np.array_equal(x, attn)
    assert not np.array_equal(attn, out)
    ends = ("attn.proj.", "mlp.fc2.")
    if options["block_fn"] == "ResPostBlock":
        ends = ("norm1.", "norm2.")
    for end, place in zip(ends, ("in", "out"), strict=True):
        zeros = {
            name: np.zeros_like(value)
            for name, value in model.state_dict().items()
            if name.startswith("blocks.1.") and end in name
        }
        assert zeros
        silent = small(depth=2, **options)
        silent.load_state_dict(zeros, strict=False)
        stream = silent._run(X, NOTHING, taps=[(1, 0, "attn"), (1, 0, place)])[1]
        assert stream[0].tobytes() == stream[1].tobytes()
        if place == "out":
            assert stream[0].tobytes() == attn.tobytes()


@pytest.mark.parametrize("block", ["ParallelScalingBlock", "DiffParallelScalingBlock"])
def test_parallel_scaling_blocks_have_no_place_after_attention(block: str) -> None:
    scaling = small(block_fn=block)
    with refused(ValueError, "'attn'", model=scaling):
        scaling._run(X, NOTHING, taps=[(0, 0, "attn")])


@pytest.mark.parametrize("options", [*BLOCKS, {"block_fn": "ParallelScalingBlock"}])
@pytest.mark.parametrize("pool", ["", "avg", "token", "map"])
def test_the_rest_from_a_tap_has_the_bits_of_the_whole(options: Any, pool: str) -> None:
    model = small(depth=3, global_pool=pool, **options)
    mask = recipe.mask("additive", (2, 1, TOKENS, TOKENS))
    want = model(X, attn_mask=mask).tobytes()
    out, taps, _, _ = model._run(
        X, LOGITS, mask, taps=[(0, 0, "in"), (1, 0, "in"), (2, 0, "in"), (1, 0)]
    )
    assert out.tobytes() == want
    assert taps[2].tobytes() == taps[3].tobytes()
    for first in range(3):
        rest = model._run(taps[first], LOGITS, mask, first=first)[0]
        assert rest.tobytes() == want
    middle = model._run(taps[0], 0, mask, depth=2, taps=[(1, 0)], first=0)[1][0]
    assert middle.tobytes() == taps[2].tobytes()


def test_weights_that_are_asked_for_twice_come_twice() -> None:
    model = small(depth=2, global_pool="map")
    maps = model._run(X, LOGITS, maps=[(0, 0), (-1, 0), (0, 0), (-1, 0)])[2]
    assert maps[0].tobytes() == maps[2].tobytes()
    assert maps[1].tobytes() == maps[3].tobytes()
    np.testing.assert_allclose(maps[0].sum(-1), 1, rtol=1e-5)
    named = model(X, return_attn=[1, -1])[1]
    assert named[1].tobytes() == named[-1].tobytes()


@pytest.mark.parametrize("options", [*BLOCKS, {"block_fn": "ParallelScalingBlock"}])
def test_some_blocks_have_the_bits_of_the_whole(options: Any) -> None:
    model = small(depth=3, pre_norm=True, **options)
    mask = recipe.mask("additive", (2, 1, TOKENS, TOKENS))
    taps = [(i, 0, place) for i in range(3) for place in ("in", "out")]
    stream = model._run(X, NOTHING, mask, taps=taps)[1]
    first = model.norm_pre(model._pos_embed(model.patch_embed(X)))
    assert first.tobytes() == stream[0].tobytes()
    for start in range(3):
        for stop in range(start + 1, 4):
            got = model.forward_blocks(stream[2 * start], start, stop, mask)
            assert got.tobytes() == stream[2 * stop - 1].tobytes()
    rest = model.forward_blocks(stream[2], 1, attn_mask=mask)
    assert model.norm(rest).tobytes() == model.forward_features(X, mask).tobytes()
    causal = model.forward_blocks(first, is_causal=True)
    want = model.forward_features(X, is_causal=True)
    assert model.norm(causal).tobytes() == want.tobytes()


def test_no_blocks_give_the_tokens_as_an_array_of_their_own() -> None:
    model = small(depth=2)
    tokens = recipe.uniform((2, 3, 32), "tokens").astype(np.float32)
    for start in range(3):
        got = model.forward_blocks(tokens, start, np.int64(start))
        assert got.tobytes() == tokens.tobytes()
        assert not np.shares_memory(got, tokens)


@pytest.mark.parametrize(
    ("error", "word", "shape", "blocks"),
    [
        (ValueError, "0 <= start <= stop <= 2, not 2 and 1", (1, 3, 32), (2, 1)),
        (ValueError, "not 0 and 3", (1, 3, 32), (0, 3)),
        (ValueError, "not 3 and 2", (1, 3, 32), (3,)),
        (ValueError, "start", (1, 3, 32), (-1,)),
        (ValueError, "stop", (1, 3, 32), (0, -1)),
        (TypeError, "start", (1, 3, 32), (0.0, 1)),
        (TypeError, "stop", (1, 3, 32), (0, True)),
        (ValueError, "(1, 3, 31)", (1, 3, 31), (0, 1)),
        (ValueError, "(1, 3, 31)", (1, 3, 31), (1, 1)),
        (ValueError, "32", (3, 32), (0, 1)),
    ],
)
def test_blocks_and_tokens_that_are_not_there_are_refused(
    error: type[Exception], word: str, shape: tuple[int, ...], blocks: tuple[Any, ...]
) -> None:
    model = small(depth=2)
    with refused(error, word, model=model):
        model.forward_blocks(np.zeros(shape, np.float32), *blocks)
    with refused(TypeError, "x", model=model):
        model.forward_blocks([["a"]])
