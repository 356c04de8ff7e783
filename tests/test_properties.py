# SPDX-License-Identifier: Apache-2.0
"""Whatever the options and arrays are: a right result, or a clear error."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import rerun
from golden import recipe
from hypothesis import example, given
from hypothesis import strategies as st
from models import BASE, X, refused, small

import vitpool

few = rerun.settings(120)

# -- constructor options --

SENSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "img_size": st.sampled_from([8, 16, (8, 16), 17]),
    "patch_size": st.sampled_from([4, 8, (8, 4), 5]),
    "in_chans": st.integers(1, 5),
    "num_classes": st.integers(0, 40),
    "global_pool": st.sampled_from(["", "avg", "avgmax", "max", "token", "map", "prr"]),
    "embed_dim": st.sampled_from([2, 4, 12, 16, 24, 40]),
    "depth": st.integers(0, 3),
    "num_heads": st.sampled_from([1, 2, 4]),
    "mlp_ratio": st.sampled_from([0.5, 1, 2.67, 4]),
    "qkv_bias": st.booleans(),
    "qk_norm": st.booleans(),
    "scale_attn_norm": st.booleans(),
    "scale_mlp_norm": st.booleans(),
    "proj_bias": st.booleans(),
    "init_values": st.sampled_from([None, 0, 1e-5, 1.0]),
    "class_token": st.booleans(),
    "pos_embed": st.sampled_from(["learn", "none", ""]),
    "no_embed_class": st.booleans(),
    "reg_tokens": st.integers(0, 4),
    "pre_norm": st.booleans(),
    "final_norm": st.booleans(),
    "fc_norm": st.sampled_from([None, False, True]),
    "pool_include_prefix": st.booleans(),
    "dynamic_img_size": st.booleans(),
    "dynamic_img_pad": st.booleans(),
    "norm_layer": st.sampled_from([None, "layernorm", "rmsnorm", ("layernorm", 1e-5)]),
    "act_layer": st.sampled_from([None, "gelu", "gelu_tanh", "quick_gelu", "silu"]),
    "block_fn": st.sampled_from(
        [
            "Block",
            "ResPostBlock",
            "ParallelScalingBlock",
            "ParallelThingsBlock",
            "DiffParallelScalingBlock",
        ]
    ),
    "mlp_layer": st.sampled_from(["Mlp", "GluMlp", "SwiGLUPacked", "SwiGLU"]),
    "attn_layer": st.sampled_from(["attn", "diff"]),
}
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 70),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(st.integers(-2, 9), max_size=3),
    st.tuples(st.integers(-2, 2**40), st.integers(-2, 2**40)),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just(object()),
    st.just(np.ones(2)),
)


@few
@given(st.fixed_dictionaries({}, optional=SENSIBLE))
def test_sensible_options_build_or_say_why_not(options: dict[str, Any]) -> None:
    options = {"embed_dim": 12, "num_heads": 2, "depth": 1} | options
    options = {"img_size": 16, "patch_size": 8, "seed": 0} | options
    try:
        model = vitpool.VisionTransformer(**options)
    except ValueError:
        return
    height, width = model.img_size
    x = recipe.picture((2, model.in_chans, height, width))
    if model.dynamic_img_size and not options.get("dynamic_img_pad"):
        down, right = model.patch_embed.patch_size
        x = x[:, :, : height // down * down, : width // right * right]
    out = model(x)
    width = model.num_classes or model.embed_dim
    assert out.shape[0] == 2
    assert out.shape[-1] == width
    assert out.ndim == (3 if model.global_pool == "" else 2)
    assert out.dtype == np.float32
    again = vitpool.VisionTransformer(**model.config, weights=model.state_dict())
    assert again(x).tobytes() == out.tobytes()
    assert list(again.param_shapes()) == list(model.param_shapes())


# Sizes that are huge but allowed are another test's: they may truly be allocated.
HARMLESS = [k for k in SENSIBLE if k not in ("mlp_ratio",)]


@few
@given(st.sampled_from(HARMLESS), ODD)
def test_odd_options_are_refused_by_name_or_taken(name: str, value: Any) -> None:
    try:
        model = vitpool.VisionTransformer(**{"seed": 0} | BASE | {name: value})
    except (TypeError, ValueError, MemoryError):
        return
    assert model.state_dict()


@few
@given(st.integers(-5, 2**70), ODD, st.booleans())
def test_any_reset_is_whole_or_has_not_happened(n: int, pool: Any, add: bool) -> None:
    model = small()
    before = model(X).tobytes()
    if n > 5000 and n < 2**31:
        n = 2**31
    try:
        model.reset_classifier(n, pool, add_attn_pool=add)
    except (TypeError, ValueError, MemoryError):
        assert model(X).tobytes() == before
    else:
        assert model.num_classes == n


# -- arrays --

DTYPES = ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2", ml_dtypes.bfloat16]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """The same numbers twice: plain float32, and however they may lie in memory."""
    count, seed = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    numbers = recipe.picture((count, 3, 32, 32), seed).astype(dtype)
    plain = numbers.astype(np.float32)
    order = draw(st.permutations(range(4)))
    inverse = np.argsort(order)
    odd = np.ascontiguousarray(numbers.transpose(order)).transpose(inverse)
    for axis in range(4):
        step = draw(st.sampled_from([1, 1, -1, 2, 3]))
        if step < 0:
            odd = np.flip(np.flip(odd, axis).copy(order="K"), axis)
        elif step > 1:
            wide = np.full(
                [n * (step if a == axis else 1) for a, n in enumerate(odd.shape)],
                np.nan,
                dtype,
            )
            index = [slice(None)] * 4
            index[axis] = slice(0, None, step)
            wide[tuple(index)] = odd
            odd = wide[tuple(index)]
    if draw(st.booleans()):  # not aligned to its own numbers
        room = np.zeros(odd.nbytes + 1, np.uint8)
        moved = room[1:].view(dtype).reshape(odd.shape)
        moved[...] = odd
        odd = moved
    if draw(st.booleans()):
        odd.flags.writeable = False
    assert odd.shape == plain.shape
    return plain, odd


MODEL = small()


@few
@given(layouts())
def test_how_an_array_lies_in_memory_does_not_matter(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    plain, odd = pair
    before = odd.tobytes()
    assert MODEL(odd).tobytes() == MODEL(plain).tobytes()
    assert odd.tobytes() == before


@few
@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 16, 32, 33]), max_size=6).map(tuple),
    st.sampled_from([*DTYPES, "i4", "u1", "?", "c8", "O", "S3", "U3", "M8[s]", "V4"]),
)
@example((0, 3, 32, 32), "<f4")
@example((2, 0, 32, 32), "<f4")
@example((0, 0, 0, 0), "<f4")
def test_any_shape_and_dtype_is_right_or_refused(
    shape: tuple[int, ...], dtype: Any
) -> None:
    array = np.zeros(shape, dtype)
    fits = len(shape) == 4 and shape[1:] == (3, 32, 32)
    number = np.dtype(dtype) in [np.dtype(d) for d in DTYPES]
    if fits and number:
        assert MODEL(array).shape == (shape[0], 10)
        return
    with refused(ValueError if number else TypeError, "x must"):
        MODEL(array)
    for call in (MODEL.forward_head, MODEL.pool):
        if number and len(shape) == 3 and shape[1] > 0 and shape[2] == 32:
            assert call(array).shape[0] == shape[0]
        else:
            with pytest.raises((TypeError, ValueError), match="x must"):
                call(array)


@pytest.mark.parametrize(
    "shape",
    [
        (2**40, 3, 32, 32),
        (2**48, 3, 32, 32),
        (1, 3, 2**20, 2**20),
        (1, 3, 2**31, 2**28),
        (0, 3, 2**58, 1),
        (1, 3, 2**58, 1),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_array_that_claims_to_be_huge(shape: tuple[int, ...], dynamic: bool) -> None:
    model = small(dynamic_img_size=dynamic, dynamic_img_pad=dynamic)
    claims = np.broadcast_to(np.zeros((), np.float32), shape)
    with pytest.raises((MemoryError, ValueError)):
        model(claims)
    tokens = np.broadcast_to(np.zeros((), np.float32), (2**40, 5, 32))
    with pytest.raises((MemoryError, ValueError)):
        model.forward_head(tokens)
    tokens = np.broadcast_to(np.zeros((), np.float32), (1, 2**40, 32))
    with pytest.raises((MemoryError, ValueError)):
        model.pool(tokens)


@few
@given(
    st.lists(st.sampled_from([0, 1, 2, 4, 5]), max_size=5).map(tuple),
    st.sampled_from(["?", "<f4", ">f8", "<f2", "i8"]),
)
def test_a_mask_of_any_shape_broadcasts_or_is_refused(
    shape: tuple[int, ...], dtype: str
) -> None:
    mask = np.zeros(shape, dtype)
    try:
        full = np.broadcast_to(mask, (2, 2, 5, 5))
        fits = 2 <= len(shape) <= 4 and shape[-1] == 5 and dtype != "i8"
    except ValueError:
        fits = False
    if fits:
        got = MODEL(X, attn_mask=mask)
        assert got.tobytes() == MODEL(X, attn_mask=full.copy()).tobytes()
    else:
        with pytest.raises((TypeError, ValueError), match="attn_mask"):
            MODEL(X, attn_mask=mask)
