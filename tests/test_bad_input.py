# SPDX-License-Identifier: Apache-2.0
"""Whatever comes in: a right answer, or one clear error and nothing changed.

What is taken as an array at all, and from whom, is test_arrays.py's.
"""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from golden import recipe
from models import BASE, X, refused, small

import vitpool

# pictures


@pytest.mark.parametrize("shape", [(), (3,), (32, 32), (3, 32, 32), (1, 2, 3, 32, 32)])
def test_a_picture_of_the_wrong_rank(shape: tuple[int, ...]) -> None:
    model = small()
    with refused(ValueError, "x", "(B, 3, 32, 32)", str(shape), model=model):
        model(np.zeros(shape, np.float32))


@pytest.mark.parametrize("channels", [0, 1, 2, 4])
def test_a_picture_of_the_wrong_channels(channels: int) -> None:
    model = small()
    shape = (2, channels, 32, 32)
    with refused(ValueError, "channels", 3, str(channels), model=model):
        model(np.zeros(shape, np.float32))


def test_channels_last_is_refused() -> None:
    model = small()
    with refused(ValueError, "channels", model=model):
        model(np.zeros((2, 32, 32, 3), np.float32))


@pytest.mark.parametrize(
    "size", [(31, 32), (32, 48), (64, 64), (16, 16), (0, 32), (0, 0)]
)
def test_a_picture_of_the_wrong_size_hears_which_fits(size: tuple[int, int]) -> None:
    model = small()
    height, width = size
    for method in (model.forward, model.forward_features, model.forward_intermediates):
        with refused(ValueError, "32", str(height), str(width), model=model):
            method(np.zeros((2, 3, *size), np.float32))


@pytest.mark.parametrize("size", [(31, 32), (32, 47), (15, 16), (0, 32), (32, 0)])
def test_with_dynamic_sizes_whole_patches_fit(size: tuple[int, int]) -> None:
    model = small(dynamic_img_size=True)
    with refused(ValueError, "16", model=model):
        model(np.zeros((2, 3, *size), np.float32))


def test_with_padding_every_size_but_nothing_fits() -> None:
    model = small(dynamic_img_size=True, dynamic_img_pad=True)
    for size in ((1, 1), (17, 33), (32, 32)):
        assert model(recipe.picture((2, 3, *size))).shape == (2, 10)
    with refused(ValueError, model=model):
        model(np.zeros((2, 3, 0, 32), np.float32))


@pytest.mark.parametrize("pool", ["", "avg", "avgmax", "max", "token", "map", "prr"])
def test_an_empty_batch_gives_an_empty_result(pool: str) -> None:
    model = small(global_pool=pool, depth=2)
    empty = np.zeros((0, 3, 32, 32), np.float32)
    tokens = model.forward_features(empty)
    assert tokens.shape == (0, 5, 32)
    assert model(empty).shape == ((0, 10) if pool else (0, 5, 10))
    assert model.pool(tokens).shape == ((0, 32) if pool else (0, 5, 32))
    assert model.forward_head(tokens, pre_logits=True).shape[0] == 0
    final, layers = model.forward_intermediates(empty)
    assert final.shape == (0, 5, 32)
    assert [layer.shape for layer in layers] == [(0, 32, 2, 2)] * 2
    for out in (tokens, final, model(empty), *layers):
        assert out.dtype == np.float32
    model.reset_classifier(0)
    assert model(empty).shape == ((0, 32) if pool else (0, 5, 32))


@pytest.mark.parametrize("channels", [2, 4])
def test_an_empty_batch_is_looked_at_all_the_same(channels: int) -> None:
    model = small()
    with refused(ValueError, "channels"):
        model(np.zeros((0, channels, 32, 32), np.float32))
    with refused(ValueError, "32"):
        model(np.zeros((0, 3, 16, 32), np.float32))


def test_outputs_are_new_arrays() -> None:
    model = small(global_pool="", num_classes=0)
    tokens = model.forward_features(X)
    first = model.forward_head(tokens)
    kept = first.copy()
    first[...] = 0
    np.testing.assert_array_equal(model.forward_head(tokens), kept)
    np.testing.assert_array_equal(model.pool(tokens), tokens)
    assert not np.shares_memory(model.pool(tokens), tokens)
    assert first.flags.owndata or first.base is not None
    assert first.flags.writeable
    out = model(X)
    del model
    gc.collect()
    assert np.isfinite(out).all()


# tokens


@pytest.mark.parametrize("shape", [(), (32,), (5, 32), (2, 5, 31), (2, 5, 32, 1)])
@pytest.mark.parametrize("pool", ["token", "avg", "map", "prr", ""])
def test_tokens_of_the_wrong_shape(pool: str, shape: tuple[int, ...]) -> None:
    model = small(global_pool=pool)
    tokens = np.zeros(shape, np.float32)
    for method in (model.pool, model.forward_head):
        with refused(ValueError, "32", str(shape), model=model):
            method(tokens)


@pytest.mark.parametrize("pool", ["token", "avg", "avgmax", "max", "map", "prr"])
@pytest.mark.parametrize("tokens", [0, 1])
def test_tokens_without_a_patch(pool: str, tokens: int) -> None:
    """One class token and nothing to pool: refused where a patch is needed."""
    model = small(global_pool=pool)
    x = np.zeros((2, tokens, 32), np.float32)
    if tokens and pool in ("token", "prr"):
        assert model.pool(x).shape == (2, 32)
    else:
        with refused(ValueError, "token", model=model):
            model.pool(x)


