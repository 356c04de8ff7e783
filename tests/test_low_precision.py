# SPDX-License-Identifier: Apache-2.0
"""What a model of another dtype computes: near float32, and the same bits always.

Every matrix is of the dtype here, the patch embedding's, the pool's and the head's too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from low_precision import KEPT, in_dtype
from test_bit_equality import BATCH, CASES, X, build

import vitpool
from vitpool import _core

# The largest error of an output, over the largest output: two or three times what is
# measured of weights, and of activations beside them, of 8 bits, of 11, of 8 a row.
ERRORS = {"bfloat16": 0.03, "float16": 0.002, "int8": 0.05, "int8_a16": 0.05}

of_every_dtype = pytest.mark.parametrize("dtype", KEPT)
of_every_kind = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = vitpool.get_num_threads()
    yield
    vitpool.set_num_threads(before)
    _core._set_limits()


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


@of_every_dtype
@of_every_kind
def test_outputs_are_near_those_of_float32(name: str, dtype: str) -> None:
    model = build(name)
    want, got = model(X[:3]), in_dtype(model, dtype)(X[:3])
    assert 0 < error(got, want) < ERRORS[dtype]


@of_every_kind
def test_float16_is_float32_with_rounded_weights(name: str) -> None:
    model = in_dtype(build(name), "float16")
    assert error(model(X[:3]), model.to("float32")(X[:3])) < 1e-5


@of_every_kind
def test_activations_of_16_bits_are_the_smaller_part_of_an_error(name: str) -> None:
    wide = build(name)
    fine, coarse = in_dtype(wide, "int8_a16"), in_dtype(wide, "int8")
    same = fine.to("float32")  # with the rounded weights of both
    assert error(fine(X[:3]), same(X[:3])) < 0.005
    assert error(fine(X[:3]), same(X[:3])) < error(coarse(X[:3]), same(X[:3])) / 3


@of_every_dtype
@of_every_kind
def test_a_row_does_not_depend_on_batch_position_or_threads(
    name: str, dtype: str
) -> None:
    model = in_dtype(build(name), dtype)
    vitpool.set_num_threads(1)
    want = [model(X[i : i + 1]).tobytes() for i in range(BATCH)]
    for batch in (2, 3, 7, 14, 29, BATCH):
        vitpool.set_num_threads(1 + batch % 4)
        start = batch * 5 % BATCH
        rows = [(start + i) % BATCH for i in range(batch)]
        got = model(X[rows])
        different = [i for i in range(batch) if got[i].tobytes() != want[rows[i]]]
        assert different == [], f"batch {batch}"
    _core._set_limits(chunk_bytes=100_000, block_keys=8, block_queries=6)
    vitpool.set_num_threads(2)
    pieces = [model(X[i : i + 1]).tobytes() for i in range(3)]
    assert [row.tobytes() for row in model(X[:9])[:3]] == pieces


@of_every_dtype
@of_every_kind
def test_a_nan_stays_in_its_own_picture(name: str, dtype: str) -> None:
    model = in_dtype(build(name), dtype)
    want = model(X[:4])
    for bad in (np.nan, np.inf):
        x = X[:4].copy()
        x[2, 1, 3, 5] = bad
        got = model(x)
        assert np.isnan(got[2]).any()
        for i in (0, 1, 3):
            assert got[i].tobytes() == want[i].tobytes()


@of_every_dtype
def test_earlier_calls_leave_nothing_behind(dtype: str) -> None:
    model = in_dtype(build("pool token"), dtype)
    want = model(X[:3]).tobytes()
    model(np.full_like(X[:9], np.nan))  # fills every scratch number with NaN
    assert model(X[:3]).tobytes() == want
    model.release_workspace()
    assert model(X[:3]).tobytes() == want


@of_every_dtype
@pytest.mark.parametrize("name", ["pool token", "pool avgmax", "pool max", "pool "])
def test_forward_is_forward_head_of_forward_features(name: str, dtype: str) -> None:
    model = in_dtype(build(name), dtype)
    features = model.forward_features(X[:3])
    assert model(X[:3]).tobytes() == model.forward_head(features).tobytes()
    pooled = model.forward_head(features, pre_logits=True)
    assert model.head(pooled).tobytes() == model(X[:3]).tobytes()


@of_every_dtype
@of_every_kind
def test_every_way_to_ask_answers_near_float32(name: str, dtype: str) -> None:
    wide = build(name)
    model = in_dtype(wide, dtype)
    x, allowed = X[:2], ERRORS[dtype]
    for one, other in zip(
        model.forward_intermediates(x, intermediates_only=True),
        wide.forward_intermediates(x, intermediates_only=True),
        strict=True,
    ):
        assert error(one, other) < allowed
    tokens = wide.forward_features(x)
    assert error(model.forward_head(tokens), wide.forward_head(tokens)) < allowed
    assert error(model.pool(tokens), wide.pool(tokens)) < allowed
    maps, theirs = (m(x, return_attn=[0])[1][0] for m in (model, wide))
    assert error(maps, theirs) < allowed
    patches = wide.patch_embed(x)
    assert error(model.patch_embed(x), patches) < allowed
    inside = wide._pos_embed(patches)
    assert error(model.blocks[0](inside), wide.blocks[0](inside)) < allowed
    blocks = model.forward_blocks(inside)
    assert error(blocks, wide.forward_blocks(inside)) < allowed


@of_every_dtype
def test_blocks_alone_have_the_bits_of_a_whole_pass(dtype: str) -> None:
    model = in_dtype(build("pool avg"), dtype)
    tokens = model._pos_embed(model.patch_embed(X[:2]))
    through = model.norm(model.forward_blocks(tokens))
    assert through.tobytes() == model.forward_features(X[:2]).tobytes()


@of_every_dtype
def test_masks_and_other_sizes_are_taken(dtype: str) -> None:
    model = in_dtype(build("pool token"), dtype)
    causal = model(X[:2], is_causal=True)
    mask = np.tril(np.ones((65, 65), bool))
    assert causal.tobytes() == model(X[:2], attn_mask=mask).tobytes()
    options = {**model.config, "dynamic_img_size": True}
    dynamic: Any = vitpool.VisionTransformer(**options, weights=model.state_dict())
    dynamic = in_dtype(dynamic, dtype)
    assert dynamic(X[:2]).tobytes() == model(X[:2]).tobytes()
    assert np.isfinite(dynamic(X[:2, :, :40, :48])).all()
