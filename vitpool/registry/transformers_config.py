# SPDX-License-Identifier: Apache-2.0
"""Folders of Hugging Face transformers: config.json and preprocessor_config.json.

What they say of a model and of its pictures, as timm's configuration says it. Sources:
the configurations, models and image processors of transformers 5.24.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..checkpoint import activation_of, vision_of
from ..config import as_float, as_int, as_pair, defaults_of, mlp_ratio_of, resolve
from ..text import printable, some, warn_user
from .table import table
from .transformers_families import (
    OTHERS,
    classes_of,
    is_classifier,
    number,
    sizes_of,
)

_HALF = (0.5, 0.5, 0.5)
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_OPENAI = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
_SQUASHED = {"mean": _HALF, "std": _HALF, "crop_pct": 1.0, "crop_mode": "squash"}
# How pictures are prepared where no file says it: as the family's own models are.
_PICTURES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        ("vit", "vit_msn", "ijepa"), _SQUASHED | {"interpolation": "bilinear"}
    ),
    **dict.fromkeys(
        ("dinov2", "dinov2_with_registers"),
        _IMAGENET | {"interpolation": "bicubic", "crop_pct": 0.875},
    ),
    "clip": _OPENAI | {"interpolation": "bicubic", "crop_pct": 1.0},
    "siglip": _SQUASHED | {"interpolation": "bicubic"},
    "siglip2": _SQUASHED | {"interpolation": "bilinear"},
    "dinov3_vit": _SQUASHED | _IMAGENET | {"interpolation": "bilinear"},
    **dict.fromkeys(
        ("beit", "data2vec-vision"), _SQUASHED | {"interpolation": "bicubic"}
    ),
    "deit": _SQUASHED | _IMAGENET | {"interpolation": "bicubic", "crop_pct": 0.875},
}  # fmt: skip
# The part of a larger model leaves out what is its family's default; a model that is
# the whole says everything.
_TOWER = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_TOWER |= {"num_attention_heads": 12}
_LEFT_OUT: dict[str, dict[str, Any]] = {
    "clip": _TOWER | {"image_size": 224, "patch_size": 32, "layer_norm_eps": 1e-5},
    "siglip": _TOWER | {"image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6},
    "siglip2": _TOWER | {"num_patches": 256, "patch_size": 16, "layer_norm_eps": 1e-6},
}
# PIL's number of a filter.
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_MOST_PIXELS = 2**16  # of a side; a file's claim is not believed beyond it
# Processors that resize, crop and normalise, and nothing else, by their family; and
# those of them whose size, where it is one number, is that of the short side.
_PROCESSORS = ("ViT", "CLIP", "Bit", "Siglip", "DeiT", "Beit", "DINOv3ViT")
_SHORT_SIDE = ("CLIP", "Bit")
# And those whose filter, where none is said, is bicubic.
_BICUBIC = ("CLIP", "Bit", "DeiT", "Beit")


# What a config.json of timm's has at its top.
_TIMM = (
    *("architecture", "num_classes", "num_features", "global_pool", "model_args"),
    *("label_names", "label_descriptions", "pretrained_cfg"),
)


def is_transformers(config: object) -> bool:
    """Is a config.json that of one of transformers' own models?"""
    return (
        isinstance(config, Mapping)
        and isinstance(config.get("model_type"), str)
        and config["model_type"] != "timm_wrapper"
    )


def unwrapped(config: Any) -> Any:
    """timm's config.json in that of transformers' timm_wrapper; others as they are."""
    if not isinstance(config, Mapping) or config.get("model_type") != "timm_wrapper":
        return config
    out = {"pretrained_cfg": {}, **{k: config[k] for k in _TIMM if k in config}}
    if "TimmWrapperModel" in (config.get("architectures") or ()):
        out["num_classes"] = 0
    names = out.get("label_names")
    if isinstance(names, list) and not _names_of(dict(enumerate(names))):
        del out["label_names"]
    return out


