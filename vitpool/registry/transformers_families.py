# SPDX-License-Identifier: Apache-2.0
"""transformers' models of another class than VisionTransformer, by config.json.

Sources: DINOv3ViT, BEiT, Data2VecVision, DeiT and Siglip2 of transformers 5.24.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..checkpoint import activation_of
from ..config import as_bool, as_float, as_int, as_pair, mlp_ratio_of

_Said = Mapping[str, Any]


def number(said: _Said, key: str) -> int:
    """A positive integer of a config; ValueError where it has none."""
    if said.get(key) is None:
        raise ValueError(f"says no {key!r}")
    return as_int(said[key], key, 1)


def is_classifier(config: _Said) -> bool:
    """Has a model of this config a head for classes?"""
    names = config.get("architectures") or ()
    ends = ("ForImageClassification", "ForImageClassificationWithTeacher")
    return any(str(name).endswith(ends) for name in names)


def classes_of(config: _Said) -> int:
    """How many classes the head of a classifier has."""
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else 2  # its default


def sizes_of(said: _Said) -> dict[str, Any]:
    """What every config says, as options that every class has."""
    width = number(said, "hidden_size")
    eps = as_float(said.get("layer_norm_eps"), "layer_norm_eps")
    return {
        "patch_size": as_pair(said.get("patch_size"), "patch_size"),
        "in_chans": as_int(said.get("num_channels", 3), "num_channels", 1),
        "embed_dim": width,
        "depth": number(said, "num_hidden_layers"),
        "num_heads": number(said, "num_attention_heads"),
        "norm_layer": ("layernorm", eps),
    }


def _only(said: _Said, key: str, allowed: object, default: object, why: str) -> None:
    """Refuse another value of a key than the one that timm's class has."""
    value = said.get(key, default)
    if value != allowed:
        raise ValueError(f"{key} is {value!r:.60}, and {why} {allowed!r}")


def _act(said: _Said) -> str | None:
    return activation_of({"hidden_act": "gelu", **said}, "vit")


def _mlp_ratio(said: _Said) -> float:
    return mlp_ratio_of(number(said, "intermediate_size"), number(said, "hidden_size"))


def _dinov3(_config: _Said, said: _Said) -> dict[str, Any]:
    """DINOv3ViT as Eva: its pooled output is the class token's. It has no head."""
    gated = as_bool(said.get("use_gated_mlp", False), "use_gated_mlp")
    act = _act(said)
    wanted = "silu" if gated else "gelu"
    if act != wanted:
        raise ValueError(f"hidden_act is {act!r:.60}, and such an MLP has {wanted!r}")
    for key in ("proj_bias", "mlp_bias"):
        _only(said, key, True, True, "timm's Eva has")
    biases = [as_bool(said.get(f"{n}_bias", n != "key"), n)
              for n in ("query", "key", "value")]  # fmt: skip
    if biases not in ([True, True, True], [True, False, True], [False] * 3):
        raise ValueError(
            "query_bias, key_bias and value_bias are "
            f"{', '.join(map(repr, biases))}, and timm's Eva has all, none, or all "
            "but the key's"
        )
    args = sizes_of(said) | {
        "img_size": as_pair(said.get("image_size", 224), "image_size"),
        "num_classes": 0,
        "global_pool": "token",
        "mlp_ratio": _mlp_ratio(said),
        "qkv_bias": biases[0],
        "attn_type": "rope" if biases[1] else "eva",
        "init_values": as_float(said.get("layerscale_value", 1.0), "layerscale_value"),
        "num_reg_tokens": as_int(said.get("num_register_tokens", 0), "registers"),
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": as_float(said.get("rope_theta", 100.0), "rope_theta"),
        "rope_rotate_half": True,
        "use_fc_norm": False,
        "dynamic_img_size": True,
    }
    if gated:
        # Of these two numbers a multiple stays as it is.
        whole = number(said, "intermediate_size") % 8 == 0
        args |= {"swiglu_mlp": True, "swiglu_align_to": 8 if whole else 1}
    return args


def _beit(config: _Said, said: _Said) -> dict[str, Any]:
    """BEiT and Data2VecVision as Beit."""
    if _act(said) != "gelu":
        raise ValueError(
            f"hidden_act is {said.get('hidden_act')!r:.60}, and timm's Beit has 'gelu'"
        )

    def flag(key: str, default: bool) -> bool:
        return as_bool(said.get(key, default), key)

    scale = as_float(said.get("layer_scale_init_value", 0.1), "layer_scale_init_value")
    names = [str(name) for name in config.get("architectures") or ()]
    # Its masked image model gives all tokens, normed, whatever it would pool.
    masked = any(name.endswith("ForMaskedImageModeling") for name in names)
    pool = "avg" if flag("use_mean_pooling", True) else "token"
    return sizes_of(said) | {
        "img_size": as_pair(said.get("image_size"), "image_size"),
        "num_classes": classes_of(config) if is_classifier(config) else 0,
        "global_pool": "" if masked else pool,
        "mlp_ratio": _mlp_ratio(said),
        "init_values": scale if scale > 0 else None,
        "use_abs_pos_emb": flag("use_absolute_position_embeddings", False),
        "use_rel_pos_bias": flag("use_relative_position_bias", False),
        "use_shared_rel_pos_bias": flag("use_shared_relative_position_bias", False),
    }


def _deit(config: _Said, said: _Said) -> dict[str, Any]:
    """DeiT, which always has a distillation token, as VisionTransformerDistilled."""
    return sizes_of(said) | {
        "img_size": as_pair(said.get("image_size"), "image_size"),
        "num_classes": classes_of(config) if is_classifier(config) else 0,
        "global_pool": "token",
        "mlp_ratio": _mlp_ratio(said),
        "qkv_bias": as_bool(said.get("qkv_bias", True), "qkv_bias"),
        "act_layer": _act(said),
    }


def _siglip2(config: _Said, said: _Said) -> dict[str, Any]:
    """SigLIP2's NaFlex tower as NaFlexVit: pictures of any size. img_size is what its
    grid of positions covers."""
    side = math.isqrt(number(said, "num_patches"))
    args = sizes_of(said)
    # Its classifier is on the mean of the normed patches.
    mean = is_classifier(config)
    head = bool(said.get("vision_use_head", True))
    return args | {
        "img_size": tuple(side * pixels for pixels in args["patch_size"]),
        "num_classes": classes_of(config) if mean else 0,
        "global_pool": "avg" if mean else "map" if head else "",
        "fc_norm": False,
        "mlp_ratio": _mlp_ratio(said),
        "act_layer": activation_of(said, "siglip2"),
        "pos_embed_grid_size": (side, side),
        "pos_embed_interp_mode": "bilinear",
    }


#: Kind of model to the class that it is in timm, and its options.
OTHERS: dict[str, tuple[str, Callable[[_Said, _Said], dict[str, Any]]]] = {
    "dinov3_vit": ("Eva", _dinov3),
    "beit": ("Beit", _beit),
    "data2vec-vision": ("Beit", _beit),
    "deit": ("VisionTransformerDistilled", _deit),
    "siglip2": ("NaFlexVit", _siglip2),
}
