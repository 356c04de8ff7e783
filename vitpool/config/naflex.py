# SPDX-License-Identifier: Apache-2.0
"""NaFlexVit's options, resolved.

timm has most of them in a dataclass, NaFlexVitCfg, whose fields its constructor takes
flat as well. The core has no size of an image here, only the grid of positions: its
img_size is what that grid covers.

Source: timm.models.naflexvit.NaFlexVitCfg, NaFlexVit.__init__ and get_block_fn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

from ..text import did_you_mean
from .checks import as_bool, as_float, as_int, as_pair
from .eva import kv_heads, written_kv_heads
from .family import Family, act_of, core_options, hidden_of, mlp_of, name_of, norm_of
from .names import ATTNS, ActLayer, AttnLayer, BlockFn, MlpLayer, NormLayer, WeightInit
from .vit import BLOCKS_BY_NAME
from .written import mlp_ratio_of, shared_arguments, short, single

NaFlexPool = Literal["", "avg", "avgmax", "max", "token", "map"]

_POOLS = ("", "avg", "avgmax", "max", "token", "map")
_ATTN_TYPES = ("standard", "eva", "rope")
_ROPES = {"": "none", "none": "none", "axial": "cat", "mixed": "mixed"} | {
    "dinov3": "dinov3"
}
_ATTNS: dict[str, str] = {**{name: name for name in ATTNS}, "": "attn"}
_GRID = (16, 16)
#: Rows and columns of a grid of patches, at most.
MOST_SIDE = 1 << 16
# What None stands for.
_PLAIN = (("block_fn", "Block"), ("mlp_layer", "Mlp"), ("attn_layer", "attn"))
# What only a rotary embedding reads, and what only Eva's blocks do.
_ROPE = ("rope_temperature", "rope_grid_offset", "rope_rotate_half")
_EVA = (
    *("num_kv_heads", "rope_type", "rope_ref_feat_shape", "rope_grid_indexing"),
    *("attn_type", "swiglu_mlp", "swiglu_align_to", "qkv_fused"),
    *("attn_only_layer_scale", *_ROPE),
)


@dataclass
class NaFlexVitCfg:
    """timm's NaFlexVitCfg: NaFlexVit's options under timm's names and defaults.

    NaFlexVit(cfg) and NaFlexVit(**options) make the same model; of both, options count
    more. timm's own objects are taken as well.
    """

    patch_size: int | tuple[int, int] = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    scale_mlp_norm: bool = False
    num_kv_heads: int | tuple[int, ...] | None = None
    qkv_bias: bool = True
    qk_norm: bool = False
    proj_bias: bool = True
    attn_drop_rate: float = 0.0
    scale_attn_inner_norm: bool = False
    use_key_only_attn_mask: bool = False
    init_values: float | None = None
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    class_token: bool = False
    reg_tokens: int = 0
    pos_embed: str = "learned"
    pos_embed_grid_size: tuple[int, int] | None = _GRID
    pos_embed_interp_mode: str = "bicubic"
    pos_embed_ar_preserving: bool = False
    pos_embed_antialias: bool = True
    pos_embed_align_corners: bool = False
    pos_embed_use_grid_sample: bool = False
    rope_type: str = ""
    rope_temperature: float = 10000.0
    rope_ref_feat_shape: tuple[int, int] | None = None
    rope_grid_offset: float = 0.0
    rope_grid_indexing: str = "ij"
    rope_rotate_half: bool = False
    rope_shift_coords: float | None = None
    rope_jitter_coords: float | None = None
    rope_rescale_coords: float | None = None
    rope_mrope_section: tuple[int, int, int] | None = None
    dynamic_img_pad: bool = False
    patchify_channels_last: bool = True
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool | None = None
    global_pool: str = "map"
    pool_include_prefix: bool = False
    attn_pool_num_heads: int | None = None
    attn_pool_mlp_ratio: float | None = None
    weight_init: str = ""
    fix_init: bool = True
    embed_proj_type: str = "linear"
    input_norm_layer: str | None = None
    embed_norm_layer: Any = None
    norm_layer: Any = None
    act_layer: str | None = None
    block_fn: str | None = None
    mlp_layer: str | None = None
    attn_layer: str | None = None
    attn_type: str = "standard"
    attn_gated: bool = False
    swiglu_mlp: bool = False
    swiglu_align_to: int = 0
    qkv_fused: bool = True
    attn_only_layer_scale: bool = False
    enable_patch_interpolator: bool = False


class NaFlexOptions(TypedDict, total=False):
    """NaFlexVitCfg's fields, as NaFlexVit takes them flat."""

    patch_size: int | tuple[int, int]
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    scale_mlp_norm: bool
    num_kv_heads: int | tuple[int, ...] | None
    qkv_bias: bool
    qk_norm: bool
    proj_bias: bool
    attn_drop_rate: float
    scale_attn_inner_norm: bool
    use_key_only_attn_mask: bool
    init_values: float | None
    drop_rate: float
    pos_drop_rate: float
    patch_drop_rate: float
    proj_drop_rate: float
    drop_path_rate: float
    class_token: bool
    reg_tokens: int
    pos_embed: Literal["", "none", "learned", "factorized"]
    pos_embed_grid_size: tuple[int, int] | None
    pos_embed_interp_mode: Literal["bicubic", "bilinear"]
    pos_embed_ar_preserving: bool
    pos_embed_antialias: bool
    pos_embed_align_corners: bool
    pos_embed_use_grid_sample: bool
    rope_type: Literal["", "none", "axial", "mixed", "dinov3"]
    rope_temperature: float
    rope_ref_feat_shape: tuple[int, int] | None
    rope_grid_offset: float
    rope_grid_indexing: Literal["ij", "xy"]
    rope_rotate_half: bool
    rope_shift_coords: float | None
    rope_jitter_coords: float | None
    rope_rescale_coords: float | None
    rope_mrope_section: None
    dynamic_img_pad: bool
    patchify_channels_last: bool
    pre_norm: bool
    final_norm: bool
    fc_norm: bool | None
    global_pool: NaFlexPool
    pool_include_prefix: bool
    attn_pool_num_heads: int | None
    attn_pool_mlp_ratio: float | None
    weight_init: WeightInit
    fix_init: bool
    embed_proj_type: Literal["linear", "conv"]
    input_norm_layer: None
    embed_norm_layer: NormLayer | None
    norm_layer: NormLayer | None
    act_layer: ActLayer | None
    block_fn: BlockFn | None
    mlp_layer: MlpLayer | None
    attn_layer: AttnLayer | None
    attn_type: Literal["standard", "eva", "rope"]
    attn_gated: bool
    swiglu_mlp: bool
    swiglu_align_to: int
    qkv_fused: bool
    attn_only_layer_scale: bool
    enable_patch_interpolator: bool


