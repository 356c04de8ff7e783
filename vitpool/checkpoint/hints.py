# SPDX-License-Identifier: Apache-2.0
"""In which of its class's options weights differ from a model, as far as keys tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..config import defaults_of
from .lazy import Shape
from .spec import PATCH, Spec

# What the classes call the options of VisionTransformer; those that a class does not
# have in either name are not told.
_NAMES = {
    "Eva": {
        "reg_tokens": "num_reg_tokens",
        "pre_norm": "use_pre_transformer_norm",
        "scale_attn_norm": "scale_attn_inner",
        "scale_mlp_norm": "scale_mlp",
    },
    "Beit": {"scale_mlp_norm": "scale_mlp"},
    "NaFlexVit": {"scale_attn_norm": "scale_attn_inner_norm"},
}
# What timm's constructors have not, and ours have for what is made of a model.
_ALSO = frozenset({"final_norm"})


def what_would_fit(stored: Mapping[str, Shape], spec: Spec) -> list[str]:
    """The options, as 'name=value', in which the weights differ from the model."""
    seen = _seen_options(stored, spec.family)
    # What the model has, by the same reading of its own keys.
    own = _seen_options(spec.shapes, spec.family)
    return [
        f"{name}={value!r}"
        for name, value in seen.items()
        if name in own and value != own[name]
    ]


def _seen_options(shapes: Mapping[str, Shape], family: str) -> dict[str, Any]:
    """The options that keys and shapes tell, under the names of a class."""
    before = re.compile(r"^embeds\.(?=cls_token$|reg_token$|pos_embed)")
    named = {before.sub("", key): shape for key, shape in shapes.items()}
    named = {re.sub(r"^embeds\.", "patch_embed.", k): s for k, s in named.items()}
    blocks = [key.split(".", 2)[1:] for key in named if key.startswith("blocks.")]
    inside = {rest[1] for rest in blocks if len(rest) == 2}
    options = _around(named)
    if blocks:
        options["depth"] = len({rest[0] for rest in blocks})
        options.update(_in_block(named, inside, options.get("embed_dim", 0)))
        options.update(_of_class(named, inside, family))
    names, known = _NAMES.get(family, {}), defaults_of(family)
    renamed = {names.get(name, name): value for name, value in options.items()}
    return {k: v for k, v in renamed.items() if k in known or k in _ALSO}


def _around(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """What stands before and behind the blocks."""
    options: dict[str, Any] = {}
    patch = shapes.get(PATCH, ())
    if len(patch) in (2, 4) and patch[0]:
        options["embed_dim"] = patch[0]
    options["num_classes"] = (shapes.get("head.weight") or (0,))[0]
    options["class_token"] = "cls_token" in shapes
    registers = shapes.get("reg_token", ())
    options["reg_tokens"] = registers[1] if len(registers) == 3 else 0
    options["pre_norm"] = "norm_pre.weight" in shapes
    options["global_pool"] = "map" if "attn_pool.latent" in shapes else "not map"
    options["final_norm"] = "norm.weight" in shapes or "fc_norm.weight" in shapes
    options["embed_norm_layer"] = "patch_embed.norm.weight" in shapes
    options["norm_layer"] = _norm_layer(shapes)
    if "pos_embed" not in shapes:
        options["pos_embed"] = "none"
    options["use_abs_pos_emb"] = "pos_embed" in shapes
    positions = shapes.get("pos_embed", ())
    prefix = int(options["class_token"]) + options["reg_tokens"]
    prefix += int("dist_token" in shapes)
    if len(positions) == 3 and 0 < prefix < positions[1]:
        # A square grid with or without them; a grid of another form tells nothing.
        square = [
            math.isqrt(n) ** 2 == n for n in (positions[1], positions[1] - prefix)
        ]
        if square[0] != square[1]:
            options["no_embed_class"] = square[0]
    return options


def _in_block(
    shapes: Mapping[str, Shape], inside: set[str], width: int
) -> dict[str, Any]:
    """What a block's keys tell, of every class."""
    options: dict[str, Any] = {}
    if any(name.startswith("attns.") for name in inside):
        return {"block_fn": "ParallelThingsBlock"}
    if "in_proj.weight" in inside:
        diff = "Diff" if "sub_norm.weight" in inside else ""
        return {"block_fn": f"{diff}ParallelScalingBlock"}
    options["block_fn"] = "Block or ResPostBlock"
    options["attn_layer"] = "diff" if "attn.sub_norm.weight" in inside else "attn"
    biases = ("attn.qkv.bias", "attn.q_bias", "attn.q_proj.bias")
    options["qkv_bias"] = any(name in inside for name in biases)
    options["qk_norm"] = "attn.q_norm.weight" in inside
    options["scale_attn_norm"] = "attn.norm.weight" in inside
    options["scale_mlp_norm"] = "mlp.norm.weight" in inside
    scaled = "ls1.gamma" in inside or "gamma_1" in inside
    options["init_values"] = "set" if scaled else None
    options.update(_mlp_options(shapes, width))
    return options


