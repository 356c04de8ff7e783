# SPDX-License-Identifier: Apache-2.0
"""A folder of transformers': its config.json, its image processor, its labels."""

from __future__ import annotations

import contextlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import published
import pytest
import rerun
from golden import recipe
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

import vitpool
from vitpool import cli
from vitpool.checkpoint import Spec
from vitpool.config import resolve
from vitpool.registry.folder import load_model_config
from vitpool.registry.transformers_config import parse_transformers

VIT: dict[str, Any] = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 32,
    "patch_size": 8,
    "num_channels": 3,
    "qkv_bias": True,
    "id2label": {"0": "cat", "1": "dog", "2": "a\tbird"},
}
OPTIONS: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 3,
    "norm_layer": ("layernorm", 1e-12),
    "num_classes": 3,
}
SQUARE: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CUT: dict[str, Any] = SQUARE | {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 41},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
}


def weights_of(options: dict[str, Any]) -> dict[str, np.ndarray]:
    return recipe.weights(Spec.from_options(options).shapes, seed=1)


def write(folder: Path, config: Any, processor: Any = None) -> str:
    """A folder with a ViT of these options; returns its name for create_model."""
    state = published.transformers_vit(weights_of(OPTIONS))
    save_file({k: v.copy() for k, v in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return f"local-dir:{folder}"


def parsed(config: Any, processor: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    _, cfg, args = parse_transformers(config, processor, "config.json")
    return cfg, args


# -- the model --


def test_a_folder_is_a_model_with_its_transform_and_its_labels(tmp_path: Path) -> None:
    name = write(tmp_path, VIT, CUT)
    model = vitpool.create_model(name, pretrained=True)
    want = vitpool.VisionTransformer(**OPTIONS, weights=weights_of(OPTIONS))
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    assert model(x).tobytes() == want(x).tobytes()
    assert vitpool.resolve_data_config(model) == {
        "input_size": (3, 32, 32),
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "crop_pct": 32 / 41,
        "crop_mode": "center",
    }
    assert vitpool.get_pretrained_cfg(name)["label_names"] == ("cat", "dog", "a\tbird")


def test_a_folder_is_classified_with_and_embedded_without_a_head(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    name = write(tmp_path, VIT, SQUARE)
    Image.new("RGB", (50, 40), (255, 0, 0)).save(tmp_path / "a.png")
    argv = ["classify", str(tmp_path / "a.png"), "-m", str(tmp_path), "--json"]
    assert cli.main(argv) == 0
    found = json.loads(capsys.readouterr().out)["classes"]
    assert {row["label"] for row in found} == {"cat", "dog", "a\tbird"}
    headless = vitpool.create_model(name, pretrained=True, num_classes=0)
    assert headless.preprocess([tmp_path / "a.png"]).shape == (1, 3, 32, 32)
    assert headless.num_classes == 0
    new = vitpool.create_model(name, pretrained=True, num_classes=7, seed=0)
    assert new.head.weight.shape == (7, 32)


def test_a_saved_copy_is_the_same_model(tmp_path: Path) -> None:
    name = write(tmp_path, VIT, CUT)
    with pytest.raises(ValueError, match="it can say norm_layer=") as caught:
        vitpool.save_pretrained(vitpool.create_model(name, True), tmp_path / "copy")
    norm = ("layernorm", 1e-6)
    assert f"norm_layer={norm}" in str(caught.value)
    model = vitpool.create_model(name, pretrained=True, norm_layer=norm)
    vitpool.save_pretrained(model, tmp_path / "copy")
    again = vitpool.create_model(f"local-dir:{tmp_path / 'copy'}", pretrained=True)
    assert again.config == model.config
    assert vitpool.resolve_data_config(again) == vitpool.resolve_data_config(model)
    labels = again.pretrained_cfg["label_names"]
    assert list(labels) == ["cat", "dog", "a\tbird"]


def test_numbered_labels_are_no_names() -> None:
    numbered = {"id2label": {str(i): f"LABEL_{i}" for i in range(3)}}
    assert "label_names" not in parsed(VIT | numbered)[0]
    assert "label_names" not in parsed(VIT | {"architectures": ["ViTModel"]})[0]


def test_what_a_part_of_a_larger_model_leaves_out_is_its_familys() -> None:
    """As google/siglip-base-patch16-224 and openai/clip-vit-base-patch32 have it."""
    tower = {"model_type": "siglip_vision_model"}
    _, siglip = parsed({"model_type": "siglip", "vision_config": tower})
    assert siglip["global_pool"] == "map"
    assert siglip["act_layer"] == "gelu_tanh"
    tower = {"model_type": "clip_vision_model"}
    _, clip = parsed({"model_type": "clip", "vision_config": tower})
    assert clip["patch_size"] == (32, 32)
    assert clip["num_classes"] == 512
    assert clip["pre_norm"]
    cfg, naflex = parsed({"model_type": "siglip2", "vision_config": {}})
    assert naflex["pos_embed_grid_size"] == (16, 16)
    assert naflex["img_size"] is None
    assert cfg["input_size"] == (3, 256, 256)
    assert cfg["architecture"] == "naflexvit_base_patch16_siglip"
    assert naflex["global_pool"] == "map"
    assert naflex["act_layer"] == "gelu_tanh"
    assert parsed({"model_type": "siglip", "vision_config": tower})[1]["pre_norm"]


DINO = {
    **{k: v for k, v in VIT.items() if k not in ("intermediate_size", "id2label")},
    "model_type": "dinov2",
    "architectures": ["Dinov2Model"],
    "mlp_ratio": 4,
    "layerscale_value": 1.0,
}


def test_dinov2_takes_the_size_of_its_processor() -> None:
    """transformers resizes its positions at every call."""
    assert parsed(DINO)[1]["img_size"] == (32, 32)
    cut = CUT | {"crop_size": {"height": 24, "width": 24}}
    assert parsed(DINO, cut)[1]["img_size"] == (24, 24)
    assert parsed(VIT, cut)[1]["img_size"] == (32, 32)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (VIT | {"model_type": "swin"}, "of transformers' 'swin'; known are vit, "),
        (VIT | {"model_type": "beit\x1b"}, r"of transformers' 'beit\\x1b'"),
        (VIT | {"hidden_act": "\x1b[31m"}, r"act_layer must be .*\\x1b"),
        (VIT | {"hidden_size": None}, "says no 'hidden_size'"),
        (VIT | {"hidden_size": "32"}, "hidden_size must be an integer, not str"),
        (VIT | {"patch_size": None}, "patch_size must be an integer"),
        (VIT | {"image_size": [32]}, "image_size must be one integer or two"),
        (VIT | {"hidden_act": "mish"}, "act_layer must be one of .*, not 'mish'"),
        (VIT | {"layer_norm_eps": "small"}, "layer_norm_eps must be a number"),
        (VIT | {"qkv_bias": "yes"}, "qkv_bias must be True or False"),
        (DINO | {"mlp_ratio": None}, "mlp_ratio must be a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_built_is_refused_by_name(config: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^config\.json: {words}"):
        parsed(config)


# -- the pictures --


PICTURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "square": (SQUARE, {"crop_mode": "squash", "crop_pct": 1.0}),
    "fast": (SQUARE | {"image_processor_type": "ViTImageProcessorFast"}, {}),
    "of 2021": (
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 0},
        {"crop_mode": "squash", "interpolation": "nearest", "mean": (0.5, 0.5, 0.5)},
    ),
    "CLIP's of 2021": (
        {
            "feature_extractor_type": "CLIPFeatureExtractor",
            "size": 41,
            "crop_size": 32,
            "do_center_crop": True,
        },
        {"crop_mode": "center", "crop_pct": 32 / 41, "interpolation": "bicubic"},
    ),
    "squashed and cut": (
        CUT | {"size": {"height": 41, "width": 41}},
        {"crop_mode": "squash", "crop_pct": 32 / 41},
    ),
    "not rescaled": (
        SQUARE | {"do_rescale": False, "image_mean": 51.0, "image_std": 102.0},
        {"mean": (0.2,), "std": (0.4,)},
    ),
    "rescaled to -1 and 1": (
        SQUARE | {"rescale_factor": 2 / 255, "image_mean": [1.0], "image_std": [1.0]},
        {"mean": (0.5,), "std": (0.5,)},
    ),
    "not normalised": (
        SQUARE | {"do_normalize": False},
        {"mean": (0.0,), "std": (1.0,)},
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_processor_is_told_in_timms_words(name: str) -> None:
    processor, wanted = PICTURES[name]
    cfg, _ = parsed(VIT, processor)
    assert cfg["input_size"] == (3, 32, 32)
    for key, value in wanted.items():
        assert cfg[key] == pytest.approx(value), key


@pytest.mark.parametrize("resized", range(32, 400, 7))
def test_the_short_side_is_resized_to_what_the_processor_says(resized: int) -> None:
    cfg, _ = parsed(VIT, CUT | {"size": {"shortest_edge": resized}})
    transform = vitpool.create_transform(
        **vitpool.resolve_data_config(cfg) | {"input_size": (3, 32, 32)}
    )
    assert int(32 / transform.crop_pct) == resized


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 300},
            "as preprocess does with max_seq_len=300",
        ),
        (
            {"image_processor_type": "Idefics3ImageProcessor"},
            "'Idefics3' is no image pro",
        ),
        ({"do_pad": True}, "do_pad is true"),
        ({"do_resize": False}, "do_resize is false"),
        ({"do_center_crop": False}, "nothing is cut off"),
        ({"size": {"longest_edge": 32}}, "its size has longest_edge"),
        ({"crop_size": {"height": 32, "width": 24}}, r"cut to \(32, 24\)"),
        ({"resample": 9}, "resample is 9"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": 1e308}, r"rescale_factor is 1e\+308"),
        ({"size": {"shortest_edge": 10**400}}, "a side of more than 65536 pixels"),
        ({"size": {"\x1b[2J": 1}}, r"its size has \\x1b\[2J"),
        ({"crop_size": [32]}, "crop_size must be one integer or two"),
        ({"image_mean": "red"}, "image_mean must be a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pictures_that_cannot_be_prepared_so_are_a_warning(
    change: dict[str, Any], words: str
) -> None:
    """The model itself is right; its pictures are prepared as its family's are."""
    with pytest.warns(UserWarning, match=f"cannot be done here: .*{words}") as caught:
        cfg, _ = parsed(VIT, CUT | change)
    assert [warning.filename for warning in caught] == [__file__]
    assert cfg["crop_mode"] == "squash"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parsed(VIT, CUT)


def test_the_processor_of_pictures_and_text_is_read(tmp_path: Path) -> None:
    write(tmp_path, VIT)
    both = {"processor_class": "CLIPProcessor", "image_processor": CUT}
    (tmp_path / "processor_config.json").write_text(json.dumps(both))
    assert load_model_config(tmp_path)[1]["crop_mode"] == "center"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SQUARE))
    assert load_model_config(tmp_path)[1]["crop_mode"] == "squash"
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: not an object"):
        load_model_config(tmp_path)


# -- what strangers write --

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 32, 10**30, 10**400])
    | st.floats()
    | st.sampled_from(["", "gelu", "dinov2", "clip_vision_model", "32", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["0", "height", "width"]), inner, max_size=3)
    ),
    max_leaves=4,
)
FIELDS = sorted({*VIT, *DINO, "vision_config", "use_swiglu_ffn", "projection_dim"})


