# SPDX-License-Identifier: Apache-2.0
"""What each of timm's classes has to say of its options, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .checks import as_float, as_int, as_pair
from .names import ACTS, MLPS, NORMS, POOLS

# Any case of a name, and timm's other spellings, to the name.
_ACTS: dict[str, str] = {
    **{name: name for name in ACTS},
    "gelutanh": "gelu_tanh",
    "quickgelu": "quick_gelu",
    "swish": "silu",
}
_NORMS: dict[str, str] = {name: name for name in NORMS}
_MLPS = {name.lower(): name for name in MLPS}


class Family(NamedTuple):
    """One class of timm's: its options, and their way to the core's and back."""

    #: Option to default, in the constructor's order.
    defaults: Mapping[str, Any]
    #: The core's options from all of these, whose switches and rates are checked.
    resolve: Callable[[dict[str, Any]], dict[str, Any]]
    #: The options that tell something of a finished model, from the core's.
    arguments: Callable[[Mapping[str, Any]], dict[str, Any]]
    #: Of these the ones for which a default of None stands, and its value.
    implied: Callable[[Mapping[str, Any]], dict[str, Any]]
    #: Options of timm's that are not here, and why.
    refused: Mapping[str, str] = {}


#: What VisionTransformer has not, as the core's options; csrc/model/config.h.
CLASS_OPTIONS: dict[str, Any] = {
    "family": "VisionTransformer",
    "dist_token": False,
    "qkv_split": False,
    "q_v_bias": False,
    "num_kv_heads": 0,
    "num_full_attn_blocks": 0,
    "num_full_attn_last": 0,
    "attn_only_layer_scale": False,
    "rope": "none",
    "rope_rotate_half": False,
    "rope_xy": False,
    "rope_temperature": 0.0,
    "rope_grid_offset": 0.0,
    "rope_ref": (0, 0),
    "rel_pos": "none",
    "rel_pos_block": False,
    "rel_pos_shared": False,
    "rel_pos_dim": 0,
    "attn_pool_heads": 0,
    "attn_pool_hidden": 0,
    "attn_pool_act": "identity",
    "head_init_scale": 0.0,
    "embed_layer": "PatchEmbed",
    # NaFlexVit's
    "embed_linear": False,
    "patchify_channels_last": False,
    "patch_interpolator": False,
    "pos_kind": "learned",
    "pos_interp": "bicubic",
    "pos_ar_preserving": False,
    "pos_antialias": False,
    "pos_align_corners": False,
    "pos_grid_sample": False,
}


def told_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The core's options for a file by which two models are compared: those that only
    other classes than VisionTransformer have are left out where they say nothing, as in
    files from before there were such classes."""
    return {
        name: value
        for name, value in options.items()
        if name not in CLASS_OPTIONS or value != CLASS_OPTIONS[name]
    }


def core_options(a: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """The core's options: those that every class has of its arguments a, and `own`
    beside what stands for nothing."""
    pool = a["global_pool"]
    if not isinstance(pool, str):
        raise TypeError(
            f"global_pool must be a str ({', '.join(map(repr, POOLS))}), "
            f"not {type(pool).__name__}"
        )
    norm, eps = norm_of(a["norm_layer"], "norm_layer")
    init_values = a["init_values"]
    if init_values is not None:
        init_values = as_float(init_values, "init_values")
    return {
        "img_size": as_pair(a["img_size"], "img_size"),
        "patch_size": as_pair(a["patch_size"], "patch_size"),
        "in_chans": as_int(a["in_chans"], "in_chans", 1),
        "num_classes": as_int(a["num_classes"], "num_classes"),
        "global_pool": pool,
        "embed_dim": width_of(a),
        "depth": as_int(a["depth"], "depth"),
        "num_heads": as_int(a["num_heads"], "num_heads", 1),
        "mlp_hidden": hidden_of(a, "mlp_ratio"),
        "reg_tokens": 0,
        "block_fn": "Block",
        "mlp_layer": "Mlp",
        "attn_layer": "attn",
        "act_layer": "gelu",
        "norm_layer": norm,
        "norm_eps": eps,
        "embed_norm_layer": "identity",
        "embed_norm_eps": 0.0,
        "has_init_values": init_values is not None,
        "init_values": init_values or 0.0,
        "qkv_bias": a["qkv_bias"],
        "qk_norm": False,
        "scale_attn_norm": False,
        "scale_mlp_norm": False,
        "proj_bias": True,
        "class_token": True,
        "pos_embed": True,
        "no_embed_class": False,
        "pre_norm": False,
        "norm": True,
        "fc_norm": False,
        "pool_include_prefix": False,
        "dynamic_img_size": False,
        "dynamic_img_pad": False,
        **CLASS_OPTIONS,
        **own,
    }


def width_of(a: Mapping[str, Any]) -> int:
    """embed_dim, checked."""
    width = as_int(a["embed_dim"], "embed_dim", 1)
    if width >= 2**31:
        raise ValueError(
            f"embed_dim must be below 2**31, not about 2**{width.bit_length()}"
        )
    return width


def hidden_of(a: Mapping[str, Any], name: str) -> int:
    """An MLP's hidden width, of the ratio that is called name."""
    width = as_int(a["embed_dim"], "embed_dim", 1)
    ratio = as_float(a[name], name)
    if ratio <= 0 or ratio > 1e6:
        raise ValueError(f"{name} must be above 0, not {ratio}")
    return int(width * ratio) if width < 2**31 else 0


def act_of(value: Any, what: str) -> str:
    """An activation's name; 'gelu' for None."""
    return name_of(value, what, _ACTS, "gelu")


def mlp_of(value: Any, what: str) -> str:
    """The name of an MLP; 'Mlp' for None."""
    return name_of(value, what, _MLPS, "Mlp")


def norm_of(value: Any, what: str) -> tuple[str, float]:
    """('layernorm' or 'rmsnorm', eps) from a name, a pair (name, eps) or a dict."""
    eps: Any = 1e-6
    if isinstance(value, Mapping):
        unknown = set(value) - {"name", "eps"}
        if unknown or "name" not in value:
            raise ValueError(
                f"{what} as a dict must have the keys 'name' and 'eps', not "
                f"{sorted(map(str, value))}"
            )
        eps = value.get("eps", eps)
        value = value["name"]
    elif isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{what} must be a name or (name, eps), not {value!r}")
        value, eps = value
    if isinstance(value, str):
        value = value.replace("_", "")
    name = name_of(value, what, _NORMS, "layernorm")
    eps = as_float(eps, f"{what}'s eps")
    if eps < 0:
        raise ValueError(f"{what}'s eps must not be negative, not {eps}")
    return name, eps


def name_of(value: Any, what: str, names: Mapping[str, str], default: str) -> str:
    """The name that a spelling of any case stands for; default for None."""
    if value is None:
        return default
    if not isinstance(value, str):
        raise TypeError(
            f"{what} must be a name ({', '.join(repr(n) for n in _unique(names))}), "
            f"not {value!r}"
        )
    key = value.lower()
    if key not in names:
        raise ValueError(
            f"{what} must be one of {', '.join(repr(n) for n in _unique(names))}, "
            f"not {value!r}"
        )
    return names[key]


def _unique(names: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(names.values()))
