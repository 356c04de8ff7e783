# SPDX-License-Identifier: Apache-2.0
"""timm's constructor arguments, resolved to the plain options that the core takes.

What is a Python class in timm (norm_layer, act_layer, mlp_layer, block_fn, attn_layer)
is a name here. Source: timm.models.vision_transformer.VisionTransformer.__init__.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..text import did_you_mean
from .checks import as_bool, as_float, as_int, as_pair
from .names import ACTS, ATTNS, BLOCKS, MLPS, NORMS, POOLS, POS_EMBEDS

# Any case of a name, and timm's other spellings, to the name.
_ACTS: dict[str, str] = {
    **{name: name for name in ACTS},
    "gelutanh": "gelu_tanh",
    "quickgelu": "quick_gelu",
    "swish": "silu",
}
_NORMS: dict[str, str] = {name: name for name in NORMS}
_MLPS = {name.lower(): name for name in MLPS}
_BLOCKS = {name.lower(): name for name in BLOCKS}
_ATTNS: dict[str, str] = {
    **{name: name for name in ATTNS},
    "": "attn",
    "attention": "attn",
    "diffattention": "diff",
}

#: timm's constructor defaults; drop rates are accepted and do nothing at inference.
DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "in_chans": 3,
    "num_classes": 1000,
    "global_pool": "token",
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "qk_norm": False,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
    "proj_bias": True,
    "init_values": None,
    "class_token": True,
    "pos_embed": "learn",
    "no_embed_class": False,
    "reg_tokens": 0,
    "pre_norm": False,
    "final_norm": True,
    "fc_norm": None,
    "pool_include_prefix": False,
    "dynamic_img_size": False,
    "dynamic_img_pad": False,
    "drop_rate": 0.0,
    "pos_drop_rate": 0.0,
    "patch_drop_rate": 0.0,
    "proj_drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "weight_init": "",
    "fix_init": False,
    "embed_norm_layer": None,
    "norm_layer": None,
    "act_layer": None,
    "block_fn": "Block",
    "mlp_layer": "Mlp",
    "attn_layer": "attn",
}
_BOOLS = tuple(k for k, v in DEFAULTS.items() if isinstance(v, bool))
_DROPS = tuple(k for k in DEFAULTS if k.endswith("drop_rate") or k == "drop_rate")


def _name(value: Any, what: str, names: Mapping[str, str], default: str) -> str:
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


def _norm(value: Any, what: str) -> tuple[str, float]:
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
    name = _name(value, what, _NORMS, "layernorm")
    eps = as_float(eps, f"{what}'s eps")
    if eps < 0:
        raise ValueError(f"{what}'s eps must not be negative, not {eps}")
    return name, eps


def refuse_unknown(names: Iterable[str], known: Collection[str] = DEFAULTS) -> None:
    """TypeError for the first of names that is none of the constructor's options."""
    for name in names:
        if name not in known:
            raise TypeError(
                f"VisionTransformer has no option {name!r}{did_you_mean(name, known)} "
                f"(options: {', '.join(known)})"
            )


def resolve(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The core's options from timm's constructor arguments.

    Unknown arguments and wrong types are TypeErrors, wrong values ValueErrors, each
    naming the argument, what came and what is allowed.
    """
    refuse_unknown(arguments)
    a = {**DEFAULTS, **arguments}
    for name in _BOOLS:
        a[name] = as_bool(a[name], name)
    for name in _DROPS:
        if not 0.0 <= as_float(a[name], name) <= 1.0:
            raise ValueError(f"{name} must be from 0 to 1, not {a[name]}")

    pool = a["global_pool"]
    if not isinstance(pool, str):
        raise TypeError(
            f"global_pool must be a str ({', '.join(map(repr, POOLS))}), "
            f"not {type(pool).__name__}"
        )
    pos_embed = a["pos_embed"]
    if not isinstance(pos_embed, str):
        raise TypeError(
            "pos_embed must be a str ('learn', 'none' or ''), "
            f"not {type(pos_embed).__name__}"
        )
    if pos_embed not in POS_EMBEDS:
        raise ValueError(f"pos_embed must be 'learn', 'none' or '', not {pos_embed!r}")
    fc_norm = a["fc_norm"]
    if fc_norm is None:
        fc_norm = pool in ("avg", "avgmax", "max")
    fc_norm = as_bool(fc_norm, "fc_norm")
    norm, eps = _norm(a["norm_layer"], "norm_layer")
    embed_norm, embed_eps = "identity", 0.0
    if a["embed_norm_layer"] is not None:
        embed_norm, embed_eps = _norm(a["embed_norm_layer"], "embed_norm_layer")
    init_values = a["init_values"]
    if init_values is not None:
        init_values = as_float(init_values, "init_values")
    embed_dim = as_int(a["embed_dim"], "embed_dim", 1)
    mlp_ratio = as_float(a["mlp_ratio"], "mlp_ratio")
    if mlp_ratio <= 0 or mlp_ratio > 1e6:
        raise ValueError(f"mlp_ratio must be above 0, not {mlp_ratio}")
    if embed_dim >= 2**31:
        raise ValueError(
            f"embed_dim must be below 2**31, not about 2**{embed_dim.bit_length()}"
        )
    return {
        "img_size": as_pair(a["img_size"], "img_size"),
        "patch_size": as_pair(a["patch_size"], "patch_size"),
        "in_chans": as_int(a["in_chans"], "in_chans", 1),
        "num_classes": as_int(a["num_classes"], "num_classes"),
        "global_pool": pool,
        "embed_dim": embed_dim,
        "depth": as_int(a["depth"], "depth"),
        "num_heads": as_int(a["num_heads"], "num_heads", 1),
        "mlp_hidden": int(embed_dim * mlp_ratio),
        "reg_tokens": as_int(a["reg_tokens"], "reg_tokens"),
        "block_fn": _name(a["block_fn"], "block_fn", _BLOCKS, "Block"),
        "mlp_layer": _name(a["mlp_layer"], "mlp_layer", _MLPS, "Mlp"),
        "attn_layer": _name(a["attn_layer"], "attn_layer", _ATTNS, "attn"),
        "act_layer": _name(a["act_layer"], "act_layer", _ACTS, "gelu"),
        "norm_layer": norm,
        "norm_eps": eps,
        "embed_norm_layer": embed_norm,
        "embed_norm_eps": embed_eps,
        "has_init_values": init_values is not None,
        "init_values": init_values or 0.0,
        "qkv_bias": a["qkv_bias"],
        "qk_norm": a["qk_norm"],
        "scale_attn_norm": a["scale_attn_norm"],
        "scale_mlp_norm": a["scale_mlp_norm"],
        "proj_bias": a["proj_bias"],
        "class_token": a["class_token"],
        "pos_embed": pos_embed == "learn",
        "no_embed_class": a["no_embed_class"],
        "pre_norm": a["pre_norm"],
        "norm": a["final_norm"] and not fc_norm,
        "fc_norm": a["final_norm"] and fc_norm,
        "pool_include_prefix": a["pool_include_prefix"],
        "dynamic_img_size": a["dynamic_img_size"],
        "dynamic_img_pad": a["dynamic_img_pad"],
    }