@rerun.settings(100)
@given(data=st.data())
@pytest.mark.parametrize("base", [VIT, DINO, {"model_type": "clip"}])
def test_any_content_is_read_or_refused(base: Any, data: st.DataObject) -> None:
    """With a ValueError, and numbers that a model and a transform can be asked with."""
    draw = data.draw
    config = base | draw(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
    steps = st.dictionaries(st.sampled_from(sorted(CUT)), JSON, max_size=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cfg, args = parsed(config, CUT | draw(steps))
        except ValueError:
            return
    resolve(args)
    with contextlib.suppress(ValueError):  # a deviation of 0, channels that differ
        vitpool.create_transform(**vitpool.resolve_data_config(cfg))


# -- timm's models in transformers' wrapper --


def test_a_wrapped_model_of_timms_is_timms(tmp_path: Path) -> None:
    config = {
        "model_type": "timm_wrapper",
        "architecture": "vit_tiny_patch16_224",
        "architectures": ["TimmWrapperForImageClassification"],
        "num_classes": 3,
        "label_names": ["LABEL_0", "LABEL_1", "LABEL_2"],
        "model_args": {"depth": 1, "img_size": 32},
        "do_pooling": True,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = {"img_size": 32, "embed_dim": 192, "depth": 1, "num_heads": 3}
    state = weights_of(options | {"num_classes": 3})
    state = {f"timm_model.{key}": value for key, value in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    model = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert (model.num_classes, model.img_size) == (3, (32, 32))
    assert not {"label_names", "do_pooling"} & set(model.pretrained_cfg)
    headless = {k: v for k, v in state.items() if "head" not in k}
    save_file(headless, tmp_path / "model.safetensors")
    config["architectures"] = ["TimmWrapperModel"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = vitpool.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert model.num_classes == 0