#: timm's constructor defaults: what is no field of the cfg first, as there.
DEFAULTS: dict[str, Any] = {
    "in_chans": 3,
    "num_classes": 1000,
    "img_size": None,
    **{field.name: field.default for field in fields(NaFlexVitCfg)},
}

# What timm has and this has not: option -> (what it must be, why).
_MUST: dict[str, tuple[Any, str]] = {
    "attn_gated": (False, "attention with a sigmoid gate is not computed here"),
    "input_norm_layer": (None, "timm's class does not use it"),
    "rope_mrope_section": (None, "rope_type 'mrope' is not computed here"),
}


def cfg_options(cfg: Any) -> dict[str, Any]:
    """The options in a NaFlexVitCfg, timm's or this one, or in a mapping."""
    if cfg is None:
        return {}
    if isinstance(cfg, Mapping):
        found = dict(cfg)
    elif hasattr(cfg, "__dataclass_fields__") and not isinstance(cfg, type):
        found = {name: getattr(cfg, name) for name in cfg.__dataclass_fields__}
    else:
        raise TypeError(
            f"cfg must be a NaFlexVitCfg or a mapping, not {type(cfg).__name__}"
        )
    known = [field.name for field in fields(NaFlexVitCfg)]
    for name in found:
        if name not in known:
            raise TypeError(f"cfg has no option {name!r}{did_you_mean(name, known)}")
    return found


