# SPDX-License-Identifier: Apache-2.0
"""Weights files: reading, published layouts, adapting, and what does not fit."""

from __future__ import annotations

import json
import logging
import tracemalloc
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import models
import numpy as np
import published
import pytest
import safetensors.numpy
from doors import Tensor
from golden import recipe

import vitpool
from vitpool.checkpoint import (
    Spec,
    StateDict,
    build_with_checkpoint,
    convert_state_dict,
    load_checkpoint,
    open_state_dict,
)
from vitpool.resample import resample_abs_pos_embed

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": 10}
CLIP = TINY | {"pre_norm": True}
DINO = TINY | {"init_values": 1e-5, "num_classes": 0}
REG = DINO | {"reg_tokens": 4, "no_embed_class": True}
MAP = TINY | {"class_token": False, "global_pool": "map"}
SWIGLU = TINY | {"mlp_layer": "SwiGLU", "class_token": False, "norm_layer": "rmsnorm"}
STEM = TINY | {"embed_layer": "ConvStem", "no_embed_class": True}
BEIT = TINY | {"scale_attn_norm": True, "scale_mlp_norm": True}

LAYOUTS: dict[str, tuple[Mapping[str, Any], Callable[[Any], dict[str, Any]], str]] = {
    "timm": (TINY, dict, ".safetensors"),
    "jax": (TINY, partial(published.jax, heads=2), ".npz"),
    "jax old prefix": (
        TINY,
        partial(published.jax, heads=2, prefix="opt/target/"),
        ".npz",
    ),
    "big_vision": (
        MAP,
        partial(published.jax, heads=2, prefix="params/img/", big_vision=True),
        ".npz",
    ),
    "big_vision stacked": (
        MAP,
        partial(
            published.jax, heads=2, prefix="params/img/", big_vision=True, stacked=True
        ),
        ".npz",
    ),
    "clip": (CLIP, published.openai_clip, ".safetensors"),
    "openclip trunk": (MAP, published.openclip_trunk, ".safetensors"),
    "dinov2": (DINO, published.dinov2, ".safetensors"),
    "dinov2 registers": (REG, published.dinov2, ".safetensors"),
    "dinov2 swiglu": (
        DINO | {"mlp_layer": "SwiGLUPacked"},
        published.dinov2_swiglu,
        ".safetensors",
    ),
    "tips": (REG, published.tips, ".safetensors"),
    "aimv2": (
        SWIGLU | {"num_classes": 0, "global_pool": ""},
        published.aimv2,
        ".safetensors",
    ),
    "mobileclip": (STEM, published.mobileclip, ".safetensors"),
    "openclip trunk of a stem": (STEM, published.openclip_trunk, ".safetensors"),
    "beit3": (BEIT, published.beit3, ".safetensors"),
    "transformers vit": (TINY, published.transformers_vit, ".safetensors"),
    "siglip": (MAP | {"num_classes": 0}, published.siglip, ".safetensors"),
    "naflex": (MAP | {"num_classes": 0}, published.naflex, ".safetensors"),
    "deit3": (DINO, lambda state: published.deit3(state)["model"], ".safetensors"),
    "pre_logits": (TINY, published.with_pre_logits, ".safetensors"),
    "flat patches": (TINY, published.flat_patches, ".safetensors"),
}


