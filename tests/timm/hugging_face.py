# SPDX-License-Identifier: Apache-2.0
"""Small transformers models, the options of the same model here, and what both give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import prepare  # noqa: F401
import torch
import transformers

CONFIG = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "image_size": 64,
    "patch_size": 16,
}
DINO_CONFIG = {k: v for k, v in CONFIG.items() if k != "intermediate_size"}
OPTIONS = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 3,
    "img_size": 64,
    "num_classes": 0,
}
VIT = OPTIONS | {"norm_layer": ("layernorm", 1e-12)}
DINO = OPTIONS | {"init_values": 1.0, "mlp_ratio": 4}
SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "mlp_ratio": 5.5}
CLIP = OPTIONS | {
    "pre_norm": True,
    "norm_layer": ("layernorm", 1e-5),
    "act_layer": "quick_gelu",
}
SIGLIP = OPTIONS | {
    "class_token": False,
    "global_pool": "map",
    "act_layer": "gelu_tanh",
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50000,
}
IMAGE_TEXT = {"vision_config": CONFIG, "text_config": TEXT, "projection_dim": 24}


@dataclass
class Pair:
    """A transformers model and the same model's options."""

    name: str
    make: Callable[[], Any]
    options: dict[str, Any]
    output: Callable[[Any, Any], Any]

    def __str__(self) -> str:
        return self.name


def first(model: Any, x: Any) -> Any:
    return model(x).last_hidden_state[:, 0]


def pooled(model: Any, x: Any) -> Any:
    return model(x).pooler_output


def logits(model: Any, x: Any) -> Any:
    return model(x).logits


def embeds(model: Any, x: Any) -> Any:
    return model(x).image_embeds


def features(model: Any, x: Any) -> Any:
    out = model.get_image_features(x)
    return getattr(out, "pooler_output", out)


t = transformers
PAIRS = [
    Pair(
        "ViTModel",
        lambda: t.ViTModel(t.ViTConfig(**CONFIG)),
        VIT,
        first,
    ),
    Pair(
        "ViTForImageClassification",
        lambda: t.ViTForImageClassification(t.ViTConfig(**CONFIG, num_labels=5)),
        VIT | {"num_classes": 5},
        logits,
    ),
    Pair(
        "Dinov2Model",
        lambda: t.Dinov2Model(t.Dinov2Config(**DINO_CONFIG)),
        DINO,
        pooled,
    ),
    Pair(
        "Dinov2Model with SwiGLU",
        lambda: t.Dinov2Model(t.Dinov2Config(**DINO_CONFIG, use_swiglu_ffn=True)),
        DINO | SWIGLU,
        pooled,
    ),
    Pair(
        "Dinov2WithRegistersModel",
        lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**DINO_CONFIG)),
        DINO | {"reg_tokens": 4, "no_embed_class": True},
        pooled,
    ),
    Pair(
        "CLIPVisionModel",
        lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**CONFIG)),
        CLIP,
        pooled,
    ),
    Pair(
        "CLIPVisionModelWithProjection",
        lambda: t.CLIPVisionModelWithProjection(
            t.CLIPVisionConfig(**CONFIG, projection_dim=24)
        ),
        CLIP | {"num_classes": 24},
        embeds,
    ),
    Pair(
        "CLIPModel",
        lambda: t.CLIPModel(t.CLIPConfig(**IMAGE_TEXT)),
        CLIP | {"num_classes": 24},
        features,
    ),
    Pair(
        "SiglipVisionModel",
        lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**CONFIG)),
        SIGLIP,
        pooled,
    ),
    Pair(
        "SiglipModel",
        lambda: t.SiglipModel(
            t.SiglipConfig(vision_config=CONFIG, text_config=TEXT)
        ),
        SIGLIP,
        features,
    ),
    Pair(
        "SiglipForImageClassification",
        lambda: t.SiglipForImageClassification(
            t.SiglipConfig(vision_config=CONFIG, text_config=TEXT, num_labels=5)
        ),
        SIGLIP | {"global_pool": "avg", "fc_norm": False, "num_classes": 5},
        logits,
    ),
]  # fmt: skip


def build(pair: Pair) -> Any:
    """The transformers model with weights that matter everywhere."""
    torch.manual_seed(3)
    model = pair.make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape) * 0.2
            is_scale = parameter.ndim == 1 and bool((parameter == 1).all())
            parameter.copy_(noise + 1 if is_scale else noise)
    return model


def run(pair: Pair, model: Any, x: np.ndarray, double: bool = False) -> np.ndarray:
    tensor = torch.from_numpy(x)
    if double:
        model, tensor = model.double(), tensor.double()
    with torch.inference_mode():
        out: np.ndarray = pair.output(model, tensor).numpy()
    return out
