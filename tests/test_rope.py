# SPDX-License-Identifier: Apache-2.0
"""Rotary positions: the core's tables, and which of them a request takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import refused

import vitpool

FEATURES = 1
SMALL: dict[str, Any] = {
    "img_size": (24, 40),
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 5,
    "use_rot_pos_emb": True,
    "num_reg_tokens": 1,
    "seed": 0,
}
# As the registered models have them.
KINDS: dict[str, dict[str, Any]] = {
    "eva02": {"ref_feat_shape": (16, 16)},
    "pe": {
        "ref_feat_shape": (14, 24),
        "rope_grid_offset": 1.0,
        "rope_grid_indexing": "xy",
    },
    "axial": {"rope_grid_indexing": "xy", "rope_temperature": 100.0},
    "mixed": {
        "rope_type": "mixed",
        "rope_grid_indexing": "xy",
        "rope_temperature": 10.0,
    },
    "dinov3": {
        "rope_type": "dinov3",
        "rope_temperature": 100.0,
        "rope_rotate_half": True,
    },
}


def eva(kind: str, **options: Any) -> Any:
    model = vitpool.Eva(**SMALL | KINDS[kind] | options)
    weights = recipe.weights(model.param_shapes())
    weights.pop("rope.freqs", None)  # theirs are no noise
    model.load_state_dict(weights, strict=False)
    return model


def angles(model: Any, rows: int, columns: int) -> np.ndarray:
    """(..., patches, D / 2) in float32, one operation after the other as in timm: an
    angle of 16 has no more than six digits behind the point."""
    f32 = np.float32
    o = model._options()
    bands = o["embed_dim"] // o["num_heads"] // 4
    if o["rope"] == "mixed":
        freqs = model.get_parameter("rope.freqs")  # (2, depth, heads, D / 2)
        x, y = np.indices((rows, columns), f32).reshape(2, -1)[
            :: -1 if o["rope_xy"] else 1
        ]
        return x[:, None] * freqs[0, :, :, None] + y[:, None] * freqs[1, :, :, None]
    sides = []
    for count, ref in zip((rows, columns), o["rope_ref"], strict=True):
        at = np.arange(count, dtype=f32)
        if o["rope"] == "dinov3":
            at = f32(2) * ((at + f32(0.5)) / f32(count)) - f32(1)
        else:
            at = at + f32(o["rope_grid_offset"])
            if ref:
                at = at / f32(count) * f32(ref)
        sides.append(at)
    y, x = np.meshgrid(*sides, indexing="ij")
    axes = (x, y) if o["rope_xy"] else (y, x)
    exponents = np.arange(bands, dtype=f32) / f32(bands)
    powers = (float(o["rope_temperature"]) ** exponents.astype(np.float64)).astype(f32)
    out = []
    for at in axes:
        turns = at.reshape(-1, 1)
        if o["rope"] == "dinov3":
            out.append(f32(2 * np.pi) * turns / powers)
        else:
            out.append(turns * (f32(1) / powers))
    return np.concatenate(out, -1)


@pytest.mark.parametrize("grid", [(3, 5), (14, 14), (1, 1), (5, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_table_has_the_angles_of_timms_order_of_operations(
    kind: str, grid: tuple[int, int]
) -> None:
    model = eva(kind)
    turns = angles(model, *grid).astype(np.float64)
    table = model._rope(*grid)
    cosines, sines = np.split(table, 2, -1)
    half = model._options()["rope_rotate_half"]
    width = cosines.shape[-1] // 2
    first = np.s_[..., :width] if half else np.s_[..., 0::2]
    second = np.s_[..., width:] if half else np.s_[..., 1::2]
    for got, want in [
        (cosines[first], np.cos(turns)),
        (cosines[second], np.cos(turns)),
        (sines[first], -np.sin(turns)),
        (sines[second], np.sin(turns)),
    ]:
        np.testing.assert_allclose(got, want, rtol=0, atol=6e-8)


def test_a_mixed_model_has_a_table_for_each_block_and_head() -> None:
    model = eva("mixed")
    table = model._rope(2, 3)
    assert table.shape == (2, 2, 6, 48)
    assert len({table[b, h].tobytes() for b in range(2) for h in range(2)}) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_own_table_given_changes_no_bit(kind: str) -> None:
    model = eva(kind)
    x = recipe.picture((2, 3, 24, 40))
    own = model._run(x, FEATURES)[0]
    given = model._run(x, FEATURES, rope=model._rope(3, 5))[0]
    assert own.tobytes() == given.tobytes()
    turned = model._run(
        x, FEATURES, rope=np.ascontiguousarray(model._rope(3, 5)[..., ::-1])
    )
    assert turned[0].tobytes() != own.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_another_size_is_as_a_model_of_that_size(kind: str) -> None:
    small = {"dynamic_img_size": True, "use_abs_pos_emb": False}
    x = recipe.picture((2, 3, 40, 16))
    many = eva(kind, **small)
    one = eva(kind, **small, img_size=(40, 16))
    one.load_state_dict(many.state_dict())
    assert many(x).tobytes() == one(x).tobytes()
    features = many.forward_features(x)
    assert features.tobytes() == one.forward_features(x).tobytes()


def test_another_grid_needs_its_table() -> None:
    model = eva("dinov3", dynamic_img_size=True, use_abs_pos_emb=False)
    x = recipe.picture((1, 3, 40, 24))  # as many patches, turned
    with refused(ValueError, "rope must be given", "5 x 3", "3 x 5", model=model, x=x):
        model._run(x, FEATURES)


@pytest.mark.parametrize("tokens", [1, 2, 16, 18])
def test_tokens_of_another_number_need_their_table(tokens: int) -> None:
    model = eva("eva02")
    x = np.zeros((1, tokens, 48), np.float32)
    with refused(ValueError, "tokens", f"not {tokens}"):
        model._run(x, 0, first=1)
    with refused(ValueError, "tokens", f"not {tokens}"):
        model._run_part("blocks.0.attn", x)


BAD: dict[str, tuple[type[Exception], str, Any]] = {
    "too few patches": (ValueError, r"(15, 48), not (14, 48)", np.ones((14, 48))),
    "too wide": (ValueError, "(15, 48)", np.ones((15, 49))),
    "one dimension": (ValueError, "(15, 48)", np.ones(15 * 48)),
    "a number": (ValueError, "(15, 48), not ()", np.float32(1.0)),
    "of each block": (ValueError, "(15, 48)", np.ones((2, 2, 15, 48))),
    "integers": (TypeError, "rope must be an array of float", np.ones((15, 48), int)),
    "a str": (TypeError, "rope", "own"),
}


@pytest.mark.parametrize(("error", "says", "rope"), BAD.values(), ids=BAD)
def test_a_table_that_does_not_fit_is_refused(
    error: type[Exception], says: str, rope: Any
) -> None:
    model = eva("eva02")
    x = np.zeros((1, 17, 48), np.float32)
    with refused(error, says):
        model._run(recipe.picture((1, 3, 24, 40)), FEATURES, rope=rope)
    with refused(error, says):
        model._run(x, 0, first=0, rope=rope)
    with refused(error, says):
        model._run_part("blocks.0.attn", x, None, False, rope)


def test_a_mixed_table_has_all_blocks() -> None:
    model = eva("mixed")
    with refused(ValueError, "(2, 2, 15, 48), not (15, 48)"):
        model._run(recipe.picture((1, 3, 24, 40)), 1, rope=np.ones((15, 48)))


def test_a_model_without_rope_takes_no_table() -> None:
    model = vitpool.Eva(**SMALL | {"use_rot_pos_emb": False})
    x = recipe.picture((1, 3, 24, 40))
    with refused(ValueError, "no rotary embedding"):
        model._run(x, FEATURES, rope=np.ones((15, 48), np.float32))
    with refused(ValueError, "no rotary embedding"):
        model._rope(3, 5)


@pytest.mark.parametrize("path", ["blocks.0.norm1", "blocks.0.mlp", "head"])
def test_attention_alone_takes_a_table(path: str) -> None:
    model = eva("eva02")
    with refused(ValueError, f"{path} takes no rope"):
        model._run_part(path, np.zeros((1, 48)), None, False, np.ones((15, 48)))


@pytest.mark.parametrize("grid", [(0, 3), (3, 0), (-1, 3), (5000, 5000), (2**31, 1)])
def test_a_grid_out_of_range_is_refused(grid: tuple[int, int]) -> None:
    with refused(ValueError, ""):
        eva("eva02")._rope(*grid)


@pytest.mark.parametrize("grid", [(1.0, 3), (3, None), ("3", 3)])
def test_a_grid_is_of_integers(grid: tuple[Any, Any]) -> None:
    with refused(TypeError, "must be an integer"):
        eva("eva02")._rope(*grid)


def test_memory_counts_the_tables() -> None:
    with_rope, without = eva("mixed"), eva("mixed", use_rot_pos_emb=False)
    freqs = with_rope.get_parameter("rope.freqs").nbytes
    more = with_rope.memory_bytes()["weights"] - without.memory_bytes()["weights"]
    assert more == freqs + 2 * 2 * 15 * 48 * 4