def _of_class(
    shapes: Mapping[str, Shape], inside: set[str], family: str
) -> dict[str, Any]:
    """What only some classes have options for."""
    options: dict[str, Any] = {}
    if family == "VisionTransformerRelPos":
        options["block_fn"] = "RelPosBlock or ResPostRelPosBlock"
        table = any(key.endswith("_bias_table") for key in shapes)
        options["rel_pos_type"] = "bias" if table else "mlp"
        options["shared_rel_pos"] = any(
            key.startswith("shared_rel_pos.") for key in shapes
        )
    if family == "Beit":
        options["use_rel_pos_bias"] = "attn.relative_position_bias_table" in inside
        options["use_shared_rel_pos_bias"] = any(
            key.startswith("rel_pos_bias.") for key in shapes
        )
    if family == "Eva":
        options["qkv_fused"] = "attn.q_proj.weight" not in inside
        ks = "attn.qkv.bias" in inside or "attn.k_proj.bias" in inside
        if ks or "attn.q_bias" in inside or "attn.q_proj.bias" in inside:
            options["attn_type"] = "rope" if ks else "eva"
        options["rope_type"] = "mixed" if "rope.freqs" in shapes else "not mixed"
    if family in ("Eva", "Beit"):
        name, first, second = _widths(shapes)
        options["swiglu_mlp"] = name == "fc1_g" or first != second
        if width := (shapes.get(PATCH) or (0,))[0]:
            # Of these the ratio is that of the half that is kept.
            options["mlp_ratio"] = round(second / width, 6)
    return options


def _norm_layer(shapes: Mapping[str, Shape]) -> str:
    for key in shapes:
        if key.endswith(("norm1.weight", "in_norm.weight", ".0.norm.weight")):
            biased = key.replace(".weight", ".bias") in shapes
            return "layernorm" if biased else "rmsnorm"
    return "layernorm"


def _widths(shapes: Mapping[str, Shape]) -> tuple[str, int, int]:
    """The first layer's name in the first block's MLP, its width and the second's."""
    for name in ("fc1", "fc1_g"):
        first = shapes.get(f"blocks.0.mlp.{name}.weight", ())
        second = shapes.get("blocks.0.mlp.fc2.weight", ())
        if len(first) == len(second) == 2:
            return name, first[0], second[1]
    return "", 0, 0


def _mlp_options(shapes: Mapping[str, Shape], width: int) -> dict[str, Any]:
    """The MLP's kind and ratio, from the first block."""
    name, first, second = _widths(shapes)
    if not (name and width):
        return {}
    layer = "SwiGLU" if name == "fc1_g" else "GluMlp or SwiGLUPacked"
    kind = layer if name == "fc1_g" or first != second else "Mlp"
    return {"mlp_layer": kind, "mlp_ratio": round(first / width, 6)}