def shapes_of(options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return dict(Spec.from_options(options).shapes)


def weights_of(options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return recipe.weights(shapes_of(options), seed=1)


def write(path: Path, content: Mapping[str, Any], dtype: Any = None) -> Path:
    arrays = {k: np.ascontiguousarray(v, dtype) for k, v in content.items()}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    return path


def converted(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], **cfg: Any
) -> StateDict:
    return convert_state_dict(weights_of(stored), Spec.from_options(wanted, cfg))


# Reading


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_every_float_dtype_is_read_as_float32(
    dtype: str, suffix: str, tmp_path: Path
) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    values = np.random.default_rng(0).standard_normal((3, 5)).astype(kind)
    path = write(tmp_path / f"a{suffix}", {"w": values, "s": values[0, 0]})
    got = open_state_dict(path)
    assert got["w"].dtype == np.float32
    np.testing.assert_array_equal(got["w"], values.astype(np.float32))
    assert got["w"].flags.c_contiguous


def test_fortran_order_and_big_endian_are_read(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(3, 4)
    path = tmp_path / "a.npz"
    np.savez(path, f=np.asfortranarray(values), b=values.astype(">f4"))
    got = open_state_dict(path)
    np.testing.assert_array_equal(got["f"], values)
    np.testing.assert_array_equal(got["b"], values)
    assert all(got[key].flags.c_contiguous for key in got)


def test_tensors_of_a_mapping_come_in_as_a_models_arrays_do() -> None:
    state, spec = weights_of(TINY), Spec.from_options(TINY, {})
    tensor = Tensor(-state["head.bias"], wants_grad=True, negative=True)
    got = convert_state_dict(state | {"head.bias": tensor}, spec)
    np.testing.assert_array_equal(got["head.bias"], state["head.bias"])
    for wrong in (np.ma.array(state["head.bias"]), state["head.bias"].astype(int)):
        got = convert_state_dict(state | {"head.bias": wrong}, spec)
        with pytest.raises(ValueError, match=r"head\.bias: a tensor must "):
            got["head.bias"]


def test_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    state = weights_of(TINY)
    keys = list(state)
    parts = {"one.safetensors": keys[:10], "two.safetensors": keys[10:]}
    for name, part in parts.items():
        write(tmp_path / name, {key: state[key] for key in part})
    path = tmp_path / "model.safetensors.index.json"
    where = {key: name for name, part in parts.items() for key in part}
    path.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    got = open_state_dict(path)
    assert models.same({key: got[key] for key in keys}, state)


def test_prefixes_of_training_are_removed(tmp_path: Path) -> None:
    for prefix in ("module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."):
        path = write(tmp_path / "a.safetensors", {f"{prefix}head.weight": np.ones(2)})
        assert list(open_state_dict(path)) == ["head.weight"]


def test_tensors_are_read_one_at_a_time(tmp_path: Path) -> None:
    options = TINY | {"embed_dim": 128, "depth": 8}
    path = write(tmp_path / "a.safetensors", weights_of(options))
    sizes = [4 * int(np.prod(s)) for s in shapes_of(options).values()]
    tracemalloc.start()
    try:
        weights = convert_state_dict(open_state_dict(path), Spec.from_options(options))
        for key in weights:
            weights[key]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * max(sizes) + 2**20 < sum(sizes) / 2


# Published layouts


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
def test_published_layout_is_read_back(name: str, tmp_path: Path) -> None:
    """What `published` writes is the inverse of what is read, bit for bit."""
    options, publish, suffix = LAYOUTS[name]
    state = weights_of(options)
    if "dinov2 registers" in name or name == "tips":
        state["cls_token"] = np.round(state["cls_token"], 3) + np.float32(0.25)
    path = write(tmp_path / f"a{suffix}", publish(state))
    got = convert_state_dict(open_state_dict(path), Spec.from_options(options))
    if name == "clip":
        state["head.bias"] = np.zeros_like(state["head.bias"])
    if name == "mobileclip" or name.startswith("openclip trunk"):
        state["head.bias"] = np.zeros_like(state["head.bias"])
    assert set(got) == set(state)
    for key, value in state.items():
        assert got.shapes()[key] == value.shape
        np.testing.assert_allclose(
            got[key], value, rtol=0, atol=1e-6 if key == "cls_token" else 0, err_msg=key
        )


def test_stacked_blocks_are_read_once(tmp_path: Path) -> None:
    """An array with all blocks is not read again for each of them."""
    options, publish, _ = LAYOUTS["big_vision stacked"]
    path = write(tmp_path / "a.npz", publish(weights_of(options)))
    source = open_state_dict(path)
    reads: dict[str, int] = {}
    for key, tensor in source.tensors.items():

        def read(key: str = key, inner: Callable[[], Any] = tensor.read) -> Any:
            reads[key] = reads.get(key, 0) + 1
            return inner()

        tensor.read = read
    got = convert_state_dict(source, Spec.from_options(options))
    for key in got:
        got[key]
    assert set(reads.values()) == {1}


def test_a_jax_archive_with_a_hole_names_what_is_missing(tmp_path: Path) -> None:
    content = published.jax(weights_of(TINY), heads=2)
    del content["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel"]
    path = write(tmp_path / "a.npz", content)
    with pytest.raises(ValueError, match=r"'key/kernel' is missing") as caught:
        convert_state_dict(open_state_dict(path), Spec.from_options(TINY))
    assert str(path) in str(caught.value)


# Adapting


def test_more_channels_repeat_the_old_ones_scaled() -> None:
    name = "patch_embed.proj.weight"
    stored = weights_of(TINY)[name]
    five = converted(TINY, TINY | {"in_chans": 5})[name]
    for channel in range(5):
        np.testing.assert_allclose(
            five[:, channel], stored[:, channel % 3] * (3 / 5), rtol=1e-6
        )
    grey = converted(TINY, TINY | {"in_chans": 1})[name]
    np.testing.assert_allclose(grey[:, 0], stored.sum(axis=1), rtol=1e-5, atol=1e-6)


def test_positions_of_a_wide_grid_are_read_as_wide() -> None:
    """Only the configuration tells a 4x6 grid from a 6x4 one."""
    wide, tall = TINY | {"img_size": (64, 96)}, TINY | {"img_size": (96, 64)}
    stored = weights_of(wide)["pos_embed"]
    got = converted(wide, tall, input_size=(3, 64, 96))["pos_embed"]
    want = resample_abs_pos_embed(stored, (6, 4), (4, 6))
    np.testing.assert_array_equal(got, want)
    assert not np.allclose(got, stored)
    same = converted(wide, wide, input_size=(3, 64, 96))["pos_embed"]
    np.testing.assert_array_equal(same, stored)


def test_head_of_the_registered_classes_is_left_out() -> None:
    other = converted(TINY, TINY | {"num_classes": 3}, num_classes=10)
    assert not [key for key in other if key.startswith("head.")]
    same = converted(TINY, TINY, num_classes=10)
    assert same["head.weight"].shape == (10, 32)
    # A fine-tuned file fits although the configuration knows another number.
    tuned = converted(TINY | {"num_classes": 3}, TINY | {"num_classes": 3})
    assert tuned["head.weight"].shape == (3, 32)


def test_background_class_is_cut_off() -> None:
    stored = weights_of(TINY | {"num_classes": 11})
    got = converted(TINY | {"num_classes": 11}, TINY, label_offset=1)
    np.testing.assert_array_equal(got["head.weight"], stored["head.weight"][1:])
    np.testing.assert_array_equal(got["head.bias"], stored["head.bias"][1:])


@pytest.mark.parametrize(
    ("stored", "wanted", "old", "new"),
    [
        ("map", "avg", "norm.", "fc_norm."),
        ("token", "avg", "norm.", "fc_norm."),
        ("token", "avgmax", "norm.", "fc_norm."),
        ("avg", "", "fc_norm.", "norm."),
        ("avg", "token", "fc_norm.", "norm."),
        ("avg", "prr", "fc_norm.", "norm."),
    ],
)
@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
def test_trained_norm_moves_to_where_the_pool_needs_it(
    stored: str, wanted: str, old: str, new: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows 28 and 30 of the semantics."""
    before = TINY | {"global_pool": stored}
    after = TINY | {"global_pool": wanted}
    weights = weights_of(before)
    with caplog.at_level(logging.WARNING, "vitpool"):
        got = converted(before, after)
    for kind in ("weight", "bias"):
        np.testing.assert_array_equal(got[new + kind], weights[old + kind])
        assert old + kind not in got
    assert f"{old}* is loaded as the model's {new}*" in caplog.text
    assert set(got) == set(shapes_of(after))


@pytest.mark.parametrize("wanted", ["avg", "", "max", "avgmax", "prr"])
@pytest.mark.parametrize("classes", [10, 0])
def test_unused_attention_pool_is_left_out_and_said(wanted: str, classes: int) -> None:
    """Row 29: one rule for every map checkpoint and every other pool."""
    after = MAP | {"global_pool": wanted, "num_classes": classes}
    with pytest.warns(vitpool.LeftOutWarning) as caught:
        got = converted(MAP, after)
    assert set(got) == set(shapes_of(after))
    (text,) = [str(warning.message) for warning in caught]
    assert "attention pool (13 tensors)" in text
    assert "is left out" in text
    assert f"global_pool={wanted!r}" in text


WITHOUT = {
    "pool": (MAP, MAP | {"global_pool": "avg"}, True),
    "pool and no head": (MAP, MAP | {"global_pool": "", "num_classes": 0}, True),
    "norm": (TINY, TINY | {"final_norm": False}, False),
    "norm behind the pool": (
        TINY | {"global_pool": "avg"},
        TINY | {"global_pool": "avg", "final_norm": False},
        False,
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_what_is_left_out_is_a_warning_before_anything_changes(
    name: str, tmp_path: Path
) -> None:
    stored, wanted, strict = WITHOUT[name]
    path = write(tmp_path / "a.safetensors", weights_of(stored))
    model = vitpool.VisionTransformer(**wanted, seed=0)
    before = {key: value.copy() for key, value in model.state_dict().items()}

    def load() -> None:
        load_checkpoint(model, path, strict=strict)

    with warnings.catch_warnings():
        warnings.simplefilter("error", vitpool.LeftOutWarning)
        with pytest.raises(vitpool.LeftOutWarning, match="left out") as raised:
            load()
        with pytest.raises(vitpool.LeftOutWarning):
            build_with_checkpoint(wanted, None, path, strict=strict)
    assert str(path) in str(raised.value)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    with pytest.warns(vitpool.LeftOutWarning) as caught:
        load()
    assert [warning.filename for warning in caught] == [__file__]
    key = "blocks.0.attn.qkv.weight"
    np.testing.assert_array_equal(model.get_parameter(key), weights_of(stored)[key])


def test_what_is_left_out_is_said_after_the_rest_was_checked(tmp_path: Path) -> None:
    content = weights_of(MAP) | {"other": np.ones(2, np.float32)}
    path = write(tmp_path / "a.safetensors", content)
    options = MAP | {"global_pool": "avg"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="unexpected are 1: other"):
            load_checkpoint(vitpool.VisionTransformer(**options), path)
        with pytest.raises(ValueError, match="unexpected are 1: other"):
            build_with_checkpoint(options, None, path)


def test_nothing_is_said_where_nothing_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "vitpool"):
        converted(MAP, MAP, num_classes=10)
    assert not caplog.records


def test_norm_that_the_model_has_nowhere_is_reported() -> None:
    """final_norm=False: the trained norm is not dropped in silence."""
    got = converted(TINY, TINY | {"final_norm": False})
    assert "norm.weight" in got


def test_positions_of_no_known_grid_are_not_guessed(tmp_path: Path) -> None:
    state = weights_of(TINY)
    state["pos_embed"] = state["pos_embed"][:, :-2]
    path = write(tmp_path / "a.safetensors", state)
    with pytest.raises(ValueError, match=r"pos_embed is \(1, 15, 32\), not \(1, 17,"):
        build_with_checkpoint(TINY, None, path)


# Building and loading


def test_build_equals_load(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", weights_of(TINY))
    built = build_with_checkpoint(TINY, None, path)
    loaded = vitpool.VisionTransformer(**TINY)
    result = load_checkpoint(loaded, path)
    assert tuple(map(list, result)) == ([], [])
    assert models.same(models.copies(built), models.copies(loaded))
    assert models.same(models.copies(built), weights_of(TINY))


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
def test_build_resizes_everything_at_once(suffix: str, tmp_path: Path) -> None:
    state = weights_of(TINY)
    content = state if suffix == ".safetensors" else published.jax(state, heads=2)
    path = write(tmp_path / f"a{suffix}", content)
    options = TINY | {
        "img_size": (96, 64),
        "patch_size": 8,
        "in_chans": 1,
        "global_pool": "avg",
        "num_classes": 4,
    }
    model = build_with_checkpoint(options, {"num_classes": 10}, path, seed=0)
    assert model(np.zeros((1, 1, 96, 64), np.float32)).shape == (1, 4)
    np.testing.assert_array_equal(model.fc_norm.weight, state["norm.weight"])


def test_new_head_is_drawn_from_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", weights_of(TINY))
    options, cfg = TINY | {"num_classes": 200}, {"num_classes": 10}

    def head(seed: int | None) -> np.ndarray:
        model = build_with_checkpoint(options, cfg, path, seed=seed)
        assert not model.head.bias.any()
        return np.array(model.head.weight)

    assert head(1).tobytes() == head(1).tobytes()
    assert head(1).tobytes() != head(2).tobytes()
    assert 0.018 < head(None).std() < 0.022


def test_missing_head_is_new_only_where_the_configuration_says_so(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.safetensors", weights_of(TINY | {"num_classes": 0}))
    model = build_with_checkpoint(TINY, {"num_classes": 0}, path)
    assert model.head.weight.shape == (10, 32)
    with pytest.raises(ValueError, match=r"head\.weight, head\.bias.*num_classes=0"):
        build_with_checkpoint(TINY, None, path)


def test_build_that_is_not_strict_draws_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = published.without(weights_of(TINY), "blocks.1.")
    path = write(tmp_path / "a.safetensors", state | {"other": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match="missing are 12"):
        build_with_checkpoint(TINY, None, path)
    model = build_with_checkpoint(TINY, None, path, strict=False)
    np.testing.assert_array_equal(model.norm.weight, state["norm.weight"])
    assert np.asarray(model.get_parameter("blocks.1.mlp.fc1.weight")).any()
    assert "unexpected are 1: other (2,)" in caplog.text


MISFITS: dict[str, tuple[Mapping[str, Any], str]] = {
    "width": ({"embed_dim": 64}, "embed_dim=64"),
    "depth": ({"depth": 3}, "depth=3"),
    "classes": ({"num_classes": 7}, "num_classes=7"),
    "tokens": ({"reg_tokens": 4, "no_embed_class": True}, "reg_tokens=4"),
    "positions": ({"no_embed_class": True}, "no_embed_class=True"),
    "layer scale": ({"init_values": 1e-5}, "init_values='set'"),
    "qk norm": ({"qk_norm": True}, "qk_norm=True"),
    "qkv bias": ({"qkv_bias": False}, "qkv_bias=False"),
    "mlp ratio": ({"mlp_ratio": 3}, "mlp_ratio=3.0"),
    "gate": ({"mlp_layer": "SwiGLU"}, "mlp_layer='SwiGLU'"),
    "packed gate": ({"mlp_layer": "GluMlp"}, "mlp_layer='GluMlp or SwiGLUPacked'"),
    "norm": ({"norm_layer": "rmsnorm"}, "norm_layer='rmsnorm'"),
    "first norm": ({"pre_norm": True}, "pre_norm=True"),
    "block": ({"block_fn": "ParallelScalingBlock"}, "block_fn='ParallelScalingBlock'"),
    "attention": ({"attn_layer": "diff"}, "attn_layer='diff'"),
}


@pytest.mark.parametrize(("changes", "hint"), MISFITS.values(), ids=MISFITS.keys())
def test_misfit_says_what_would_fit_and_leaves_the_model(
    changes: Mapping[str, Any], hint: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.safetensors", weights_of(TINY | changes))
    model = vitpool.VisionTransformer(**TINY, seed=0)
    x = recipe.picture((1, 3, 64, 64))
    with models.unchanged(model, x):
        with pytest.raises(ValueError, match="does not fit the model") as caught:
            load_checkpoint(model, path)
    assert str(path) in str(caught.value)
    assert hint in str(caught.value)
    with pytest.raises(ValueError, match="does not fit the model"):
        build_with_checkpoint(TINY, None, path)


def test_misfit_names_keys_and_shapes(tmp_path: Path) -> None:
    state = weights_of(TINY)
    state["norm.bias"] = np.zeros(31, np.float32)
    state["extra.weight"] = np.zeros((2, 3), np.float32)
    del state["cls_token"]
    path = write(tmp_path / "a.safetensors", state)
    model = vitpool.VisionTransformer(**TINY)
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_checkpoint(model, path)
    message = str(caught.value)
    assert "missing are 1: cls_token" in message
    assert "unexpected are 1: extra.weight (2, 3)" in message
    assert "wrong shape are 1: norm.bias is (31,), not (32,)" in message


def test_live_load_that_is_not_strict_keeps_its_own_head(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "a.safetensors", weights_of(TINY | {"num_classes": 7}))
    model = vitpool.VisionTransformer(**TINY, seed=0)
    own = np.array(model.head.weight)
    result = load_checkpoint(model, path, strict=False)
    assert sorted(result.missing_keys) == ["head.bias", "head.weight"]
    np.testing.assert_array_equal(model.head.weight, own)
    np.testing.assert_array_equal(model.norm.weight, weights_of(TINY)["norm.weight"])
    assert "head.weight is (7, 32), not (10, 32)" in caplog.text


def test_wrong_shape_beyond_the_head_is_an_error_even_if_not_strict(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.safetensors", weights_of(TINY | {"mlp_ratio": 3}))
    model = vitpool.VisionTransformer(**TINY, seed=0)
    with models.unchanged(model, recipe.picture((1, 3, 64, 64))):
        with pytest.raises(ValueError, match="does not fit the model"):
            load_checkpoint(model, path, strict=False)


def test_file_that_ends_while_it_is_loaded_leaves_the_model(tmp_path: Path) -> None:
    """The model takes the new weights together, or none."""
    path = write(tmp_path / "a.safetensors", weights_of(TINY))
    model = vitpool.VisionTransformer(**TINY, seed=0)
    weights = convert_state_dict(open_state_dict(path), Spec.from_model(model))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with models.unchanged(model, recipe.picture((1, 3, 64, 64))):
        with pytest.raises(ValueError, match="ended while it was read"):
            model.load_state_dict(weights)


@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
def test_load_follows_a_reset_classifier(tmp_path: Path) -> None:
    """The file is fitted to the model as it is, not as it was built."""
    path = write(tmp_path / "a.safetensors", weights_of(MAP | {"num_classes": 3}))
    model = vitpool.VisionTransformer(**MAP, seed=0)
    model.reset_classifier(3)
    load_checkpoint(model, path)
    model.reset_classifier(3, "avg")
    load_checkpoint(model, path)
    np.testing.assert_array_equal(
        model.norm.weight, weights_of(MAP | {"num_classes": 3})["norm.weight"]
    )
