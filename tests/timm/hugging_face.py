# SPDX-License-Identifier: Apache-2.0
"""Small transformers models, the options of the same model here, and what both give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import prepare  # noqa: F401
import published_families
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
METACLIP = CLIP | {"norm_layer": ("layernorm", 1e-5)}
# The mean of the patches as the last block gives them, without the last norm.
CLIP_MEAN = {"global_pool": "avg", "final_norm": False, "num_classes": 5}
PATCH_MEAN = {"global_pool": "avg", "fc_norm": False}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50000,
}
# Other classes: of theirs the norms' epsilon is transformers'.
EPS = {"norm_layer": ("layernorm", 1e-12), "mlp_ratio": 3}
BEIT_CONFIG = CONFIG | {"layer_scale_init_value": 0.1}
TABLES = BEIT_CONFIG | {"use_relative_position_bias": True}
DINOV3_CONFIG = CONFIG | {"num_register_tokens": 4}
DINOV3 = published_families.DINOV3 | {"mlp_ratio": 3, "global_pool": "token"}
BEIT = published_families.BEIT | EPS
NAFLEX = {k: v for k, v in CONFIG.items() if k != "image_size"} | {"num_patches": 16}
NAFLEXVIT = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 3,
    "num_classes": 0,
    "act_layer": "gelu_tanh",
    "pos_embed_grid_size": (4, 4),
    "pos_embed_interp_mode": "bilinear",
}
IMAGE_TEXT = {"vision_config": CONFIG, "text_config": TEXT, "projection_dim": 24}


@dataclass
class Pair:
    """A transformers model and the same model's options."""

    name: str
    make: Callable[[], Any]
    options: dict[str, Any]
    output: Callable[[Any, Any], Any]
    family: str = "VisionTransformer"

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


def patches(x: Any) -> dict[str, Any]:
    """What NaFlex's image processor makes: patches as (row, column, channel)."""
    side = CONFIG["patch_size"]
    batch, channels, height, width = x.shape
    rows, columns = height // side, width // side
    cut = x.reshape(batch, channels, rows, side, columns, side)
    flat = cut.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
    return {
        "pixel_values": flat,
        "pixel_attention_mask": torch.ones(batch, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * batch),
    }


def naflex_pooled(model: Any, x: Any) -> Any:
    return model(**patches(x)).pooler_output


def naflex_features(model: Any, x: Any) -> Any:
    out = model.get_image_features(**patches(x))
    return getattr(out, "pooler_output", out)


def unmasked(model: Any, x: Any) -> Any:
    """ViT-MAE with every patch in its place (mask_ratio=0)."""
    order = torch.arange(16.0)[None].repeat(len(x), 1)
    return getattr(model, "vit", model)(x, noise=order).last_hidden_state[:, 0]


