# SPDX-License-Identifier: Apache-2.0
"""Weights of other models in NaFlexVit, beside what timm makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import naflex_batches as batches
import numpy as np
import published
import pytest
import reference
import timm
import torch
from golden import recipe
from safetensors.numpy import save_file
from timm.models import naflexvit
from timm.models.vision_transformer import VisionTransformer

import vitpool

TINY = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
BASE = TINY | {"patch_size": 4, "img_size": 16}
CLASSIC: dict[str, dict[str, Any]] = {
    "token": {},
    "positions of patches alone": {"no_embed_class": True, "reg_tokens": 4},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "registers without positions": {"reg_tokens": 1, "no_embed_class": True},
    "map": {"class_token": False, "global_pool": "map", "act_layer": "gelu_tanh"},
    "clip": {"pre_norm": True, "init_values": 0.1},
}


def file_of(model: torch.nn.Module, path: Path) -> dict[str, np.ndarray]:
    """timm's model with the recipe's weights, in a file; the weights."""
    weights = reference.fill(model)
    save_file(weights, path)
    return weights


def flexible(options: dict[str, Any]) -> dict[str, Any]:
    """As vitpool's create_model(use_naflex=True) maps them."""
    from vitpool.registry.naflex import naflex_options

    return naflex_options("VisionTransformer", options, "")


@pytest.mark.parametrize("kind", CLASSIC)
def test_a_vision_transformer_is_the_same_as_a_naflexvit(
    kind: str, tmp_path: Path
) -> None:
    options = BASE | CLASSIC[kind]
    act = options.get("act_layer")
    model = VisionTransformer(**options).eval()
    weights = file_of(model, tmp_path / "a.safetensors")
    made = flexible(options)
    ours = vitpool.NaFlexVit(**made)
    vitpool.load_checkpoint(ours, tmp_path / "a.safetensors")
    theirs = naflexvit.NaFlexVit(**made).eval()
    state = {k: torch.from_numpy(v.copy()) for k, v in weights.items()}
    theirs.load_state_dict(naflexvit.checkpoint_filter_fn(state, theirs))
    assert act == options.get("act_layer")
    for name, value in reference.state(theirs).items():
        assert np.array_equal(ours.get_parameter(name), value), name
    x = recipe.picture((2, 3, 16, 16), 0)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    assert np.allclose(ours(x), wanted, rtol=1e-4, atol=1e-5)
    reference.check(ours, theirs, reference.views, recipe.picture((1, 3, 8, 24), 1))


def test_registers_get_their_positions_which_timm_drops(tmp_path: Path) -> None:
    options = BASE | {"reg_tokens": 2}
    model = VisionTransformer(**options).eval()
    file_of(model, tmp_path / "a.safetensors")
    ours = vitpool.NaFlexVit(**flexible(options))
    vitpool.load_checkpoint(ours, tmp_path / "a.safetensors")
    x = recipe.picture((2, 3, 16, 16), 0)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    assert np.allclose(ours(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_grid_that_is_not_square_is_known_by_input_size(tmp_path: Path) -> None:
    options = BASE | {"img_size": (8, 24)}
    model = VisionTransformer(**options).eval()
    file_of(model, tmp_path / "a.safetensors")
    ours = vitpool.NaFlexVit(**flexible(options))
    ours.pretrained_cfg = {"input_size": (3, 8, 24)}
    vitpool.load_checkpoint(ours, tmp_path / "a.safetensors")
    x = recipe.picture((2, 3, 8, 24), 0)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    assert np.allclose(ours(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"patchify_channels_last": False},
        {"embed_proj_type": "conv"},
        {"patchify_channels_last": False, "embed_proj_type": "conv"},
    ],
)
def test_the_kernel_has_the_models_form(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    """timm's filter has rows of channels-last pixels for all models."""
    model = VisionTransformer(**BASE).eval()
    file_of(model, tmp_path / "a.safetensors")
    ours = vitpool.NaFlexVit(**flexible(BASE) | changed)
    vitpool.load_checkpoint(ours, tmp_path / "a.safetensors")
    x = recipe.picture((2, 3, 16, 16), 0)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    assert np.allclose(ours(x), wanted, rtol=1e-4, atol=1e-5)


def test_radios_own_file_loads_as_timm_loads_it(tmp_path: Path) -> None:
    options = TINY | {
        "num_classes": 0,
        "patch_size": 4,
        "class_token": True,
        "reg_tokens": 7,
        "global_pool": "token",
        "final_norm": False,
        "init_values": 1e-5,
        "pos_embed_grid_size": (12, 12),
        "pos_embed_interp_mode": "bilinear",
        "pos_embed_ar_preserving": True,
        "pos_embed_antialias": False,
        "pos_embed_align_corners": True,
    }
    classes = options.pop("num_classes")
    cfg = naflexvit.NaFlexVitCfg(**options)
    theirs = naflexvit.NaFlexVit(cfg, num_classes=classes).eval()
    classic = VisionTransformer(
        **(BASE | {"img_size": 48, "num_classes": 0, "reg_tokens": 7}),
        no_embed_class=True,
        init_values=1e-5,
        final_norm=False,
    )
    state = published.radio(reference.fill(classic))
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()},
              tmp_path / "a.safetensors")  # fmt: skip
    raw = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}
    theirs.load_state_dict(naflexvit.checkpoint_filter_fn(raw, theirs))
    ours = vitpool.NaFlexVit(cfg, num_classes=classes)
    vitpool.load_checkpoint(
        ours, tmp_path / "a.safetensors", variant="naflexvit_base_patch16_radio_v3"
    )
    x = recipe.picture((2, 3, 20, 36), 0)
    reference.check(ours, theirs, reference.views, x)


