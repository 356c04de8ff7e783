# SPDX-License-Identifier: Apache-2.0
"""transformers' config.json beside a weights file, which tells what keys do not.

The towers of other models have the same keys, with rotary positions or windows; and no
key says which activation, how many heads, what is added to a variance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .spec import Spec

# The models whose outputs are compared with transformers' in tests/timm, and the
# activation of their vision tower where the file does not say it.
MODEL_TYPES = {
    **dict.fromkeys(("vit", "vit_mae", "vit_msn", "ijepa", "dpt"), "gelu"),
    **dict.fromkeys(("dinov2", "dinov2_with_registers", "tipsv2"), "gelu"),
    **dict.fromkeys(("clip", "clipseg", "metaclip_2", "altclip"), "quick_gelu"),
    **dict.fromkeys(("chinese_clip", "owlvit", "owlv2"), "quick_gelu"),
    **dict.fromkeys(("siglip", "siglip2"), "gelu_pytorch_tanh"),
    **dict.fromkeys(("dinov3_vit", "beit", "data2vec-vision", "deit"), "gelu"),
    "sapiens2": "silu",
}
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}
_MOST_BYTES = 2**20


def check_config(weights: Path, spec: Spec) -> None:
    """Compare the model with the config.json beside `weights`, where transformers' is.

    ValueError for a kind of model whose outputs were not compared, and for options that
    the model has otherwise.
    """
    config = _read(weights.with_name("config.json"))
    if not isinstance(config.get("model_type"), str):
        return  # timm's, or anybody's
    kind, config = vision_of(config)
    if kind not in MODEL_TYPES:
        raise ValueError(
            f"the config.json beside it is of transformers' {kind!r:.60}, which shares "
            "keys with models that are read, but is not known to give their outputs"
        )
    said = {
        "num_heads": config.get("num_attention_heads"),
        "act_layer": activation_of(config, kind),
        "norm_layer": config.get("layer_norm_eps"),
    }
    own = spec.options
    has = {name: own[name] for name in ("num_heads", "act_layer")}
    if "rope_theta" in config and own["rope"] != "none":
        said["rope_temperature"] = config["rope_theta"]
        has["rope_temperature"] = own["rope_temperature"]
    has["norm_layer"] = own["norm_eps"]
    wrong = [
        f"{name}={('layernorm', value) if name == 'norm_layer' else value!r:.60}"
        for name, value in said.items()
        if value is not None and not _same(value, has[name])
    ]
    if wrong:
        raise ValueError(
            "the config.json beside it is that of a model with " + ", ".join(wrong)
        )


def vision_of(config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The kind of the vision tower, and what is said of it, in a config.json."""
    kind = config.get("model_type")
    vision = config.get("vision_config")
    if isinstance(vision, Mapping):
        config, kind = vision, vision.get("model_type") or kind
    return str(kind).removesuffix("_vision_model"), config


def activation_of(config: Mapping[str, Any], kind: str) -> str | None:
    """The activation's name here; None for SwiGLU, which brings its own."""
    if config.get("use_swiglu_ffn"):
        return None
    name = str(config.get("hidden_act") or MODEL_TYPES[kind])
    return _ACTIVATIONS.get(name, name)


def _same(said: object, has: Any) -> bool:
    """Equal; where it is an epsilon, so that no output shows the difference."""
    if isinstance(said, float) and isinstance(has, float):
        return abs(said - has) <= 1e-6
    return bool(said == has)


def _read(path: Path) -> Mapping[str, Any]:
    """The content; nothing where there is none that can be read."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