def test_any_number_of_tokens_can_be_pooled() -> None:
    for pool in ("avg", "avgmax", "max", "token", "map", "prr"):
        model = small(global_pool=pool)
        for tokens in (2, 5, 40):
            x = recipe.picture((2, tokens, 32))
            assert model.forward_head(x).shape == (2, 10)


# masks


@pytest.mark.parametrize(
    "shape", [(5,), (4, 4), (5, 4), (4, 5), (3, 5, 5), (2, 3, 5, 5), (3, 1, 5, 5)]
)
def test_a_mask_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    model = small()
    with refused(ValueError, "attn_mask", str(shape), model=model):
        model(X, attn_mask=np.ones(shape, bool))


# constructor options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_heads", 0),
        ("num_heads", -2),
        ("num_heads", 3),
        ("embed_dim", 0),
        ("embed_dim", -32),
        ("depth", -1),
        ("num_classes", -1),
        ("in_chans", 0),
        ("in_chans", -3),
        ("img_size", 0),
        ("img_size", -32),
        ("img_size", (32,)),
        ("img_size", (32, 32, 32)),
        ("img_size", (32, 0)),
        ("patch_size", 0),
        ("patch_size", 64),
        ("patch_size", (16, -16)),
        ("mlp_ratio", -1.0),
        ("mlp_ratio", float("nan")),
        ("mlp_ratio", float("inf")),
        ("reg_tokens", -1),
        ("pos_embed", "rope"),
        ("norm_layer", "batchnorm"),
        ("embed_norm_layer", "groupnorm"),
        ("act_layer", "mish"),
        ("mlp_layer", "ConvMlp"),
        ("block_fn", "Blok"),
        ("attn_layer", "rope"),
        ("weight_init", "he"),
        ("dtype", "float8"),
    ],
)
def test_options_of_a_wrong_value(name: str, value: Any) -> None:
    with refused(ValueError, name):
        vitpool.VisionTransformer(**BASE | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_heads", 2.0),
        ("num_heads", None),
        ("embed_dim", "32"),
        ("depth", True),
        ("depth", 1.0),
        ("num_classes", None),
        ("num_classes", True),
        ("in_chans", "3"),
        ("img_size", "32"),
        ("img_size", 32.0),
        ("img_size", (32, 32.0)),
        ("patch_size", None),
        ("mlp_ratio", "4"),
        ("reg_tokens", 1.0),
        ("norm_layer", 3),
        ("act_layer", 3),
        ("mlp_layer", 3),
        ("block_fn", 3),
        ("attn_layer", 3),
        ("class_token", "yes"),
        ("seed", "one"),
        ("seed", 1.5),
    ],
)
def test_options_of_a_wrong_type(name: str, value: Any) -> None:
    with refused(TypeError, name):
        vitpool.VisionTransformer(**BASE | {name: value})


@pytest.mark.parametrize("name", ["global_pol", "nope", "devices"])
def test_an_unknown_option(name: str) -> None:
    with refused(TypeError, name):
        vitpool.VisionTransformer(**BASE | {name: 1})


@pytest.mark.parametrize(
    "options",
    [
        {"embed_dim": 2**40},
        {"embed_dim": 2**30, "num_heads": 1},
        {"depth": 2**50},
        {"img_size": 2**30, "patch_size": 1},
        {"num_classes": 2**45},
        {"mlp_ratio": 1e15},
        {"in_chans": 2**50},
        {"reg_tokens": 2**45},
        {"embed_dim": 2**70},
    ],
)
def test_a_model_larger_than_memory(options: dict[str, int]) -> None:
    with pytest.raises((MemoryError, ValueError)):
        vitpool.VisionTransformer(**BASE | options)


@pytest.mark.parametrize("block", ["ParallelScalingBlock", "DiffParallelScalingBlock"])
@pytest.mark.parametrize("option", ["scale_attn_norm", "scale_mlp_norm"])
def test_options_that_timms_blocks_do_not_take(block: str, option: str) -> None:
    with refused(ValueError, option):
        vitpool.VisionTransformer(**BASE, block_fn=block, **{option: True})


@pytest.mark.parametrize("argument", ["indices", "output_fmt"])
def test_intermediates_of_wrong_arguments(argument: str) -> None:
    model = small(depth=3)
    wrong: dict[str, list[tuple[type[Exception], Any]]] = {
        "indices": [
            (ValueError, 0),
            (ValueError, 4),
            (ValueError, -1),
            (ValueError, [3]),
            (ValueError, [-4]),
            (TypeError, "1"),
            (TypeError, 1.0),
            (TypeError, [1.0]),
        ],
        "output_fmt": [(ValueError, "NHWC"), (ValueError, "nchw"), (TypeError, 3)],
    }
    for error, value in wrong[argument]:
        with refused(error, argument, model=model):
            model.forward_intermediates(X, **{argument: value})


@pytest.mark.parametrize("value", [0, -1, (32,), (0, 32)])
def test_set_input_size_refuses_what_cannot_be(value: Any) -> None:
    model = small()
    for name in ("img_size", "patch_size"):
        with refused(ValueError, name, model=model):
            model.set_input_size(**{name: value})
    with refused(ValueError, model=model):
        model.set_input_size(img_size=8)


@pytest.mark.parametrize("name", ["nope", "vit_base_patch16_225", "VIT_TINY"])
def test_an_unknown_model(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        vitpool.create_model(name)
