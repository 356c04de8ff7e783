# SPDX-License-Identifier: Apache-2.0
"""Eva's options, resolved. Source: timm.models.eva.Eva.__init__."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .checks import as_bool, as_float, as_int, as_pair, plain
from .family import Family, core_options, hidden_of, name_of
from .names import EVA_ATTNS, ROPE_INDEXINGS, ROPES
from .written import mlp_ratio_of, shared_arguments, short, single

#: timm's constructor defaults; rates of dropout and the three of rope's coordinates do
#: nothing at inference.
DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "in_chans": 3,
    "num_classes": 1000,
    "global_pool": "avg",
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "num_kv_heads": None,
    "qkv_bias": True,
    "qkv_fused": True,
    "qk_norm": False,
    "mlp_ratio": 4.0,
    "swiglu_mlp": False,
    "swiglu_align_to": 0,
    "scale_mlp": False,
    "scale_attn_inner": False,
    "attn_type": "eva",
    "drop_rate": 0.0,
    "pos_drop_rate": 0.0,
    "patch_drop_rate": 0.0,
    "proj_drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "norm_layer": None,
    "init_values": None,
    "attn_only_layer_scale": False,
    "class_token": True,
    "num_reg_tokens": 0,
    "no_embed_class": False,
    "use_abs_pos_emb": True,
    "use_rot_pos_emb": False,
    "rope_type": "cat",
    "rope_grid_offset": 0.0,
    "rope_grid_indexing": "ij",
    "rope_temperature": 10000.0,
    "rope_rotate_half": False,
    "rope_shift_coords": None,
    "rope_jitter_coords": None,
    "rope_rescale_coords": None,
    "rope_mrope_section": None,
    "use_post_norm": False,
    "use_pre_transformer_norm": False,
    "use_post_transformer_norm": None,
    "use_fc_norm": None,
    "attn_pool_num_heads": None,
    "attn_pool_mlp_ratio": None,
    "dynamic_img_size": False,
    "dynamic_img_pad": False,
    "ref_feat_shape": None,
    "head_init_scale": 0.001,
}
_ATTNS: dict[str, str] = {name: name for name in EVA_ATTNS}
_ROPES: dict[str, str] = {name: name for name in ROPES}
_INDEXINGS: dict[str, str] = {name: name for name in ROPE_INDEXINGS}


def resolve(a: dict[str, Any]) -> dict[str, Any]:
    """The core's options."""
    norm, fc_norm = _norms(a)
    mlp, hidden = _mlp(a)
    block = _block(a)
    scale = a["head_init_scale"]
    return core_options(
        a,
        family="Eva",
        block_fn=block,
        mlp_layer=mlp,
        mlp_hidden=hidden,
        act_layer="silu" if a["swiglu_mlp"] else "gelu",
        qk_norm=a["qk_norm"],
        scale_attn_norm=a["scale_attn_inner"],
        scale_mlp_norm=a["scale_mlp"],
        class_token=a["class_token"],
        reg_tokens=as_int(a["num_reg_tokens"], "num_reg_tokens"),
        pos_embed=a["use_abs_pos_emb"],
        no_embed_class=a["no_embed_class"],
        pre_norm=a["use_pre_transformer_norm"],
        norm=norm,
        fc_norm=fc_norm,
        dynamic_img_size=a["dynamic_img_size"],
        dynamic_img_pad=a["dynamic_img_pad"],
        qkv_split=not a["qkv_fused"],
        q_v_bias=name_of(a["attn_type"], "attn_type", _ATTNS, "eva") == "eva",
        attn_only_layer_scale=a["attn_only_layer_scale"],
        head_init_scale=0.0 if scale is None else as_float(scale, "head_init_scale"),
        **kv_heads(a),
        **_rope(a),
        **_attn_pool(a),
    )


