# SPDX-License-Identifier: Apache-2.0
"""A folder of transformers' gives transformers' outputs and pixels, without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hugging_face
import measure
import numpy as np
import prepare  # noqa: F401
import pytest
import torch
import transformers as t
from golden import recipe
from PIL import Image

import vitpool
from vitpool.registry.transformers_config import _PICTURES

# What is known by its config; the others are refused by their names.
PAIRS = []
OTHERS = []
for pair in hugging_face.PAIRS:
    config = pair.make().config
    vision = getattr(config, "vision_config", config)
    kind = vision.model_type.removesuffix("_vision_model")
    (PAIRS if kind in _PICTURES else OTHERS).append(pair)
BY_NAME = {pair.name: pair for pair in hugging_face.PAIRS}
HALF = "Dinov2ForImageClassification's tower"


def same(pair: hugging_face.Pair, theirs: Any, ours: Any, x: np.ndarray) -> None:
    plain = hugging_face.run(pair, theirs, x)
    exact = hugging_face.run(pair, theirs, x, double=True)
    measure.check(ours(x), exact, measure.error(plain, exact), pair.name)


@pytest.mark.parametrize("pair", [p for p in PAIRS if p.name != HALF], ids=str)
def test_a_folder_gives_transformers_outputs(
    pair: hugging_face.Pair, tmp_path: Path
) -> None:
    theirs = hugging_face.build(pair)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    same(pair, theirs, ours, recipe.picture((2, 3, *ours.img_size)))


@pytest.mark.parametrize("pair", OTHERS, ids=str)
def test_another_kind_of_model_is_refused_by_its_name(
    pair: hugging_face.Pair, tmp_path: Path
) -> None:
    hugging_face.build(pair).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="of transformers' '") as caught:
        vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert "known are vit, " in str(caught.value)


def test_a_classifier_of_token_and_mean_is_refused_but_for_its_tower(
    tmp_path: Path,
) -> None:
    theirs = hugging_face.build(BY_NAME[HALF])
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_classes=0 fits"):
        vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0)
    same(BY_NAME[HALF], theirs, ours, recipe.picture((2, 3, 64, 64)))


@pytest.mark.parametrize("name", ["Dinov2Model", "Dinov2WithRegistersModel"])
@pytest.mark.parametrize("side", [48, 112])
def test_dinov2s_positions_are_resized_as_transformers_does(
    name: str, side: int, tmp_path: Path
) -> None:
    theirs = hugging_face.build(BY_NAME[name])
    theirs.save_pretrained(tmp_path)
    crop = {"height": side, "width": side}
    t.BitImageProcessor(size={"shortest_edge": 128}, crop_size=crop).save_pretrained(
        tmp_path
    )
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    same(BY_NAME[name], theirs, ours, recipe.picture((2, 3, side, side)))


@pytest.mark.parametrize(
    "cls", [t.TimmWrapperForImageClassification, t.TimmWrapperModel]
)
def test_timms_model_in_transformers_wrapper_is_timms(cls: Any, tmp_path: Path) -> None:
    config = t.TimmWrapperConfig(
        architecture="vit_tiny_patch16_224",
        model_args={"depth": 1, "img_size": 32},
        id2label={0: "a", 1: "b", 2: "c"},
    )
    theirs = cls(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    x = recipe.picture((2, 3, 32, 32))
    with torch.inference_mode():
        out = theirs(torch.from_numpy(x))
    want = out.logits if ours.num_classes else out.pooler_output
    np.testing.assert_allclose(ours(x), want.numpy(), rtol=1e-4, atol=1e-5)
    if ours.num_classes:
        assert ours.pretrained_cfg["label_names"] == ("a", "b", "c")


# -- the tower of a language model that sees --


def language(kind: str) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 64,
        "vocab_size": 100,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


CLIP = {"model_type": "clip_vision_model", **hugging_face.CONFIG}
SIGLIP = {"model_type": "siglip_vision_model", **hugging_face.CONFIG}
LANGUAGE = {
    "Llava of CLIP": lambda: t.LlavaForConditionalGeneration(
        t.LlavaConfig(vision_config=CLIP, text_config=language("llama"))
    ),
    "Llava of SigLIP": lambda: t.LlavaForConditionalGeneration(
        t.LlavaConfig(vision_config=SIGLIP, text_config=language("llama"))
    ),
    "PaliGemma": lambda: t.PaliGemmaForConditionalGeneration(
        t.PaliGemmaConfig(
            vision_config=SIGLIP | {"vision_use_head": False},
            text_config=language("gemma"),
        )
    ),
}


@pytest.mark.parametrize("name", LANGUAGE)
def test_the_tower_of_a_language_model_gives_its_outputs(
    name: str, tmp_path: Path
) -> None:
    def run(model: Any, x: Any) -> Any:
        tower = model.model.vision_tower
        out = tower(x)
        headless = getattr(tower.config, "vision_use_head", True) is False
        return out.last_hidden_state if headless else out.pooler_output

    pair = hugging_face.Pair(name, LANGUAGE[name], {}, run)
    theirs = hugging_face.build(pair)
    theirs.save_pretrained(tmp_path)
    ours = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    same(pair, theirs, ours, recipe.picture((2, 3, 64, 64)))


# -- pictures --

SQUARE = {"height": 64, "width": 64}
SHORT = {"size": {"shortest_edge": 64}, "crop_size": SQUARE}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("ViT", {"size": SQUARE}),
    "Siglip": ("Siglip", {"size": SQUARE}),
    "CLIP": ("CLIP", SHORT),
    "Bit": ("Bit", SHORT),
    "DeiT": ("DeiT", {"size": {"height": 73, "width": 73}, "crop_size": SQUARE}),
    "CLIP, of more": ("CLIP", {"size": {"shortest_edge": 73}, "crop_size": SQUARE}),
    "not rescaled": (
        "ViT",
        {
            "size": SQUARE,
            "do_rescale": False,
            "image_mean": [100, 110, 120],
            "image_std": [50, 60, 70],
        },
    ),
    "not normalised": ("ViT", {"size": SQUARE, "do_normalize": False}),
    "another factor": (
        "Siglip",
        {
            "size": SQUARE,
            "rescale_factor": 1 / 127.5,
            "image_mean": [1, 1, 1],
            "image_std": [1, 1, 1],
        },
    ),
}


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = ((300, 200), (150, 313), (97, 97), (40, 30))
    return [
        Image.fromarray(
            rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        ).resize((width, height), 3)
        for width, height in sizes
    ]


def steps(
    processor: Any, model: vitpool.VisionTransformer, picture: Image.Image
) -> float:
    """How far two inputs are apart, in steps of a pixel of 8 bits."""
    want = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])
    got = model.preprocess([picture])[0]
    assert got.shape == want.shape
    std = np.reshape(vitpool.resolve_data_config(model)["std"], (-1, 1, 1))
    return float(np.abs((got - want) * std * 255).max())


@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_are_those_of_transformers_processor(
    name: str, tmp_path: Path
) -> None:
    """Of its Pillow backend the same pixels; torchvision rounds some by up to 3."""
    family, options = PROCESSORS[name]
    hugging_face.build(BY_NAME["ViTModel"]).save_pretrained(tmp_path)
    pillow = getattr(t, f"{family}ImageProcessorPil")(**options)
    pillow.save_pretrained(tmp_path)
    model = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    torchvision = getattr(t, f"{family}ImageProcessor")(**options)
    for picture in pictures():
        assert steps(pillow, model, picture) < 1e-3
        assert steps(torchvision, model, picture) < 3.5


def test_the_middle_of_an_odd_rest_is_a_pixel_beside_transformers(
    tmp_path: Path,
) -> None:
    """Of 99 pixels timm (torchvision) cuts at round(17.5), transformers at 17."""
    hugging_face.build(BY_NAME["ViTModel"]).save_pretrained(tmp_path)
    processor = t.CLIPImageProcessorPil(**SHORT)
    processor.save_pretrained(tmp_path)
    model = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    ramp = np.repeat(np.arange(99, dtype=np.uint8)[None, :, None], 64, 0)
    picture = Image.fromarray(np.repeat(ramp, 3, 2))
    assert steps(processor, model, picture) == pytest.approx(1.0, abs=1e-3)