def resolve(a: dict[str, Any]) -> dict[str, Any]:
    """The core's options."""
    for name, (value, why) in _MUST.items():
        if a[name] != value:
            raise ValueError(f"{name} must be {value!r}, not {a[name]!r}: {why}")
    patch = as_pair(a["patch_size"], "patch_size")
    grid = _grid_of(a, patch)
    pool = _one_of(a["global_pool"], "global_pool", _POOLS)
    pos = _one_of(a["pos_embed"], "pos_embed", ("", "none", "learned", "factorized"))
    fc_norm = a["fc_norm"]
    fc_norm = as_bool(pool == "avg" if fc_norm is None else fc_norm, "fc_norm")
    embed_norm, embed_eps = "identity", 0.0
    if a["embed_norm_layer"] is not None:
        embed_norm, embed_eps = norm_of(a["embed_norm_layer"], "embed_norm_layer")
    linear = _one_of(a["embed_proj_type"], "embed_proj_type", ("linear", "conv"))
    interp = _one_of(
        a["pos_embed_interp_mode"], "pos_embed_interp_mode", ("bicubic", "bilinear")
    )
    size = {"img_size": (grid[0] * patch[0], grid[1] * patch[1])}
    return core_options(
        a | size,
        family="NaFlexVit",
        reg_tokens=as_int(a["reg_tokens"], "reg_tokens"),
        embed_norm_layer=embed_norm,
        embed_norm_eps=embed_eps,
        qk_norm=a["qk_norm"],
        scale_attn_norm=a["scale_attn_inner_norm"],
        scale_mlp_norm=a["scale_mlp_norm"],
        class_token=a["class_token"],
        pos_embed=pos in ("learned", "factorized"),
        no_embed_class=True,
        pre_norm=a["pre_norm"],
        norm=a["final_norm"] and not fc_norm,
        fc_norm=a["final_norm"] and fc_norm,
        pool_include_prefix=a["pool_include_prefix"],
        dynamic_img_size=True,
        dynamic_img_pad=a["dynamic_img_pad"],
        attn_pool_heads=as_int(a["attn_pool_num_heads"] or 0, "attn_pool_num_heads"),
        attn_pool_hidden=_pool_hidden(a),
        embed_linear=linear == "linear",
        patchify_channels_last=a["patchify_channels_last"],
        patch_interpolator=a["enable_patch_interpolator"],
        pos_kind="factorized" if pos == "factorized" else "learned",
        pos_interp=interp,
        pos_ar_preserving=a["pos_embed_ar_preserving"],
        pos_antialias=a["pos_embed_antialias"],
        pos_align_corners=a["pos_embed_align_corners"],
        pos_grid_sample=a["pos_embed_use_grid_sample"],
        **_blocks(a),
    )


