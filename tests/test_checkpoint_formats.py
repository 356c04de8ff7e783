# SPDX-License-Identifier: Apache-2.0
"""What each layout carries: a key that it does not know is never dropped unsaid."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
from test_checkpoint import (
    CLIP,
    DINO,
    LAYOUTS,
    MAP,
    REG,
    TINY,
    converted,
    shapes_of,
    weights_of,
    write,
)

import vitpool
from vitpool.checkpoint import (
    Spec,
    build_with_checkpoint,
    convert_state_dict,
    load_checkpoint,
    open_state_dict,
)
from vitpool.checkpoint.fit import Fit
from vitpool.checkpoint.forms import form_of, known_forms
from vitpool.checkpoint.lazy import LazyTensor
from vitpool.registry.create import plan_model
from vitpool.resample import resample_abs_pos_embed

SIGLIP = MAP | {"num_classes": 0}
VIT = published.transformers_vit


def fitted(state: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict for a model of these options, under strict=True."""
    spec = Spec.from_options(options)
    weights = convert_state_dict(state, spec)
    Fit.of(weights, spec).check(weights, spec, strict=True)
    return {key: weights[key] for key in weights}


def refused(state: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        fitted(state, options)
    return str(caught.value)


# What a layout does not know


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
def test_a_key_that_a_layout_does_not_know_is_reported(name: str) -> None:
    """Beside each part of the model, in it, and next to it."""
    options, publish, suffix = LAYOUTS[name]
    state = publish(weights_of(options))
    dot = "/" if suffix == ".npz" else "."
    # The text's side of a file is left out by its name, with all that is in it.
    text = ("text", "transformer", "temperature")
    parts = {
        key.rpartition(dot)[0]
        for key in state
        if not key.startswith(text) and ".B." not in key
    }
    for part in [*sorted(parts)[::7], "", "neck"]:
        extra = f"{part}{dot}extra" if part else "extra"
        message = refused(state | {extra: np.ones((2, 3), np.float32)}, options)
        assert "extra" in message, part


BESIDE: dict[str, tuple[Mapping[str, Any], Callable[[Any], Any], list[str]]] = {
    "clip": (
        CLIP,
        published.openai_clip,
        [
            *("text.token_embedding.weight", "text_decoder.ln_final.bias"),
            *("token_embedding.weight", "text_projection", "logit_bias"),
            *("input_resolution", "context_length", "vocab_size", "attn_mask"),
        ],
    ),
    "openclip trunk": (MAP, published.openclip_trunk, ["logit_scale", "logit_bias"]),
    "tips": (REG, published.tips, ["temperature"]),
    "dinov2 teacher": (
        DINO,
        lambda state: (
            {f"teacher.backbone.{k}": v for k, v in state.items()}
            | {"teacher.backbone.mask_token": np.ones((1, 32), np.float32)}
        ),
        ["teacher.dino_head.mlp.0.weight", "teacher.ibot_head.last_layer.weight_g"],
    ),
    "dino": (
        TINY | {"num_classes": 0},
        lambda state: {f"backbone.{k}": v for k, v in state.items()},
        ["head.mlp.0.weight", "head.last_layer.weight_v"],
    ),
    "transformers vit": (
        TINY,
        VIT,
        [
            *("vit.embeddings.mask_token", "vit.pooler.dense.weight"),
            *("decoder.0.weight", "decoder.decoder_embed.bias"),
            *("decoder.mask_token", "vit.embeddings.position_ids"),
        ],
    ),
    "siglip": (SIGLIP, published.siglip, ["text_model.head.weight"]),
    "big_vision": (
        SIGLIP,
        partial(published.jax, heads=2, prefix="params/img/", big_vision=True),
        ["params/txt/Embed_0/embedding", "params/t", "params/b", "opt/0/count"],
    ),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_a_layout_leaves_out_has_a_name(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A text tower and what only training needs; that it is left out is logged."""
    options, publish, names = BESIDE[name]
    state = weights_of(options)
    content = publish(state) | {key: np.ones(2, np.float32) for key in names}
    with caplog.at_level(logging.INFO, "vitpool"):
        assert set(fitted(content, options)) == set(state)
    assert "left out by their names are" in caplog.text


@pytest.mark.parametrize(
    ("state", "options", "message"),
    [
        (
            published.openai_clip(weights_of(CLIP))
            | {"visual.attn_pool.query": np.ones((4, 32), np.float32)},
            CLIP,
            "visual.attn_pool.query",
        ),
        (
            published.openclip_trunk(weights_of(TINY))
            | {"visual.head.mlp.fc1.weight": np.ones((64, 32), np.float32)},
            TINY,
            "visual.head.mlp.fc1.weight",
        ),
        (
            VIT(weights_of(TINY))
            | {"vit.encoder.layer.0.lambda_1": np.ones(32, np.float32)},
            TINY,
            "looks like a checkpoint of transformers_beit, which is for Beit",
        ),
        (
            {"backbone." + k: v for k, v in weights_of(TINY).items()}
            | {"head.weight": np.ones((10, 32), np.float32)},
            TINY,
            "head.weight (beside backbone.)",
        ),
    ],
    ids=["CoCa's pool", "an MLP of OpenCLIP's", "BEiT's scale", "a head beside"],
)
def test_part_that_timms_model_cannot_have_is_refused(
    state: Mapping[str, Any], options: Mapping[str, Any], message: str
) -> None:
    assert message in refused(state, options)


def test_openclip_projection_keeps_its_bias() -> None:
    state = weights_of(TINY)
    content = published.openclip_trunk(state)
    content["visual.head.proj.bias"] = state["head.bias"]
    np.testing.assert_array_equal(
        fitted(content, TINY)["head.bias"], state["head.bias"]
    )


def test_openclip_without_its_first_norm_gets_a_bias_of_zeros() -> None:
    state = weights_of(TINY)
    got = fitted(published.openai_clip(state), TINY)
    assert not got["patch_embed.proj.bias"].any()


def test_openclip_layer_scale_is_read() -> None:
    options = CLIP | {"init_values": 1e-5}
    state = weights_of(options)
    content = published.renamed(
        published.openai_clip(state), (r"\.ls([12])\.gamma", r".ls_\1.gamma")
    )
    got = fitted(content, options)
    np.testing.assert_array_equal(
        got["blocks.1.ls2.gamma"], state["blocks.1.ls2.gamma"]
    )


def test_two_keys_that_become_one_are_refused() -> None:
    state = weights_of(TINY | {"init_values": 1.0})
    state["blocks.0.gamma_1"] = state["blocks.0.ls1.gamma"]
    assert "two of its keys are" in refused(state, TINY | {"init_values": 1.0})


def test_stacks_of_different_depths_are_refused() -> None:
    publish = partial(published.jax, heads=2, prefix="params/", stacked=True)
    state = publish(weights_of(TINY))
    key = "params/Transformer/encoderblock/LayerNorm_0/bias"
    state[key] = state[key][:1]
    assert "arrays of [1, 2] blocks" in refused(state, TINY)


# Shapes


@pytest.mark.parametrize("shape", [(32, 768), (32, 3, 2, 16, 16), (32, 3, 16)])
def test_patches_that_are_no_convolution_over_a_picture_are_refused(
    shape: tuple[int, ...],
) -> None:
    """VideoMAE and ViViT have a third axis; a linear layer is NaFlex's alone."""
    state = VIT(weights_of(TINY))
    key = "vit.embeddings.patch_embeddings.projection.weight"
    state[key] = np.zeros(shape, np.float32)
    assert f"the shape {shape}" in refused(state, TINY)


def test_model_without_positions_in_the_file_is_refused() -> None:
    """DINOv3 and VideoLLaMA3 turn queries and keys instead, and say so nowhere."""
    state = published.without(VIT(weights_of(TINY)), "vit.embeddings.position")
    assert "no position embedding" in refused(state, TINY | {"pos_embed": "none"})


def test_flat_patches_of_another_size_are_resized_as_pictures() -> None:
    """(C, 3 * 16 * 16) is 16x16 patches of 3 channels, whatever the model has."""
    flat = published.flat_patches(weights_of(TINY))
    small = TINY | {"patch_size": 8, "img_size": 32}
    name = "patch_embed.proj.weight"
    want = converted(TINY, small)[name]
    np.testing.assert_array_equal(fitted(flat, small)[name], want)


def test_naflex_positions_are_resized_as_transformers_does() -> None:
    """Bilinear, smoothed where the grid shrinks."""
    state = weights_of(SIGLIP)
    got = fitted(published.naflex(state), SIGLIP | {"img_size": (48, 80)})
    want = resample_abs_pos_embed(state["pos_embed"], (3, 5), (4, 4), 0, "bilinear")
    np.testing.assert_array_equal(got["pos_embed"], want)
    bicubic = resample_abs_pos_embed(state["pos_embed"], (3, 5), (4, 4), 0)
    assert not np.allclose(want, bicubic, atol=1e-3)


@pytest.mark.parametrize("registers", [0, 4])
def test_positions_of_transformers_are_resized_as_it_does(registers: int) -> None:
    """Bicubic, smoothed where the grid shrinks in DINOv2 with registers alone."""
    state = weights_of(TINY | {"img_size": 96})
    content = VIT(state)
    positions = state["pos_embed"][:, 1:]
    options = TINY | {"reg_tokens": registers}
    if registers:
        content["vit.embeddings.register_tokens"] = np.ones((1, 4, 32), np.float32)
        options["no_embed_class"] = True
    got = fitted(content, options)["pos_embed"][:, 0 if registers else 1 :]
    for antialias in (True, False):
        want = resample_abs_pos_embed(
            positions, (4, 4), (6, 6), 0, "bicubic", antialias
        )
        assert np.array_equal(got, want) == (antialias == bool(registers))


# Prefixes


@pytest.mark.parametrize(
    "prefix",
    ["model.", "backbone.", "encoder.", "student.", "teacher.backbone.", "net.vit."],
)
@pytest.mark.parametrize(
    "name", ["timm", "clip", "dinov2 registers", "beit3", "aimv2", "siglip"]
)
def test_a_prefix_that_all_keys_share_is_taken_off(name: str, prefix: str) -> None:
    options, publish, _ = LAYOUTS[name]
    content = publish(weights_of(options))
    got = fitted({f"{prefix}{k}": v for k, v in content.items()}, options)
    plain = fitted(content, options)
    assert set(got) == set(plain)
    for key, value in plain.items():
        np.testing.assert_array_equal(got[key], value)


def test_several_models_in_a_file_are_told_apart(tmp_path: Path) -> None:
    state = weights_of(TINY)
    content = {f"{who}.{k}": v for k, v in state.items() for who in ("student", "ema")}
    path = write(tmp_path / "both.safetensors", content)
    with pytest.raises(ValueError, match=r"2 models, below 'ema\.', 'student\.'") as e:
        load_checkpoint(vitpool.VisionTransformer(**TINY), path)
    assert str(path) in str(e.value)


def test_of_several_models_the_one_that_fits_is_taken_and_the_other_said(
    tmp_path: Path,
) -> None:
    """A student and its teacher, by depth or by width."""
    state = weights_of(TINY)
    for change in ({"depth": 1}, {"embed_dim": 64}):
        content = {f"net.student.{key}": value for key, value in state.items()}
        teacher = weights_of(TINY | change)
        content |= {f"net.teacher.{key}": value for key, value in teacher.items()}
        path = write(tmp_path / "both.safetensors", content)
        model = vitpool.VisionTransformer(**TINY)
        text = rf"another model, below 'net\.teacher\.' \({len(teacher)} tensors\)"
        with pytest.warns(vitpool.LeftOutWarning, match=text):
            load_checkpoint(model, path)
        for key, value in state.items():
            np.testing.assert_array_equal(model.get_parameter(key), value)


def test_a_language_model_beside_a_tower_is_left_out_by_its_name() -> None:
    content = published.siglip(weights_of(SIGLIP))
    content = {f"model.vision_tower.{key}": value for key, value in content.items()}
    text = ("language_model.layers.0.mlp", "multi_modal_projector.linear_1")
    for name in (*(f"model.{part}" for part in text), "lm_head"):
        content[f"{name}.weight"] = np.ones((2, 2), np.float32)
    got = fitted(content, SIGLIP | {"num_classes": 0})
    assert set(got) == set(Spec.from_options(SIGLIP | {"num_classes": 0}).shapes)


@pytest.mark.parametrize("strict", [True, False])
def test_file_of_which_nothing_fits_gets_no_hint(strict: bool, tmp_path: Path) -> None:
    """No option would turn the model into it; loading nothing is no loading."""
    path = write(tmp_path / "a.safetensors", {"conv1.weight": np.ones((8, 3, 7, 7))})
    model = vitpool.VisionTransformer(**TINY)
    with pytest.raises(ValueError, match="holds no weight of the model") as caught:
        load_checkpoint(model, path, strict=strict)
    assert "conv1.weight (8, 3, 7, 7)" in str(caught.value)
    assert "The weights are" not in str(caught.value)


def test_names_of_a_file_move_no_cursor(tmp_path: Path) -> None:
    """Control characters reach a message as escapes."""
    evil = "\x1b[2J\u202e\x07evil\n"
    content = weights_of(TINY) | {evil: np.ones(2, np.float32)}
    path = write(tmp_path / "a.safetensors", content)
    model = vitpool.VisionTransformer(**TINY)
    with pytest.raises(ValueError, match="unexpected are 1") as caught:
        load_checkpoint(model, path)
    assert str(caught.value).isprintable()
    assert r"\x1b[2J\u202e\x07evil\n" in str(caught.value)
    write(path, {evil: np.arange(3)})
    with pytest.raises(ValueError, match="has dtype int64") as caught:
        open_state_dict(path)[evil]
    assert str(caught.value).isprintable()


# A head, and the pool that it was trained with

HEADS: dict[str, tuple[Mapping[str, Any], Callable[[Any], Any], str, str]] = {
    "timm's norm moves in": (TINY, dict, "avg", "from before the pool"),
    "timm's norm moves out": (
        TINY | {"global_pool": "avg"},
        dict,
        "token",
        "from behind the pool",
    ),
    "timm's attention pool": (MAP, dict, "max", "(13 tensors) that it was"),
    "jax": (TINY, partial(published.jax, heads=2), "prr", "global_pool='token'"),
    "pre_logits": (TINY, published.with_pre_logits, "token", "layer before the head"),
    "transformers' ViT": (TINY, VIT, "prr", "global_pool='token'"),
    "transformers' I-JEPA": (
        TINY | {"class_token": False, "global_pool": "avg", "fc_norm": False},
        partial(VIT, prefix="ijepa."),
        "max",
        "global_pool='avg'",
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_head_under_another_pool_than_it_was_trained_with_is_warned_of(
    name: str, tmp_path: Path
) -> None:
    stored, publish, pool, reason = HEADS[name]
    path = write(tmp_path / "a.npz", publish(weights_of(stored)))
    options = dict(stored) | {"global_pool": pool}
    with pytest.warns(UserWarning, match="its head is loaded") as caught:
        build_with_checkpoint(options, None, path)
    assert len(caught) == 1
    assert f"under global_pool={pool!r}" in str(caught[0].message)
    assert reason in str(caught[0].message)
    # Without the head there is nothing more to warn of, nor under the pool it knows.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        left = issubclass(caught[0].category, vitpool.LeftOutWarning)
        assert left == (name in ("timm's attention pool", "pre_logits"))
        if left:
            warnings.simplefilter("ignore", vitpool.LeftOutWarning)
        build_with_checkpoint(options | {"num_classes": 0}, None, path)
        if name != "pre_logits":
            build_with_checkpoint(stored, None, path)


def test_pool_that_the_caller_knows_is_compared(tmp_path: Path) -> None:
    """Keys do not tell 'token' from 'avg' without a norm of its own; a name does."""
    path = write(tmp_path / "a.safetensors", weights_of(TINY))
    options = TINY | {"global_pool": "avg", "fc_norm": False}
    with pytest.warns(UserWarning, match="though it was trained with") as caught:
        build_with_checkpoint(options, None, path, stored_pool="token")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_with_checkpoint(options, None, path)
        build_with_checkpoint(options, None, path, stored_pool="avg")


HUGGING_FACE_HEADS: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {
    "dinov2 classifies class token and mean": (
        VIT(weights_of(TINY)) | {"classifier.weight": np.ones((10, 64), np.float32)},
        TINY,
        "class token and the mean of the patches together",
    ),
    "siglip classifies the mean": (
        published.siglip(weights_of(MAP))
        | {
            "classifier.weight": np.ones((10, 32), np.float32),
            "classifier.bias": np.ones(10, np.float32),
        },
        MAP,
        "global_pool='avg' with fc_norm=False fits",
    ),
    "a projection of a pooler": (
        VIT(weights_of(TINY), "vision_model.", classifier=False)
        | {
            "vision_model.pooler.dense.weight": np.ones((32, 32), np.float32),
            "visual_projection.weight": np.ones((10, 32), np.float32),
        },
        TINY,
        "projection is of a pooler's output",
    ),
}


@pytest.mark.parametrize("name", HUGGING_FACE_HEADS)
def test_head_that_no_pool_serves_is_refused(name: str) -> None:
    state, options, message = HUGGING_FACE_HEADS[name]
    assert message in refused(state, options)
    assert "num_classes=0" in refused(state, options)
    tower = dict(options) | {"num_classes": 0}
    assert set(fitted(state, tower)) == set(shapes_of(tower))


# transformers' config.json beside the file

TOWER = {"num_attention_heads": 2, "hidden_act": "gelu_pytorch_tanh"}
CONFIGS: dict[str, tuple[Any, str]] = {
    "none": (None, ""),
    "timm's": ({"architecture": "vit", "num_attention_heads": 9}, ""),
    "as the model": (TOWER | {"model_type": "siglip_vision_model"}, ""),
    "both towers": (
        {
            "model_type": "siglip",
            "vision_config": TOWER,
            "text_config": {"model_type": 1},
        },
        "",
    ),
    "an epsilon that shows nowhere": (
        TOWER | {"model_type": "siglip", "layer_norm_eps": 1e-12},
        "",
    ),
    "damaged": ("{", ""),
    "a list": ([1], ""),
    "too deep": ("[" * 100_000, ""),
    "another kind": (
        {"model_type": "idefics\x1b[2J"},
        r"transformers' 'idefics\x1b[2J'",
    ),
    "other heads": ({"model_type": "siglip", "num_attention_heads": 4}, "num_heads=4"),
    "heads that are none": (
        {"model_type": "siglip", "num_attention_heads": ["\x1b" * 999]},
        r"num_heads=['\x1b",
    ),
    "another activation": (
        {"model_type": "siglip", "hidden_act": "quick_gelu"},
        "act_layer='quick_gelu'",
    ),
    "the activation of its kind": ({"model_type": "clip"}, "act_layer='quick_gelu'"),
    "another epsilon": (
        TOWER | {"model_type": "siglip", "layer_norm_eps": 1e-3},
        "norm_layer=('layernorm', 0.001)",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("publish", [published.siglip, published.naflex])
def test_config_beside_a_file_tells_what_keys_do_not(
    publish: Callable[[Any], Any], name: str, tmp_path: Path
) -> None:
    config, words = CONFIGS[name]
    options = SIGLIP | {"act_layer": "gelu_tanh"}
    path = write(tmp_path / "a.safetensors", publish(weights_of(options)))
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text)
    if words:
        with pytest.raises(ValueError, match=r"config\.json beside it") as caught:
            build_with_checkpoint(options, None, path)
        assert words in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 500
        with pytest.raises(ValueError, match=r"config\.json beside it"):
            load_checkpoint(vitpool.VisionTransformer(**options), path)
        build_with_checkpoint(options, None, path, strict=False)
    else:
        build_with_checkpoint(options, None, path)


def test_config_says_nothing_of_other_layouts(tmp_path: Path) -> None:
    """timm's weights in a folder of transformers'."""
    path = write(tmp_path / "a.safetensors", weights_of(TINY))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    build_with_checkpoint(TINY, None, path)


def test_every_key_of_a_registered_model_is_a_known_form() -> None:
    """Else a file of timm's would be told to be of no such class."""
    for name in vitpool.list_models():
        plan = plan_model(name)
        shapes = Spec.from_options(plan.options, family=plan.family).shapes
        assert set(map(form_of, shapes)) <= known_forms(plan.family), name


@pytest.mark.parametrize("prefix", ["", "model.", "visual.trunk."])
def test_own_keys_of_every_registered_model_are_no_other_layouts(prefix: str) -> None:
    for name in vitpool.list_models():
        plan = plan_model(name)
        spec = Spec.from_options(plan.options, plan.cfg, plan.arch, family=plan.family)
        file = {
            f"{prefix}{key}": LazyTensor(shape, partial(np.zeros, shape))
            for key, shape in spec.shapes.items()
        }
        got = convert_state_dict(file, spec)
        assert got.shapes() == dict(spec.shapes), name
