# SPDX-License-Identifier: Apache-2.0
"""Folders of transformers' DINOv3ViT, BEiT, Data2VecVision and DeiT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hugging_face
import measure
import pytest
import torch
import transformers as t
from golden import recipe

import vitpool

SIZES = hugging_face.CONFIG
CLASSES = {"id2label": dict(enumerate("abcde")), "num_labels": 5}


def dinov3(**options: Any) -> Callable[[], Any]:
    config = SIZES | {"num_register_tokens": 4} | options
    return lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**config))


def beit(kind: Any, **options: Any) -> Callable[[], Any]:
    return lambda: kind(kind.config_class(**SIZES, **options))


def both_tokens(out: Any) -> Any:
    return out.last_hidden_state[:, :2].mean(1)


def pooled(out: Any) -> Any:
    return out.pooler_output


def logits(out: Any) -> Any:
    return out.logits


RELATIVE = {"use_relative_position_bias": True}
SHARED = {"use_shared_relative_position_bias": True}
BEIT = t.BeitForImageClassification
# What it is, its class and architecture here, and what it gives.
CASES: dict[str, tuple[Callable[[], Any], str, Any]] = {
    "DINOv3": (dinov3(), "Eva", pooled),
    "DINOv3, gated": (dinov3(use_gated_mlp=True, hidden_act="silu"), "Eva", pooled),
    "DINOv3, gated, odd": (
        dinov3(use_gated_mlp=True, hidden_act="silu", intermediate_size=93),
        "Eva",
        pooled,
    ),
    "DINOv3 without biases": (
        dinov3(query_bias=False, value_bias=False),
        "Eva",
        pooled,
    ),
    "DINOv3 with k's bias": (dinov3(key_bias=True), "Eva", pooled),
    "DINOv3 without registers": (dinov3(num_register_tokens=0), "Eva", pooled),
    "DINOv3 of another base": (dinov3(rope_theta=30.0), "Eva", pooled),
    "BEiT": (beit(t.BeitModel), "Beit", pooled),
    "BEiT with tables": (beit(BEIT, **RELATIVE, **CLASSES), "Beit", logits),
    "BEiT with one table": (beit(BEIT, **SHARED, **CLASSES), "Beit", logits),
    "BEiT with positions, by its token": (
        beit(
            BEIT,
            use_absolute_position_embeddings=True,
            use_mean_pooling=False,
            layer_scale_init_value=0.0,
            **RELATIVE,
            **CLASSES,
        ),
        "Beit",
        logits,
    ),
    "Data2VecVision": (
        beit(t.Data2VecVisionForImageClassification, **RELATIVE, **CLASSES),
        "Beit",
        logits,
    ),
    "DeiT": (beit(t.DeiTModel), "VisionTransformerDistilled", both_tokens),
    "DeiT with its teacher": (
        beit(t.DeiTForImageClassificationWithTeacher, **CLASSES),
        "VisionTransformerDistilled",
        logits,
    ),
}


def made(make: Callable[[], Any], folder: Path) -> Any:
    """Such a model with the recipe's weights, saved."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    return model


def compared(model: Any, ours: Any, read: Any, x: Any, what: str) -> None:
    with torch.inference_mode():
        plain = read(model(torch.from_numpy(x))).numpy()
        exact = read(model.double()(torch.from_numpy(x).double())).numpy()
    measure.check(ours(x), exact, measure.error(plain, exact), what)


@pytest.mark.parametrize("name", CASES)
def test_a_folder_gives_transformers_outputs(name: str, tmp_path: Path) -> None:
    make, family, read = CASES[name]
    model = made(make, tmp_path)
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(ours).__name__ == family
    assert ours.pretrained_cfg["architecture"] in vitpool.list_models()
    x = recipe.picture((2, 3, *ours.img_size))
    compared(model, ours, read, x, name)


def test_dinov3_takes_pictures_of_other_sizes(tmp_path: Path) -> None:
    make, _, read = CASES["DINOv3"]
    model = made(make, tmp_path)
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    compared(model, ours, read, recipe.picture((2, 3, 48, 112)), "48 x 112")


@pytest.mark.parametrize("size", [(48, 112), (160, 32), (64, 64)])
def test_siglip2_takes_pictures_of_any_shape(size: Any, tmp_path: Path) -> None:
    config = {k: v for k, v in SIZES.items() if k != "image_size"}
    model = made(
        lambda: t.Siglip2VisionModel(t.Siglip2VisionConfig(**config, num_patches=16)),
        tmp_path,
    )
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert type(ours).__name__ == "NaFlexVit"
    assert ours.pretrained_cfg["input_size"] == (3, 64, 64)
    x = recipe.picture((2, 3, *size))
    with torch.inference_mode():
        plain = hugging_face.naflex_pooled(model, torch.from_numpy(x)).numpy()
        exact = hugging_face.naflex_pooled(
            model.double(), torch.from_numpy(x).double()
        ).numpy()
    measure.check(ours(x), exact, measure.error(plain, exact), f"{size}")


def test_names_of_classes_come_with_the_head(tmp_path: Path) -> None:
    made(CASES["BEiT with tables"][0], tmp_path)
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert ours.pretrained_cfg["label_names"] == tuple("abcde")


def test_beits_masked_image_model_gives_its_normed_tokens(tmp_path: Path) -> None:
    model = made(beit(t.BeitForMaskedImageModeling, use_mask_token=True), tmp_path)
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)

    def tokens(x: Any) -> Any:
        return model.layernorm(model.beit(x).last_hidden_state)

    x = recipe.picture((2, 3, *ours.img_size))
    with torch.inference_mode():
        plain = tokens(torch.from_numpy(x)).numpy()
        model.double()
        exact = tokens(torch.from_numpy(x).double()).numpy()
    got = ours.forward_features(x)
    measure.check(got, exact, measure.error(plain, exact), "tokens")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (dinov3(hidden_act="relu"), "hidden_act is 'relu'"),
        (dinov3(hidden_act="silu"), "hidden_act is 'silu'.*has 'gelu'"),
        (dinov3(proj_bias=False), "proj_bias is False"),
        (dinov3(mlp_bias=False), "mlp_bias is False"),
        (dinov3(query_bias=False), "query_bias, key_bias and value_bias are False"),
        (beit(t.BeitModel, hidden_act="relu"), "hidden_act is 'relu'"),
        (
            beit(t.DeiTForImageClassification, **CLASSES),
            "class token alone.*num_classes=0 fits",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "folder",
)
def test_what_timms_class_has_not_is_refused_by_its_name(
    make: Any, says: str, tmp_path: Path
) -> None:
    made(make, tmp_path)
    with pytest.raises(ValueError, match=says):
        vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
