# SPDX-License-Identifier: Apache-2.0
"""Every published layout loads through vitpool to the weights that timm loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import prepare  # noqa: F401
import published
import pytest
import reference
import safetensors.numpy
import timm
import torch
from golden import recipe
from timm.models import _builder
from timm.models import vision_transformer as vit

from vitpool.checkpoint import (
    Spec,
    build_with_checkpoint,
    convert_state_dict,
    load_checkpoint,
    open_state_dict,
)
from vitpool.registry.create import plan_model

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64, "num_classes": 10}
CLIP = TINY | {"pre_norm": True, "norm_layer": ("layernorm", 1e-5), "num_classes": 12}
DINO = TINY | {"patch_size": 14, "img_size": 70, "init_values": 1e-5, "num_classes": 0}
REG = DINO | {"reg_tokens": 4, "no_embed_class": True}
SIGLIP = TINY | {"class_token": False, "global_pool": "map", "num_classes": 0}
AIM = TINY | {
    "class_token": False,
    "global_pool": "avg",
    "fc_norm": False,
    "norm_layer": ("rmsnorm", 1e-5),
    "embed_norm_layer": ("rmsnorm", 1e-5),
    "mlp_layer": "SwiGLU",
    "act_layer": "silu",
    "mlp_ratio": 2.75,
    "qkv_bias": False,
    "proj_bias": False,
    "num_classes": 0,
}
BEIT = TINY | {
    "scale_attn_norm": True,
    "scale_mlp_norm": True,
    "class_token": True,
    "global_pool": "avg",
}
GIANT = DINO | {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "mlp_ratio": 3.0}
RADIO = TINY | {
    "reg_tokens": 7,
    "no_embed_class": True,
    "final_norm": False,
    "num_classes": 0,
    "img_size": 128,
}


@dataclass
class Case:
    """A stored model, how it is written, and the model that the file is loaded into."""

    name: str
    stored: Mapping[str, Any]
    write: Callable[[Any], dict[str, Any]] = dict
    changes: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ".pth"
    variant: str = ""
    cfg: Mapping[str, Any] = field(default_factory=dict)
    filter_args: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


def npz(name: str, stored: Mapping[str, Any], **options: Any) -> Case:
    write = {
        k: options.pop(k) for k in ("prefix", "big_vision", "stacked") if k in options
    }
    return Case(
        name, stored, partial(published.jax, heads=2, **write), suffix=".npz", **options
    )


BILINEAR = {"interpolation": "bilinear", "antialias": False}
WIDE = {"img_size": (64, 96)}
CASES = [
    Case("timm", TINY, suffix=".safetensors"),
    Case("timm half", TINY, suffix=".safetensors", dtype="float16"),
    Case("timm bfloat16", TINY, dtype="bfloat16"),
    Case("timm double", TINY, suffix=".safetensors", dtype="float64"),
    Case("timm larger", TINY, changes={"img_size": 112}, suffix=".safetensors"),
    Case("timm smaller", TINY, changes={"img_size": 48}),
    Case("timm wide", TINY, changes=WIDE),
    Case("timm from wide", TINY | WIDE, cfg={"input_size": (3, 64, 96)}),
    Case(
        "timm wide to tall",
        TINY | WIDE,
        changes={"img_size": (96, 64)},
        cfg={"input_size": (3, 64, 96)},
    ),
    Case("timm patch 8", TINY, changes={"patch_size": 8, "img_size": 32}),
    Case("timm patch 20x12", TINY, changes={"patch_size": (20, 12), "img_size": 60}),
    Case("timm grey", TINY, changes={"in_chans": 1}),
    Case("timm 4 channels", TINY, changes={"in_chans": 4}, suffix=".safetensors"),
    Case("timm 2 channels, patch 8", TINY, changes={"in_chans": 2, "patch_size": 8}),
    Case("timm other classes", TINY, changes={"num_classes": 3}),
    Case("timm no classes", TINY, changes={"num_classes": 0}),
    Case("timm background class", TINY | {"num_classes": 11},
         changes={"num_classes": 10}, cfg={"label_offset": 1, "num_classes": 10}),
    Case("timm flexi", TINY, changes={"img_size": 96, "patch_size": 12},
         variant="flexivit_small", filter_args=BILINEAR),
    Case("timm registers larger", REG, changes={"img_size": 98}),
    Case("ema", TINY, published.wrapped("state_dict_ema", prefix="module.")),
    Case("model", TINY, published.wrapped("model")),
    Case("compiled", TINY, published.wrapped("state_dict", prefix="_orig_mod.module.")),
    npz("jax", TINY),
    npz("jax larger", TINY, changes={"img_size": 112}),
    npz("jax patch 12, grey", TINY, changes={"in_chans": 1, "patch_size": 12}),
    npz("jax old prefix", TINY, prefix="opt/target/"),
    npz("jax other classes", TINY, changes={"num_classes": 4}),
    npz("siglip", SIGLIP, prefix="params/img/", big_vision=True),
    npz("siglip stacked", SIGLIP, prefix="params/img/", big_vision=True, stacked=True),
    npz("siglip larger", SIGLIP, prefix="params/", big_vision=True,
        changes={"img_size": 96}),
    npz("flexivit", TINY | {"no_embed_class": True}, prefix="params/", big_vision=True,
        changes={"img_size": 60, "patch_size": 10}),
    Case("clip", CLIP, published.openai_clip),
    Case("clip half", CLIP, published.openai_clip, dtype="float16"),
    Case("clip larger", CLIP, published.openai_clip, changes={"img_size": 96}),
    Case("clip no head", CLIP, published.openai_clip, changes={"num_classes": 0}),
    Case("openclip trunk", CLIP, published.openclip_trunk),
    Case("openclip siglip", SIGLIP, published.openclip_trunk),
    Case("dinov2", DINO, published.dinov2, changes={"img_size": 28}),
    Case("dinov2 registers", REG, published.dinov2),
    Case("dinov2 giant", GIANT, published.dinov2_swiglu),
    Case("tips", REG | {"reg_tokens": 1}, published.tips),
    Case("ijepa", TINY | {"class_token": False, "global_pool": "avg", "fc_norm": False,
                          "num_classes": 0}, published.ijepa),
    Case("aimv2", AIM, published.aimv2, changes={"img_size": 96}),
    Case("beit3", BEIT, published.beit3),
    Case("radio", RADIO, published.radio, changes={"img_size": (48, 80)},
         variant="vit_large_patch16_radio_v4",
         filter_args=BILINEAR | {"align_corners": False}),
    Case("radio corners", RADIO, published.radio, changes={"img_size": 80},
         variant="vit_base_patch16_radio_v3",
         filter_args=BILINEAR | {"align_corners": True}),
    Case("deit3", TINY | {"init_values": 1e-6, "no_embed_class": True}, published.deit3,
         filter_args={"adapt_layer_scale": True}),
    Case("pre_logits", TINY, published.with_pre_logits),
    Case("flat patches", TINY, published.flat_patches),
]  # fmt: skip


def shapes_of(options: Mapping[str, Any]) -> Mapping[str, tuple[int, ...]]:
    return Spec.from_options(options).shapes


def as_torch(value: Any, dtype: str) -> Any:
    """Nested dicts of arrays as torch tensors of a dtype."""
    if isinstance(value, dict):
        return {key: as_torch(item, dtype) for key, item in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(np.array(value))
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor


def write(case: Case, path: Path) -> None:
    weights = recipe.weights(shapes_of(case.stored), seed=1)
    content = case.write(weights)
    if case.suffix == ".npz":
        np.savez(path, **content)
    elif case.suffix == ".safetensors":
        safetensors.numpy.save_file(
            {k: v.astype(case.dtype) for k, v in content.items()}, path
        )
    else:
        torch.save(as_torch(content, case.dtype), path)


def pretrained_cfg(case: Case) -> dict[str, Any]:
    size = case.stored["img_size"]
    size = (size, size) if isinstance(size, int) else size
    return {
        "num_classes": case.stored["num_classes"],
        "input_size": (3, *size),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    } | dict(case.cfg)


def load_with_timm(case: Case, options: Mapping[str, Any], path: Path) -> Any:
    model = reference.build(options)
    reference.fill(model, seed=2)
    model.pretrained_cfg = pretrained_cfg(case)
    _builder.load_pretrained(
        model,
        model.pretrained_cfg
        | {"file": str(path), "custom_load": case.suffix == ".npz"},
        num_classes=options["num_classes"],
        in_chans=options.get("in_chans", 3),
        filter_fn=partial(vit.checkpoint_filter_fn, **case.filter_args),
    )
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
def test_layout_converts_to_what_timm_loads(case: Case, tmp_path: Path) -> None:
    path = tmp_path / f"weights{case.suffix}"
    write(case, path)
    options = dict(case.stored) | dict(case.changes)
    want = reference.state(load_with_timm(case, options, path))
    fresh = reference.fill(reference.build(options), seed=2)

    spec = Spec.from_options(options, pretrained_cfg(case), case.variant)
    got = convert_state_dict(open_state_dict(path), spec)

    for key, value in want.items():
        if key not in got:
            # Neither loads it: a head of another size.
            assert key.startswith("head.")
            assert np.array_equal(value, fresh[key])
            continue
        ours = got[key]
        assert ours.dtype == np.float32
        assert ours.shape == value.shape == got.tensors[key].shape, key
        resized = key in ("pos_embed", "patch_embed.proj.weight") and case.changes
        tolerance = 3e-6 * np.abs(value).max() if resized else 0
        np.testing.assert_allclose(ours, value, rtol=0, atol=tolerance, err_msg=key)
    assert not set(got) - set(want)


def picture(options: Mapping[str, Any]) -> np.ndarray:
    size = options["img_size"]
    size = (size, size) if isinstance(size, int) else size
    return recipe.picture((2, options.get("in_chans", 3), *size))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
def test_layout_gives_timms_outputs(case: Case, tmp_path: Path) -> None:
    path = tmp_path / f"weights{case.suffix}"
    write(case, path)
    options = dict(case.stored) | dict(case.changes)
    want = load_with_timm(case, options, path)
    ours = build_with_checkpoint(
        options, pretrained_cfg(case), path, variant=case.variant, seed=0
    )
    if not case.changes:
        reference.agree(ours, want, picture(options))
        return
    got = reference.views(ours, picture(options))
    plain = reference.plainly(want, reference.views, picture(options))
    if case.changes.get("num_classes"):
        del got["forward"]  # both have a new head of their own
    for key in got:
        # timm's resized embeddings carry its own rounding, up to 3e-6 of the largest.
        limit = measure.RELATIVE * np.abs(plain[key]).max()
        np.testing.assert_allclose(got[key], plain[key], rtol=0, atol=limit)


@pytest.mark.parametrize("name", timm.list_models(module="vision_transformer"))
def test_shapes_of_every_architecture_are_timms(name: str) -> None:
    """Keys, their order and shapes, without a weight in memory."""
    with torch.device("meta"):
        model = timm.create_model(name, weight_init="skip")
    options = plan_model(name).options
    assert list(shapes_of(options).items()) == list(reference.shapes(model).items())


@pytest.mark.parametrize("pool", ["avg", "", "token"])
def test_siglip_checkpoint_keeps_its_norm_in_every_pool(
    pool: str, tmp_path: Path
) -> None:
    """Row 28: timm loads such a checkpoint into `avg` with a fresh fc_norm."""
    stored = SIGLIP | {"class_token": pool == "token"}
    case = Case("siglip", stored, suffix=".safetensors")
    path = tmp_path / "weights.safetensors"
    write(case, path)
    weights = recipe.weights(shapes_of(stored), seed=1)
    model = build_with_checkpoint(stored | {"global_pool": pool}, None, path)
    norm = model.fc_norm if pool == "avg" else model.norm
    np.testing.assert_array_equal(norm.weight, weights["norm.weight"])
    np.testing.assert_array_equal(norm.bias, weights["norm.bias"])
    load_checkpoint(model, path)