def _blocks(a: dict[str, Any]) -> dict[str, Any]:
    """The core's options of the blocks: ViT's or, for what only those have, Eva's."""
    rope = name_of(a["rope_type"], "rope_type", _ROPES, "none")
    kind = _one_of(a["attn_type"], "attn_type", _ATTN_TYPES)
    only = a["attn_only_layer_scale"]
    if kind == "standard" and rope != "none":
        kind = "rope"
    act = act_of(a["act_layer"], "act_layer")
    swiglu, align = a["swiglu_mlp"], as_int(a["swiglu_align_to"], "swiglu_align_to")
    if not (kind != "standard" or swiglu or only or a["num_kv_heads"] is not None):
        return {
            "block_fn": name_of(a["block_fn"], "block_fn", BLOCKS_BY_NAME, "Block"),
            "mlp_layer": mlp_of(a["mlp_layer"], "mlp_layer"),
            "attn_layer": name_of(a["attn_layer"], "attn_layer", _ATTNS, "attn"),
            "act_layer": act,
            "proj_bias": a["proj_bias"],
        }
    why = "options of Eva's blocks (rope, attn_type, swiglu_mlp, ...) are given"
    for name in ("block_fn", "mlp_layer", "attn_layer"):
        if a[name] not in (None, ""):
            raise ValueError(f"{name} must be None, not {a[name]!r}: {why}")
    if not a["proj_bias"]:
        raise ValueError(f"proj_bias must be True, not False: {why}")
    fused = a["qkv_fused"]
    hidden = hidden_of(a, "mlp_ratio")
    mlp, acts = "Mlp", {"act_layer": act}
    if swiglu:
        acts = {"act_layer": "silu", "attn_pool_act": act}
        separate = a["scale_mlp_norm"] or align > 0
        mlp = "SwiGLU" if separate else "SwiGLUPacked"
        hidden = hidden + (-hidden % align if align else 0) if separate else 2 * hidden
    return {
        "block_fn": "EvaBlock",
        "mlp_layer": mlp,
        "mlp_hidden": hidden,
        "qkv_split": not fused,
        "q_v_bias": kind != "rope",
        "attn_only_layer_scale": only,
        **kv_heads(a | {"attn_type": kind}),
        **acts,
        **_rope(a, rope),
    }


def _pool_hidden(a: dict[str, Any]) -> int:
    """Width of the attention pool's MLP; 0: mlp_hidden, which a gated MLP doubles."""
    if a["attn_pool_mlp_ratio"]:
        return hidden_of(a, "attn_pool_mlp_ratio")
    return hidden_of(a, "mlp_ratio") if a["swiglu_mlp"] else 0


def _rope(a: dict[str, Any], rope: str) -> dict[str, Any]:
    """The core's options of the rotary embedding."""
    if rope == "none":
        return {}
    half = a["rope_rotate_half"]
    if rope == "mixed" and half:
        raise ValueError("rope_rotate_half must be False with rope_type 'mixed'")
    ref = a["rope_ref_feat_shape"]
    indexing = _one_of(a["rope_grid_indexing"], "rope_grid_indexing", ("ij", "xy"))
    return {
        "rope": rope,
        "rope_rotate_half": half,
        "rope_xy": indexing == "xy",
        "rope_temperature": as_float(a["rope_temperature"], "rope_temperature"),
        "rope_grid_offset": as_float(a["rope_grid_offset"], "rope_grid_offset"),
        "rope_ref": (0, 0) if ref is None else as_pair(ref, "rope_ref_feat_shape"),
    }


