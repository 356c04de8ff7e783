# SPDX-License-Identifier: Apache-2.0
"""A file of OpenCLIP's gives OpenCLIP's outputs here, or is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hugging_face
import measure
import numpy as np
import prepare  # noqa: F401
import pytest
import reference
import safetensors.torch
from golden import recipe
from open_clip.coca_model import CoCa, MultimodalCfg
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

from vitpool.checkpoint import build_with_checkpoint
from vitpool.registry.create import plan_model

TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
TOWER = {
    "layers": 2,
    "width": 32,
    "head_width": 16,
    "patch_size": 16,
    "image_size": 64,
    "mlp_ratio": 3.0,
}
POOLER = {"attn_pooler_queries": 4, "attn_pooler_heads": 2}
EPS = ("layernorm", 1e-5)
VIT = hugging_face.OPTIONS | {"pre_norm": True, "norm_layer": EPS, "num_classes": 24}
TINY = {
    "img_size": 160,
    "embed_dim": 64,
    "depth": 6,
    "num_heads": 2,
    "mlp_ratio": 3,
    "num_classes": 24,
}


def clip(
    kind: Any = CLIP, width: int = 24, quick_gelu: bool = False, **changes: Any
) -> Callable[[], Any]:
    """A model with OpenCLIP's own ViT, or with `layers` of four its ResNet."""
    return lambda: kind(
        embed_dim=width,
        vision_cfg=CLIPVisionCfg(**TOWER | changes),
        text_cfg=CLIPTextCfg(**TEXT),
        quick_gelu=quick_gelu,
    )


def trunk(name: str = "test_vit", **changes: Any) -> Callable[[], Any]:
    """A model with timm's as its vision tower."""
    vision = CLIPVisionCfg(timm_model_name=name, image_size=224, **changes)
    text = CLIPTextCfg(**TEXT)
    return lambda: CustomTextCLIP(embed_dim=24, vision_cfg=vision, text_cfg=text)


def coca() -> Any:
    vision = CLIPVisionCfg(**TOWER, **POOLER, attentional_pool=True, output_tokens=True)
    text = CLIPTextCfg(**TEXT, embed_cls=True, output_tokens=True)
    both = MultimodalCfg(**TEXT)
    return CoCa(embed_dim=24, vision_cfg=vision, text_cfg=text, multimodal_cfg=both)


SAME: dict[str, tuple[Callable[[], Any], Mapping[str, Any]]] = {
    "CLIP": (clip(), VIT),
    "OpenAI's activation": (clip(quick_gelu=True), VIT | {"act_layer": "quick_gelu"}),
    "CustomTextCLIP": (clip(CustomTextCLIP), VIT),
    "ls_init_value": (clip(ls_init_value=0.1), VIT | {"init_values": 0.1}),
    "patch_dropout": (clip(patch_dropout=0.5), VIT),
    "no_ln_pre": (clip(no_ln_pre=True), VIT | {"pre_norm": False}),
    "sin_cos_2d": (clip(pos_embed_type="sin_cos_2d"), VIT),
    "global_average_pool": (
        clip(pool_type="avg"),
        VIT | {"global_pool": "avg", "fc_norm": False},
    ),
    "final_ln_after_pool": (
        clip(pool_type="avg", final_ln_after_pool=True),
        VIT | {"global_pool": "avg"},
    ),
    "block_type": (clip(block_type="custom"), VIT),
    "timm, linear": (trunk(timm_pool="token", timm_proj="linear"), TINY),
    "timm, linear with a bias": (
        trunk(timm_pool="token", timm_proj="linear", timm_proj_bias=True),
        TINY,
    ),
    "timm, its own head": (trunk(timm_pool="token", timm_proj=""), TINY),
    "timm, no head": (
        trunk(timm_pool="token", timm_proj="none"),
        TINY | {"num_classes": 0},
    ),
    "timm, avg": (
        trunk(timm_pool="avg", timm_proj="linear"),
        TINY | {"global_pool": "avg", "fc_norm": False},
    ),
}

# Trunks of other classes of timm's, at their own options.
OTHERS = {
    "EVA-02": "eva02_tiny_patch14_224",
    "DINOv3": "vit_small_patch16_dinov3",
}


def of_class(name: str) -> tuple[Callable[[], Any], dict[str, Any], str]:
    plan = plan_model(OTHERS[name], num_classes=24, global_pool="token", img_size=224)
    linear = trunk(OTHERS[name], timm_pool="token", timm_proj="linear")
    return linear, plan.options, plan.family


REFUSED: dict[str, tuple[Callable[[], Any], Mapping[str, Any], str]] = {
    "attentional_pool": (
        clip(attentional_pool=True, **POOLER), VIT, "visual.attn_pool.",
    ),
    "attentional_pool of the tower's width": (
        clip(attentional_pool=True, width=32, **POOLER), VIT | {"num_classes": 32},
        "visual.attn_pool.",
    ),
    "CoCa": (coca, VIT, "visual.attn_pool."),
    "qk_norm": (clip(block_type="custom", qk_norm=True), VIT, "attn.ln_q"),
    "scale_heads": (clip(block_type="custom", scale_heads=True), VIT, "head_scale"),
    "scale_attn": (clip(block_type="custom", scale_attn=True), VIT, "ln_attn"),
    "scale_fc": (clip(block_type="custom", scale_fc=True), VIT, "mlp.ln."),
    "scaled_cosine_attn": (
        clip(block_type="custom", scaled_cosine_attn=True), VIT, "logit_scale",
    ),
    "a ResNet": (clip(layers=(1, 1, 1, 1)), VIT, "holds no weight of the model"),
    "timm, an MLP": (
        trunk(timm_pool="token", timm_proj="mlp"), TINY, "visual.head.mlp.fc1.weight",
    ),
    "timm's EVA": (
        trunk("eva02_tiny_patch14_224", timm_pool="token", timm_proj="linear"),
        TINY | {"patch_size": 14}, "attn.q_bias",
    ),
}  # fmt: skip


def saved(pair: hugging_face.Pair, path: Path) -> Any:
    """The model, and its weights as OpenCLIP's training saves them."""
    model = hugging_face.build(pair)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    safetensors.torch.save_file(state, path)
    return model


@pytest.mark.parametrize("name", [*SAME, *OTHERS])
@pytest.mark.filterwarnings("ignore:.*its head is loaded:UserWarning")
def test_openclip_file_gives_its_outputs(name: str, tmp_path: Path) -> None:
    family = "VisionTransformer"
    if name in OTHERS:
        make, options, family = of_class(name)
    else:
        make, options = SAME[name]
    pair = hugging_face.Pair(name, make, options, lambda m, x: m.encode_image(x))
    path = tmp_path / "open_clip_model.safetensors"
    theirs = saved(pair, path)
    size = options["img_size"]
    x = np.concatenate(reference.versions(recipe.picture((2, 3, size, size))))
    ours = build_with_checkpoint(options, None, path, family=family)
    plain = hugging_face.run(pair, theirs, x)
    exact = hugging_face.run(pair, theirs, x, double=True)
    measure.check(ours(x), exact, measure.error(plain, exact), name)


@pytest.mark.parametrize("name", REFUSED)
def test_part_of_openclip_that_timms_model_has_not_is_refused(
    name: str, tmp_path: Path
) -> None:
    make, options, words = REFUSED[name]
    path = tmp_path / "open_clip_model.safetensors"
    saved(hugging_face.Pair(name, make, options, None), path)
    with pytest.raises(ValueError, match=r"open_clip_model\.safetensors") as caught:
        build_with_checkpoint(options, None, path)
    assert words in str(caught.value)