def _norms(a: Mapping[str, Any]) -> tuple[bool, bool]:
    """Is there a norm before, and after the pool?"""
    fc_norm, norm = a["use_fc_norm"], a["use_post_transformer_norm"]
    if fc_norm is None:
        fc_norm = a["global_pool"] == "avg"
    fc_norm = as_bool(fc_norm, "use_fc_norm")
    if norm is None:
        norm = not fc_norm
    return as_bool(norm, "use_post_transformer_norm"), fc_norm


def _mlp(a: Mapping[str, Any]) -> tuple[str, int]:
    """The MLP's kind, and the width of what its fc1 gives."""
    hidden = hidden_of(a, "mlp_ratio")
    align = as_int(a["swiglu_align_to"], "swiglu_align_to")
    if not a["swiglu_mlp"]:
        return "Mlp", hidden
    # EvaBlockPostNorm asks for the norm alone.
    if a["scale_mlp"] or (align and not a["use_post_norm"]):
        return "SwiGLU", hidden + (-hidden % align if align else 0)
    return "SwiGLUPacked", 2 * hidden


def _block(a: Mapping[str, Any]) -> str:
    if not a["use_post_norm"]:
        return "EvaBlock"
    for name in ("qk_norm", "attn_only_layer_scale", "num_kv_heads"):
        value = plain(a[name])
        alone = isinstance(value, (tuple, list)) and all(n is None for n in value)
        if value and not alone:
            raise ValueError(
                f"{name} goes with use_post_norm=False alone, not {a[name]!r}"
            )
    return "EvaBlockPostNorm"


def kv_heads(a: Mapping[str, Any]) -> dict[str, int]:
    """Key and value heads: their number, and in how many blocks at each end there are
    as many as query heads."""
    value, heads = plain(a["num_kv_heads"]), as_int(a["num_heads"], "num_heads", 1)
    depth = as_int(a["depth"], "depth")
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != depth:
            raise ValueError(
                f"num_kv_heads must be one number or {depth}, one for each block, "
                f"not {len(value)}"
            )
        each = [_kv(n, heads) for n in value]
    else:
        each = [_kv(value, heads)] * depth
    few = [i for i, n in enumerate(each) if n != heads]
    if not few:
        return {}
    first, last = few[0], few[-1]
    kv, between = each[first], each[first : last + 1]
    if any(n != kv for n in between):
        raise ValueError(
            "num_kv_heads must be one number, in all blocks or all but some of the "
            f"first and the last, which have num_heads ({heads}), not {value!r}"
        )
    for name, needed in (("attn_type", "rope"), ("qkv_fused", False)):
        if a[name] != needed:
            raise ValueError(f"num_kv_heads needs {name}={needed!r}, not {a[name]!r}")
    return {
        "num_kv_heads": kv,
        "num_full_attn_blocks": first,
        "num_full_attn_last": depth - 1 - last,
    }


def _kv(value: Any, heads: int) -> int:
    if value is None:
        return heads
    number = as_int(value, "num_kv_heads", 1)
    if heads % number:
        raise ValueError(
            f"num_kv_heads must be a divisor of num_heads, {heads}, not {number}"
        )
    return number


def _rope(a: Mapping[str, Any]) -> dict[str, Any]:
    """What rotary embedding there is. Those options that timm's class leaves unread are
    checked, and left out."""
    if a["rope_mrope_section"] is not None:
        raise ValueError(
            "rope_mrope_section must be None: rope_type='mrope', which is for tokens "
            f"of text as well, is not here; not {a['rope_mrope_section']!r}"
        )
    kind = name_of(a["rope_type"], "rope_type", _ROPES, "cat")
    indexing = name_of(a["rope_grid_indexing"], "rope_grid_indexing", _INDEXINGS, "ij")
    offset = as_float(a["rope_grid_offset"], "rope_grid_offset")
    temperature = as_float(a["rope_temperature"], "rope_temperature")
    if temperature <= 0:
        raise ValueError(f"rope_temperature must be above 0, not {temperature}")
    ref = a["ref_feat_shape"]
    pair = (0, 0) if ref is None else as_pair(ref, "ref_feat_shape")
    half = a["rope_rotate_half"]
    if not a["use_rot_pos_emb"]:
        return {}
    if kind == "mixed" and half:
        raise ValueError("rope_rotate_half must be False with rope_type='mixed'")
    return {
        "rope": kind,
        "rope_rotate_half": half,
        "rope_xy": indexing == "xy",
        "rope_temperature": temperature,
        "rope_grid_offset": 0.0 if kind == "mixed" else offset,
        "rope_ref": pair if kind == "cat" else (0, 0),
    }


