# SPDX-License-Identifier: Apache-2.0
"""A file of transformers' gives transformers' outputs here, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hugging_face
import measure
import numpy as np
import prepare  # noqa: F401
import pytest
import reference
import torch
import transformers as t
from golden import recipe

from vitpool.checkpoint import (
    Spec,
    build_with_checkpoint,
    convert_state_dict,
    open_state_dict,
)
from vitpool.checkpoint.beside import MODEL_TYPES
from vitpool.checkpoint.forms import form_of, known_forms
from vitpool.checkpoint.lazy import LazyTensor

BY_NAME = {pair.name: pair for pair in hugging_face.PAIRS}


@pytest.mark.parametrize("pair", hugging_face.PAIRS, ids=str)
def test_transformers_file_gives_its_outputs(
    pair: hugging_face.Pair, tmp_path: Path
) -> None:
    theirs = hugging_face.build(pair)
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    ours = build_with_checkpoint(pair.options, None, path, family=pair.family)
    size = pair.options.get("img_size", (48, 80))  # which a NaFlexVit has not
    x = recipe.picture((2, 3, *((size, size) if isinstance(size, int) else size)))
    x = np.concatenate(reference.versions(x))
    plain = hugging_face.run(pair, theirs, x)
    exact = hugging_face.run(pair, theirs, x, double=True)
    measure.check(ours(x), exact, measure.error(plain, exact), pair.name)


@pytest.mark.parametrize("pair", hugging_face.PAIRS, ids=str)
def test_transformers_keys_in_memory_are_those_of_its_file(
    pair: hugging_face.Pair, tmp_path: Path
) -> None:
    """transformers 5 renames modules in memory and writes the names of before."""
    theirs = hugging_face.build(pair)
    theirs.save_pretrained(tmp_path)
    spec = Spec.from_options(pair.options, family=pair.family)
    stored = convert_state_dict(open_state_dict(tmp_path / "model.safetensors"), spec)
    live = convert_state_dict(theirs.state_dict(), spec)
    assert set(stored) == set(live) == set(spec.shapes)
    for key in stored:
        np.testing.assert_array_equal(stored[key], live[key], err_msg=key)


HEADS = [
    ("SiglipForImageClassification", {"global_pool": "map", "fc_norm": None}, "mean"),
    ("Siglip2ForImageClassification", {"global_pool": "map", "fc_norm": None}, "mean"),
    ("CLIPForImageClassification", {"final_norm": True}, "without the last norm"),
    ("MetaClip2ForImageClassification", {"global_pool": "token"}, "the last norm"),
    ("Dinov2ForImageClassification's tower", {"num_classes": 2}, "together"),
]


@pytest.mark.parametrize(("name", "changes", "words"), HEADS, ids=lambda v: str(v)[:30])
def test_classifier_of_what_the_model_does_not_give_is_refused(
    name: str, changes: dict[str, Any], words: str
) -> None:
    """transformers classifies a mean beside the pool, before the norm, or with more."""
    pair = BY_NAME[name]
    state = hugging_face.build(pair).state_dict()
    with pytest.raises(ValueError, match=words):
        convert_state_dict(state, Spec.from_options(pair.options | changes))


def test_projection_of_a_pooler_is_refused() -> None:
    state = hugging_face.dual(t.ViTConfig(**hugging_face.CONFIG)).state_dict()
    spec = Spec.from_options(hugging_face.VIT | {"num_classes": 24})
    with pytest.raises(ValueError, match="projection is of a pooler's output"):
        convert_state_dict(state, spec)


# Other models, some of which share the key by which a layout is found.
OTHERS = (
    *("Aimv2VisionModel", "ASTModel", "BeitForImageClassification", "BeitModel"),
    *("Blip2VisionModel", "BlipModel", "CLIPSegForImageSegmentation"),
    *("Data2VecVisionModel", "DeiTForImageClassificationWithTeacher", "DeiTModel"),
    *("DepthAnythingForDepthEstimation", "DepthProModel", "DINOv3ViTModel"),
    *("DPTForDepthEstimation", "DPTForSemanticSegmentation"),
    *("EomtForUniversalSegmentation", "FlavaModel", "GitModel", "GroundingDinoModel"),
    *("GroupViTModel", "HieraModel", "Idefics2Model", "Idefics3Model"),
    *("InternVLVisionModel", "JanusVisionModel", "Kosmos2Model"),
    *("MLCDVisionModel", "ModernVBertForSequenceClassification"),
    *("Owlv2ForObjectDetection", "OwlViTForObjectDetection"),
    *("SamVisionModel", "SegGptModel", "SwinModel", "TimesformerModel"),
    *("TrOCRForCausalLM", "VideoLlama3VisionModel", "VideoMAEForPreTraining"),
    *("VideoMAEModel", "ViltModel", "VitDetModel", "VivitModel", "XCLIPModel"),
    *("YolosForObjectDetection", "YolosModel"),
)


# Those of another class, and a model of sounds, of which no key tells that its patches
# overlap.
FITTING = {
    "Eva": ("DINOv3ViTModel",),
    "NaFlexVit": ("DINOv3ViTModel",),
    "Beit": ("BeitForImageClassification", "BeitModel", "Data2VecVisionModel"),
    "VisionTransformerDistilled": (
        *("DeiTForImageClassificationWithTeacher", "DeiTModel", "ASTModel"),
    ),
}
FAMILIES = ("VisionTransformer", *FITTING)


@pytest.mark.parametrize("name", OTHERS)
def test_other_model_of_transformers_fits_no_options(name: str) -> None:
    """Nothing of it is dropped so that the rest would fit."""
    cls: Any = getattr(t, name)
    with torch.device("meta"):
        model = cls(cls.config_class())
    tensors = {
        key: LazyTensor(tuple(value.shape), lambda: np.zeros(0))
        for key, value in model.state_dict().items()
    }
    for family in FAMILIES:
        if name in FITTING.get(family, ()):
            continue
        for classes in (0, 2):
            spec = Spec.from_options({"num_classes": classes}, family=family)
            try:
                got = convert_state_dict(tensors, spec)
            except ValueError:
                continue
            foreign = [key for key in got if form_of(key) not in known_forms(family)]
            patch = next(key for key in spec.shapes if key.endswith("proj.weight"))
            lacking = {patch, "blocks.0.attn.proj.weight"} - set(got)
            flat = len(spec.shapes[patch])
            assert foreign or lacking or len(got.shapes()[patch]) != flat


# What only config.json tells


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("CLIPModel", {"act_layer": "gelu"}, "act_layer='quick_gelu'"),
        ("SiglipModel", {"act_layer": "gelu"}, "act_layer='gelu_tanh'"),
        ("ViTModel", {"num_heads": 4}, "num_heads=2"),
        ("CLIPVisionModel", {"norm_layer": ("layernorm", 1e-3)}, "'layernorm', 1e-05"),
    ],
)
def test_config_beside_a_file_is_compared(
    name: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """The keys fit, and the outputs would be others."""
    pair = BY_NAME[name]
    hugging_face.build(pair).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"config\.json beside it") as caught:
        build_with_checkpoint(pair.options | changes, None, path)
    assert words in str(caught.value)
    build_with_checkpoint(pair.options | changes, None, path, strict=False)


def test_every_kind_of_model_is_compared_with_its_library() -> None:
    """And the activation of a config that leaves it out is the library's default."""
    seen = set()
    for pair in hugging_face.PAIRS:
        config = pair.make().config
        vision = getattr(config, "vision_config", config)
        kind = vision.model_type.removesuffix("_vision_model")
        gated = getattr(vision, "use_gated_mlp", False)  # such a config tells it
        assert gated or vision.hidden_act == MODEL_TYPES[kind], pair.name
        seen.add(kind)
    assert seen == set(MODEL_TYPES)


@pytest.mark.parametrize(
    "name",
    ["PaddleOCRVisionConfig", "RfDetrDinov2Config", "Phi4MultimodalVisionConfig"],
)
def test_tower_with_the_keys_of_another_is_told_by_its_config(
    name: str, tmp_path: Path
) -> None:
    """Rotary positions, windows and cropped positions have no key of their own."""
    pair = BY_NAME["SiglipVisionModel"]
    hugging_face.build(pair).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    kind = getattr(t, name).model_type
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": kind}))
    with pytest.raises(ValueError, match="is not known to give their outputs") as e:
        build_with_checkpoint(pair.options, None, tmp_path / "model.safetensors")
    assert repr(kind) in str(e.value)