def parse_transformers(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None, name: str
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(architecture, pretrained_cfg, model_args) of a folder of transformers'.

    config, processor: the content of config.json and of preprocessor_config.json, where
        there is one. name: what an error calls the first.
    The architecture is timm's of that size, or its base model. ValueError for a kind of
    model that is not known, and for one that no options describe; a UserWarning where
    the pictures cannot be prepared as transformers does it.
    """
    kind, vision = vision_of(config)
    if kind not in _PICTURES:
        raise ValueError(
            f"{name}: of transformers' {kind!r:.60}; known are "
            f"{', '.join(_PICTURES)}, and timm_wrapper"
        )
    try:
        family, options = OTHERS.get(kind, ("VisionTransformer", None))
        if options is None:
            args = _model_args(kind, vision) | _head(config, kind, vision)
        else:
            args = options(config, {**_LEFT_OUT.get(kind, {}), **vision})
        size, pictures = _pictures(kind, processor, args, name)
        if kind.startswith(("dinov2", "dinov3")):
            # Its positions are made for the picture's size at every call.
            args["img_size"] = size
        if family == "NaFlexVit":
            del args["img_size"]  # any, in its patches
        resolve(args, family)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(printable(f"{name}: {error}")) from None
    cfg = {
        **pictures,
        "input_size": (args["in_chans"], *size),
        "num_classes": args["num_classes"],
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    if family == "NaFlexVit":
        cfg["first_conv"] = "embeds.proj"
    if family == "VisionTransformerDistilled":
        cfg["classifier"] = ("head", "head_dist")
    labels = _names_of(config.get("id2label"))
    if labels and len(labels) == args["num_classes"] and is_classifier(config):
        cfg["label_names"] = labels
    cfg["architecture"] = _architecture(args, family)
    return cfg["architecture"], cfg, {**defaults_of(family), **args}


def _model_args(kind: str, vision: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the model without a head."""
    said = {**_LEFT_OUT.get(kind, {}), **vision}
    args: dict[str, Any] = sizes_of(said) | {
        "act_layer": activation_of(said, kind),
        "qkv_bias": said.get("qkv_bias", True),
        "class_token": kind not in ("siglip", "ijepa"),
        "global_pool": "token",
    }
    width = args["embed_dim"]
    if kind.startswith("dinov2"):
        hidden = int(width * as_float(said.get("mlp_ratio"), "mlp_ratio"))
        if said.get("use_swiglu_ffn"):
            hidden = 2 * ((hidden * 2 // 3 + 7) // 8 * 8)
            args |= {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
        args["init_values"] = as_float(said.get("layerscale_value"), "layerscale_value")
    else:
        hidden = number(said, "intermediate_size")
    args["mlp_ratio"] = mlp_ratio_of(hidden, width)
    if kind == "dinov2_with_registers":
        args |= {
            "reg_tokens": number(said, "num_register_tokens"),
            "no_embed_class": True,
        }
    if kind == "clip":
        args["pre_norm"] = True
    args["img_size"] = as_pair(said.get("image_size"), "image_size")
    return args


def _names_of(given: object) -> list[str]:
    """The names of the classes in order; none where they are only numbered."""
    if not isinstance(given, Mapping):
        return []
    try:
        names = {int(index): str(label) for index, label in given.items()}
    except ValueError:
        return []
    if sorted(names) != list(range(len(names))):
        return []
    if all(label == f"LABEL_{index}" for index, label in names.items()):
        return []
    return [names[index] for index in range(len(names))]


def _head(
    config: Mapping[str, Any], kind: str, vision: Mapping[str, Any]
) -> dict[str, Any]:
    """num_classes, and the pool that the head is behind, where it is not the token."""
    mean = {"global_pool": "avg", "fc_norm": False}
    if is_classifier(config):
        head: dict[str, Any] = {"num_classes": classes_of(config)}
        if kind in ("siglip", "ijepa"):
            head |= mean
        elif kind == "clip":
            # Of the patches as the last block gives them.
            head |= {"global_pool": "avg", "final_norm": False}
        return head
    if kind == "siglip":
        pool = "map" if vision.get("vision_use_head", True) else ""
        return {"num_classes": 0, "global_pool": pool}
    if kind == "ijepa":
        return {"num_classes": 0, **mean}
    names = [str(name) for name in config.get("architectures") or ()]
    if (
        any(name.endswith("WithProjection") for name in names)
        or (config["model_type"] == "clip" and names in (["CLIPModel"], []))
        or config["model_type"] == "vision-text-dual-encoder"
    ):
        width = config.get("projection_dim", 512)
        return {"num_classes": as_int(width, "projection_dim", 1)}
    return {"num_classes": 0}


def _pictures(
    kind: str,
    processor: Mapping[str, Any] | None,
    args: Mapping[str, Any],
    name: str,
) -> tuple[tuple[int, int], dict[str, Any]]:
    """The size of the model's pictures, and how they are prepared."""
    own = args["img_size"]
    usual = dict(_PICTURES[kind])
    if processor is None:
        return own, usual
    try:
        size, pictures = _prepared(processor)
    except (TypeError, ValueError) as error:
        text = (
            f"{name}: pictures are prepared as for other models of {kind}, since what "
            f"its preprocessor_config.json says cannot be done here: {error}"
        )
        warn_user(UserWarning(printable(text)))
        return own, usual
    return size, usual | pictures


def _prepared(said: Mapping[str, Any]) -> tuple[tuple[int, int], dict[str, Any]]:
    """An image processor's steps in timm's words; ValueError for other steps."""
    named = str(said.get("image_processor_type") or said.get("feature_extractor_type"))
    family = re.sub("(FeatureExtractor|ImageProcessor(Fast|Pil)?)$", "", named)
    if family == "Siglip2":
        most = said.get("max_num_patches", 256)
        raise ValueError(
            "it keeps the shape of pictures, as preprocess does with "
            f"max_seq_len={most!r:.20}"
        )
    if family not in _PROCESSORS:
        raise ValueError(
            f"{family!r:.60} is no image processor that is known "
            f"({', '.join(_PROCESSORS)})"
        )
    for step in ("do_pad", "do_flip_channel_order"):
        if said.get(step):
            raise ValueError(f"{step} is true")
    if not said.get("do_resize", True):
        raise ValueError("do_resize is false, and pictures come in any size")
    size, crop, mode = _sizes(said, family)
    filters = said.get("resample", 3 if family in _BICUBIC else 2)
    number = as_int(filters, "resample")
    if number >= len(_FILTERS):
        raise ValueError(f"resample is {number}, a filter that PIL has not")
    out: dict[str, Any] = {
        "interpolation": _FILTERS[number],
        "crop_mode": mode,
        "crop_pct": _crop_pct(crop[0], size[0]),
        **_scaled(said),
    }
    return crop, out


def _sizes(
    said: Mapping[str, Any], family: str
) -> tuple[tuple[int, int], tuple[int, int], str]:
    """(height, width) resized to, then cut to, and timm's name of the way."""
    size = said.get("size")
    short_side = family in _SHORT_SIDE and not isinstance(size, Mapping)
    if isinstance(size, Mapping):
        if set(size) == {"shortest_edge"}:
            short_side, size = True, size["shortest_edge"]
        elif set(size) == {"height", "width"}:
            size = (size["height"], size["width"])
        else:
            raise ValueError(f"its size has {some(map(str, size))}")
    resized = as_pair(size, "size")
    crops = said.get("do_center_crop", family in ("CLIP", "Bit", "DeiT"))
    crop = said.get("crop_size") if crops else None
    if isinstance(crop, Mapping):
        if set(crop) != {"height", "width"}:
            raise ValueError(f"its crop_size has {some(map(str, crop))}")
        crop = (crop["height"], crop["width"])
    if crops:
        cut = as_pair(crop, "crop_size")
    elif short_side:
        raise ValueError("the short side is resized and nothing is cut off")
    else:
        cut = resized
    if max(*resized, *cut) > _MOST_PIXELS:
        raise ValueError(f"a side of more than {_MOST_PIXELS} pixels")
    if cut != resized and (cut[0] != cut[1] or resized[0] != resized[1]):
        raise ValueError(f"resized to {resized} and then cut to {cut}")
    if short_side and cut[0] != cut[1]:
        raise ValueError(f"cut to {cut}, which is no square")
    return resized, cut, "center" if short_side else "squash"


def _crop_pct(cut: int, resized: int) -> float:
    """timm's crop_pct, from which it makes floor(cut / crop_pct): `resized`."""
    part = cut / resized
    while math.floor(cut / part) < resized:  # the division rounded down
        part = math.nextafter(part, 0.0)
    return part


def _scaled(said: Mapping[str, Any]) -> dict[str, Any]:
    """mean and std of pixels from 0 to 1, whatever scale they are normalised at."""
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1
    scale = 255 * as_float(factor, "rescale_factor")
    if not 0 < scale < math.inf:
        raise ValueError(f"rescale_factor is {factor}")
    scale = 1.0 if math.isclose(scale, 1.0, rel_tol=1e-9) else scale
    mean, std = said.get("image_mean"), said.get("image_std")
    if not said.get("do_normalize", True):
        mean, std = [0.0], [1.0]
    out = {}
    for key, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        values = values if isinstance(values, (list, tuple)) else [values]
        out[key] = tuple(as_float(v, f"image_{key}") / scale for v in values)
    return out


_BASE = {
    "VisionTransformer": "vit_base_patch16_224",
    "VisionTransformerDistilled": "deit_base_distilled_patch16_224",
    "Eva": "vit_base_patch16_dinov3",
    "Beit": "beit_base_patch16_224",
    "NaFlexVit": "naflexvit_base_patch16_siglip",
}


def _architecture(args: Mapping[str, Any], family: str) -> str:
    """The name of timm's first architecture of such blocks, else of its base model.

    It is a name and no more: the options say all themselves.
    """
    tell = [
        *("patch_size", "embed_dim", "depth", "num_heads", "mlp_hidden", "mlp_layer"),
        *("class_token", "reg_tokens", "pre_norm", "has_init_values", "rope"),
        *(("qkv_bias",) if family == "Eva" else ()),
    ]
    wanted = resolve(args, family)
    for name, model in table()["models"].items():
        if model["class"] != family:
            continue
        options = resolve(model["args"], family)
        named = "flexi" in name or "radio" in name  # which resize embeddings otherwise
        if not named and all(options[key] == wanted[key] for key in tell):
            return str(name)
    return _BASE[family]