def dual(vision: Any) -> Any:
    """VisionTextDualEncoder of a vision tower of this config and a small BERT."""
    text = t.BertConfig(**TEXT, intermediate_size=64)
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text, projection_dim=24
    )
    return t.VisionTextDualEncoderModel(config)


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
    Pair(
        "Dinov2ForImageClassification's tower",
        lambda: t.Dinov2ForImageClassification(t.Dinov2Config(**DINO_CONFIG)),
        DINO,
        lambda model, x: model.dinov2(x).pooler_output,
    ),
    Pair(
        "Tipsv2Model",
        lambda: t.Tipsv2Model(
            t.Tipsv2Config(vision_config=DINO_CONFIG, text_config=TEXT)
        ),
        DINO | {"reg_tokens": 1, "no_embed_class": True},
        features,
    ),
    Pair(
        "IJepaForImageClassification",
        lambda: t.IJepaForImageClassification(t.IJepaConfig(**CONFIG, num_labels=5)),
        VIT | PATCH_MEAN | {"class_token": False, "num_classes": 5},
        logits,
    ),
    Pair(
        "ViTForMaskedImageModeling",
        lambda: t.ViTForMaskedImageModeling(t.ViTConfig(**CONFIG)),
        VIT,
        lambda model, x: first(model.vit, x),
    ),
    Pair(
        "ViTMAEModel",
        lambda: t.ViTMAEModel(t.ViTMAEConfig(**CONFIG, mask_ratio=0.0)),
        VIT,
        unmasked,
    ),
    Pair(
        "ViTMAEForPreTraining",
        lambda: t.ViTMAEForPreTraining(
            t.ViTMAEConfig(
                **CONFIG, mask_ratio=0.0, decoder_hidden_size=32,
                decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
            )
        ),
        VIT,
        unmasked,
    ),
    Pair(
        "ViTMSNModel",
        lambda: t.ViTMSNModel(t.ViTMSNConfig(**CONFIG)),
        OPTIONS | {"norm_layer": ("layernorm", 1e-6)},
        first,
    ),
    Pair(
        "DPTModel",
        lambda: t.DPTModel(t.DPTConfig(**CONFIG, backbone_out_indices=[0, 0, 1, 1])),
        VIT,
        first,
    ),
    Pair(
        "CLIPForImageClassification",
        lambda: t.CLIPForImageClassification(
            t.CLIPConfig(vision_config=CONFIG, text_config=TEXT, num_labels=5)
        ),
        CLIP | CLIP_MEAN,
        logits,
    ),
    Pair(
        "MetaClip2Model",
        lambda: t.MetaClip2Model(t.MetaClip2Config(**IMAGE_TEXT)),
        METACLIP | {"num_classes": 24},
        features,
    ),
    Pair(
        "MetaClip2ForImageClassification",
        lambda: t.MetaClip2ForImageClassification(
            t.MetaClip2Config(vision_config=CONFIG, text_config=TEXT, num_labels=5)
        ),
        METACLIP | CLIP_MEAN,
        logits,
    ),
    Pair(
        "ChineseCLIPModel",
        lambda: t.ChineseCLIPModel(t.ChineseCLIPConfig(**IMAGE_TEXT)),
        CLIP | {"num_classes": 24},
        features,
    ),
    Pair(
        "AltCLIPModel",
        lambda: t.AltCLIPModel(t.AltCLIPConfig(**IMAGE_TEXT)),
        CLIP | {"num_classes": 24},
        features,
    ),
    Pair(
        "CLIPSegModel",
        lambda: t.CLIPSegModel(t.CLIPSegConfig(**IMAGE_TEXT)),
        CLIP | {"num_classes": 24},
        features,
    ),
    Pair(
        "OwlViTModel",
        lambda: t.OwlViTModel(t.OwlViTConfig(**IMAGE_TEXT)),
        CLIP | {"num_classes": 24},
        features,
    ),
    Pair(
        "Owlv2VisionModel",
        lambda: t.Owlv2VisionModel(t.Owlv2VisionConfig(**CONFIG)),
        CLIP,
        pooled,
    ),
    Pair(
        "VisionTextDualEncoder of CLIP",
        lambda: dual(t.CLIPVisionConfig(**CONFIG)),
        CLIP | {"num_classes": 24},
        features,
    ),
    Pair(
        "VisionTextDualEncoder of DINOv2",
        lambda: dual(t.Dinov2Config(**DINO_CONFIG)),
        DINO | {"num_classes": 24},
        features,
    ),
    Pair(
        "Siglip2VisionModel",
        lambda: t.Siglip2VisionModel(t.Siglip2VisionConfig(**NAFLEX)),
        SIGLIP,
        naflex_pooled,
    ),
    Pair(
        "Siglip2VisionModel of more patches than it has positions",
        lambda: t.Siglip2VisionModel(t.Siglip2VisionConfig(**NAFLEX)),
        SIGLIP | {"img_size": (112, 80)},
        naflex_pooled,
    ),
    Pair(
        "Siglip2VisionModel of fewer",
        lambda: t.Siglip2VisionModel(
            t.Siglip2VisionConfig(**NAFLEX | {"num_patches": 64})
        ),
        SIGLIP | {"img_size": (48, 80)},
        naflex_pooled,
    ),
    Pair(
        "Siglip2Model",
        lambda: t.Siglip2Model(
            t.Siglip2Config(vision_config=NAFLEX, text_config=TEXT)
        ),
        SIGLIP,
        naflex_features,
    ),
    Pair(
        "Siglip2ForImageClassification",
        lambda: t.Siglip2ForImageClassification(
            t.Siglip2Config(vision_config=NAFLEX, text_config=TEXT, num_labels=5)
        ),
        SIGLIP | PATCH_MEAN | {"num_classes": 5},
        lambda model, x: model(**patches(x)).logits,
    ),
    Pair(
        "Siglip2VisionModel in a NaFlexVit",
        lambda: t.Siglip2VisionModel(t.Siglip2VisionConfig(**NAFLEX)),
        NAFLEXVIT,
        naflex_pooled,
        "NaFlexVit",
    ),
    Pair(
        "Siglip2ForImageClassification in a NaFlexVit",
        lambda: t.Siglip2ForImageClassification(
            t.Siglip2Config(vision_config=NAFLEX, text_config=TEXT, num_labels=5)
        ),
        NAFLEXVIT | PATCH_MEAN | {"num_classes": 5},
        lambda model, x: model(**patches(x)).logits,
        "NaFlexVit",
    ),
    Pair(
        "DINOv3ViTModel",
        lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**DINOV3_CONFIG)),
        DINOV3,
        pooled,
        "Eva",
    ),
    Pair(
        "DINOv3ViTModel with a gated MLP",
        lambda: t.DINOv3ViTModel(
            t.DINOv3ViTConfig(**DINOV3_CONFIG, use_gated_mlp=True, hidden_act="silu")
        ),
        DINOV3 | {"swiglu_mlp": True, "swiglu_align_to": 8},
        pooled,
        "Eva",
    ),
    Pair(
        "Sapiens2Model",
        lambda: t.Sapiens2Model(
            t.Sapiens2Config(
                **DINOV3_CONFIG | {"num_hidden_layers": 3, "num_register_tokens": 8},
                num_key_value_attention_heads=1,
                num_first_full_attention_layers=1,
                num_last_full_attention_layers=1,
            )
        ),
        published_families.SAPIENS2 | {"mlp_ratio": 3, "global_pool": "token"},
        pooled,
        "Eva",
    ),
    Pair(
        "BeitForImageClassification",
        lambda: t.BeitForImageClassification(t.BeitConfig(**TABLES, num_labels=5)),
        BEIT | {"num_classes": 5},
        logits,
        "Beit",
    ),
    Pair(
        "BeitForImageClassification of the class token, with positions",
        lambda: t.BeitForImageClassification(
            t.BeitConfig(
                **TABLES, use_absolute_position_embeddings=True,
                use_mean_pooling=False, num_labels=5,
            )
        ),
        BEIT | {"num_classes": 5, "use_abs_pos_emb": True, "global_pool": "token"},
        logits,
        "Beit",
    ),
    Pair(
        "BeitForMaskedImageModeling",
        lambda: t.BeitForMaskedImageModeling(
            t.BeitConfig(
                **BEIT_CONFIG, use_shared_relative_position_bias=True,
                use_mask_token=True, vocab_size=12,
            )
        ),
        published_families.BEIT_SHARED | EPS
        | {"num_classes": 0, "global_pool": ""},
        lambda model, x: model.layernorm(model.beit(x).last_hidden_state),
        "Beit",
    ),
    Pair(
        "Data2VecVisionForImageClassification",
        lambda: t.Data2VecVisionForImageClassification(
            t.Data2VecVisionConfig(**TABLES, num_labels=5)
        ),
        BEIT | {"num_classes": 5},
        logits,
        "Beit",
    ),
    Pair(
        "DeiTForImageClassificationWithTeacher",
        lambda: t.DeiTForImageClassificationWithTeacher(
            t.DeiTConfig(**CONFIG, num_labels=5)
        ),
        OPTIONS | EPS | {"num_classes": 5},
        logits,
        "VisionTransformerDistilled",
    ),
    Pair(
        "DeiTForMaskedImageModeling",
        lambda: t.DeiTForMaskedImageModeling(t.DeiTConfig(**CONFIG)),
        OPTIONS | EPS,
        lambda model, x: model.deit(x).last_hidden_state[:, :2].mean(1),
        "VisionTransformerDistilled",
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