@pytest.mark.parametrize("grid", [(4, 4), (6, 5)])
@pytest.mark.parametrize("changed", [{}, {"patchify_channels_last": False}])
def test_big_visions_archive_loads_as_timm_loads_it(
    changed: dict[str, Any], grid: tuple[int, int], tmp_path: Path
) -> None:
    """Its patches are rows for a dense layer, its positions lie on their grid."""
    options = BASE | CLASSIC["map"]
    classic = reference.fill(VisionTransformer(**options))
    state = published.jax(classic, 3, "params/img/", big_vision=True)
    kernel, positions = "params/img/embedding/kernel", "params/img/pos_embedding"
    state[kernel] = state[kernel].reshape(-1, 48)
    state[positions] = state[positions].reshape(4, 4, 48)
    np.savez(tmp_path / "a.npz", **state)
    made = flexible(options) | changed | {"pos_embed_grid_size": grid}
    theirs = naflexvit.NaFlexVit(**made).eval()
    theirs.load_pretrained(str(tmp_path / "a.npz"))
    ours = vitpool.NaFlexVit(**made)
    vitpool.load_checkpoint(ours, tmp_path / "a.npz")
    for name, value in reference.state(theirs).items():
        if not name.startswith("head."):
            assert np.allclose(ours.get_parameter(name), value, atol=1e-6), name


def test_siglip2_of_transformers_gives_what_transformers_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Siglip2VisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=3,
        patch_size=4,
        num_patches=16,
        attn_implementation="eager",
    )
    model = transformers.Siglip2VisionModel(config).eval()
    state = recipe.weights(reference.shapes(model), 0)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    named = {k if k.startswith("vision_model.") else f"vision_model.{k}": v
             for k, v in state.items()}  # fmt: skip
    save_file(named, tmp_path / "a.safetensors")
    ours = vitpool.NaFlexVit(
        patch_size=4,
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_ratio=2.0,
        act_layer="gelu_tanh",
        pos_embed_grid_size=(4, 4),
        pos_embed_interp_mode="bilinear",
        num_classes=0,
        norm_layer=("layernorm", 1e-6),
    )
    vitpool.load_checkpoint(ours, tmp_path / "a.safetensors")
    grids = [(4, 4), (2, 6), (5, 3)]
    given = batches.batch(grids, 48)
    with torch.no_grad():
        out = model(
            pixel_values=torch.from_numpy(given["patches"]),
            pixel_attention_mask=torch.from_numpy(
                given["patch_valid"].astype(np.int64)
            ),
            spatial_shapes=torch.tensor(grids),
        )
    assert np.allclose(ours(given), out.pooler_output.numpy(), rtol=1e-3, atol=1e-4)
    model.save_pretrained(tmp_path / "folder")
    made = vitpool.create_model(
        f"local-dir:{tmp_path / 'folder'}", pretrained=True, use_naflex=True
    )
    assert isinstance(made, vitpool.NaFlexVit)
    assert made.config["pos_embed_interp_mode"] == "bilinear"
    assert np.allclose(made(given), out.pooler_output.numpy(), rtol=1e-3, atol=1e-4)
    tokens = ours.forward_features(given)["patches"]
    wanted = out.last_hidden_state.numpy() * given["patch_valid"][..., None]
    assert np.allclose(tokens, wanted, rtol=1e-3, atol=1e-4)


USE = {
    "vit_tiny_patch16_224": {},
    "vit_small_patch14_reg4_dinov2": {},
    "vit_base_patch16_siglip_gap_224": {},
    "vit_base_patch16_radio_v3": {},
    "vit_small_patch16_rope_224": {"img_size": 64},
    "eva02_tiny_patch14_224": {},
    "vit_small_patch16_dinov3": {},
}


@pytest.mark.parametrize("name", USE)
def test_use_naflex_builds_what_timm_builds(name: str) -> None:
    known = vitpool.list_models("*" + name.replace("vit_base_patch16_radio_v3", "*"))
    if name not in known and name not in timm.list_models():
        pytest.fail(f"no model {name}")
    small = {"depth": 2, "embed_dim": 96, "num_heads": 3} | USE[name]
    theirs = timm.create_model(name, use_naflex=True, **small).eval()
    ours = vitpool.create_model(name, use_naflex=True, **small)
    assert isinstance(ours, vitpool.NaFlexVit)
    assert [(k, tuple(v)) for k, v in ours.param_shapes().items()] == list(
        reference.shapes(theirs).items()
    )
    ours.load_state_dict(reference.fill(theirs))
    patch = ours.get_patch_size()[0]
    x = recipe.picture((1, 3, 3 * patch, 5 * patch), 0)
    reference.check(ours, theirs, reference.views, x)