def _attn_pool(a: Mapping[str, Any]) -> dict[str, Any]:
    """The pool 'map', which a model may have."""
    heads, ratio = a["attn_pool_num_heads"], a["attn_pool_mlp_ratio"]
    if heads is None or heads == 0:
        heads = a["num_heads"]
    own = ratio is not None and ratio != 0
    return {
        "attn_pool_heads": as_int(heads, "attn_pool_num_heads", 1),
        "attn_pool_hidden": hidden_of(a, "attn_pool_mlp_ratio" if own else "mlp_ratio"),
        "attn_pool_act": "gelu",
    }


def arguments(o: Mapping[str, Any]) -> dict[str, Any]:
    """All options that tell something of a model."""
    width, hidden = o["embed_dim"], o["mlp_hidden"]
    kind, align = o["mlp_layer"], 0
    if kind == "SwiGLUPacked":
        hidden //= 2
    elif kind == "SwiGLU" and not o["scale_mlp_norm"]:
        align = 1 if hidden % 8 else 8  # any that leaves hidden as it is
    roped = o["rope"] != "none"
    known = {
        **o,
        **shared_arguments(o),
        "num_kv_heads": written_kv_heads(o),
        "qkv_fused": not o["qkv_split"],
        "mlp_ratio": mlp_ratio_of(hidden, width),
        "swiglu_mlp": kind != "Mlp",
        "swiglu_align_to": align,
        "scale_mlp": o["scale_mlp_norm"],
        "scale_attn_inner": o["scale_attn_norm"],
        "attn_type": "eva" if o["q_v_bias"] else "rope",
        "num_reg_tokens": o["reg_tokens"],
        "use_abs_pos_emb": o["pos_embed"],
        "use_rot_pos_emb": roped,
        "use_post_norm": o["block_fn"] == "EvaBlockPostNorm",
        "use_pre_transformer_norm": o["pre_norm"],
        "use_post_transformer_norm": o["norm"],
        "use_fc_norm": o["fc_norm"],
        "attn_pool_num_heads": o["attn_pool_heads"],
        "attn_pool_mlp_ratio": mlp_ratio_of(o["attn_pool_hidden"], width),
        "head_init_scale": short(o["head_init_scale"]),
        "rope_type": o["rope"] if roped else "cat",
        "rope_grid_offset": short(o["rope_grid_offset"]),
        "rope_grid_indexing": "xy" if o["rope_xy"] else "ij",
        "rope_temperature": short(o["rope_temperature"]) if roped else 10000.0,
        "ref_feat_shape": single(o["rope_ref"]) if any(o["rope_ref"]) else None,
    }
    return {name: known[name] for name in DEFAULTS if name in known}


def written_kv_heads(o: Mapping[str, Any]) -> int | tuple[int | None, ...] | None:
    """num_kv_heads: one number, or one for each block."""
    if not o["num_kv_heads"]:
        return None
    kv, first, last = (
        o["num_kv_heads"],
        o["num_full_attn_blocks"],
        o["num_full_attn_last"],
    )
    if not first and not last:
        return int(kv)
    between = o["depth"] - first - last
    return (*[None] * first, *[int(kv)] * between, *[None] * last)


def implied(full: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's default of None stands for."""
    return {
        "norm_layer": ("layernorm", 1e-6),
        "use_fc_norm": full["global_pool"] == "avg",
        "use_post_transformer_norm": not full["use_fc_norm"],
        "attn_pool_num_heads": full["num_heads"],
        "attn_pool_mlp_ratio": full["mlp_ratio"],
    }


FAMILY = Family(DEFAULTS, resolve, arguments, implied)