def _grid_of(a: Mapping[str, Any], patch: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the positions' grid."""
    if a["pos_embed_grid_size"] is not None:
        grid = as_pair(a["pos_embed_grid_size"], "pos_embed_grid_size")
        if max(grid) > MOST_SIDE:
            raise ValueError(
                f"pos_embed_grid_size must be at most {MOST_SIDE}, not {max(grid)}"
            )
        return grid
    if a["img_size"] is None:
        if a["pos_embed"] in ("", "none"):
            return _GRID
        raise ValueError("pos_embed_grid_size or img_size must be given for positions")
    height, width = as_pair(a["img_size"], "img_size")
    if height < patch[0] or width < patch[1]:
        raise ValueError(
            f"img_size {(height, width)} must be at least patch_size {patch}"
        )
    return height // patch[0], width // patch[1]


def _one_of(value: Any, what: str, names: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(
            f"{what} must be a str ({', '.join(map(repr, names))}), "
            f"not {type(value).__name__}"
        )
    if value not in names:
        raise ValueError(
            f"{what} must be one of {', '.join(map(repr, names))}, not {value!r}"
        )
    return value


def arguments(o: Mapping[str, Any]) -> dict[str, Any]:
    """All options that tell something of a model."""
    embed_norm: Any = None
    if o["embed_norm_layer"] != "identity":
        embed_norm = (o["embed_norm_layer"], short(o["embed_norm_eps"]))
    patch, size = o["patch_size"], o["img_size"]
    heads = o["attn_pool_heads"]
    ratio, gated = None, o["mlp_layer"] == "SwiGLUPacked"
    if o["attn_pool_hidden"] not in (0, o["mlp_hidden"] // (2 if gated else 1)):
        ratio = mlp_ratio_of(o["attn_pool_hidden"], o["embed_dim"])
    known = {
        **o,
        **shared_arguments(o),
        "img_size": None,  # the grid tells more
        "patch_size": single(patch),
        "scale_attn_inner_norm": o["scale_attn_norm"],
        "pos_embed": o["pos_kind"] if o["pos_embed"] else "none",
        "pos_embed_grid_size": (size[0] // patch[0], size[1] // patch[1]),
        "pos_embed_interp_mode": o["pos_interp"],
        "pos_embed_ar_preserving": o["pos_ar_preserving"],
        "pos_embed_antialias": o["pos_antialias"],
        "pos_embed_align_corners": o["pos_align_corners"],
        "pos_embed_use_grid_sample": o["pos_grid_sample"],
        "final_norm": o["norm"] or o["fc_norm"],
        "attn_pool_num_heads": None if heads in (0, o["num_heads"]) else heads,
        "attn_pool_mlp_ratio": ratio,
        "embed_proj_type": "linear" if o["embed_linear"] else "conv",
        "embed_norm_layer": embed_norm,
        **{name: None if o[name] == value else o[name] for name, value in _PLAIN},
        "enable_patch_interpolator": o["patch_interpolator"],
        **{name: DEFAULTS[name] for name in _EVA},
        **(_eva_arguments(o) if o["block_fn"] == "EvaBlock" else {}),
    }
    return {name: known[name] for name in DEFAULTS if name in known}


def _eva_arguments(o: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options those that Eva's blocks follow from."""
    swiglu, packed = o["mlp_layer"] != "Mlp", o["mlp_layer"] == "SwiGLUPacked"
    hidden = o["mlp_hidden"] // (2 if packed else 1)
    ref, roped = o["rope_ref"], o["rope"] != "none"
    ropes = {core: name for name, core in _ROPES.items()}
    return {
        "mlp_ratio": mlp_ratio_of(hidden, o["embed_dim"]),
        **{name: None for name, _ in _PLAIN},
        "act_layer": o["attn_pool_act"] if swiglu else o["act_layer"],
        "attn_type": "eva" if o["q_v_bias"] else "rope",
        "swiglu_mlp": swiglu,
        # the width is aligned already: this asks for the separate layers alone
        "swiglu_align_to": int(swiglu and not packed and not o["scale_mlp_norm"]),
        "qkv_fused": not o["qkv_split"],
        "num_kv_heads": written_kv_heads(o),
        "attn_only_layer_scale": o["attn_only_layer_scale"],
        "rope_type": ropes[o["rope"]],
        "rope_grid_indexing": "xy" if o["rope_xy"] else "ij",
        "rope_ref_feat_shape": None if ref == (0, 0) else ref,
        **({name: o[name] for name in _ROPE} if roped else {}),
    }


def implied(full: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's default of None stands for."""
    return {
        "fc_norm": full["final_norm"] and full["global_pool"] == "avg",
        "norm_layer": ("layernorm", 1e-6),
        "act_layer": "gelu",
    }


FAMILY = Family(DEFAULTS, resolve, arguments, implied)
