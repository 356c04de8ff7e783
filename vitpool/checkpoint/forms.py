# SPDX-License-Identifier: Apache-2.0
"""Which keys the models of each class can have, and whose keys a file has."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

from .._core import param_shapes
from ..config import resolve

_SMALL = {"embed_dim": 8, "num_heads": 2, "depth": 1, "img_size": 16}
_SCALED = {"init_values": 1.0, "qk_norm": True}
_VIT: tuple[dict[str, Any], ...] = (
    {"pre_norm": True, "embed_norm_layer": "layernorm", "scale_attn_norm": True}
    | {"scale_mlp_norm": True}
    | _SCALED,
    {"attn_layer": "diff", "mlp_layer": "SwiGLU"},
    {"block_fn": "ParallelScalingBlock", "qkv_bias": True} | _SCALED,
    {"block_fn": "ParallelScalingBlock", "qkv_bias": False},
    {"block_fn": "DiffParallelScalingBlock", "init_values": 1.0},
    {"block_fn": "ParallelThingsBlock", "init_values": 1.0},
    {"embed_layer": "ConvStem"},
)
_ROPE = {"attn_type": "rope", "use_rot_pos_emb": True}
# Options of small models of each class, which together have all its keys.
_MODELS: dict[str, tuple[dict[str, Any], ...]] = {
    "VisionTransformer": (
        *_VIT,
        {"reg_tokens": 1, "global_pool": "map"},
        {"global_pool": "avg", "embed_layer": "ConvStem"},
    ),
    "VisionTransformerDistilled": _VIT,
    "Eva": (
        {"scale_attn_inner": True, "swiglu_mlp": True, "scale_mlp": True} | _SCALED,
        {"use_rot_pos_emb": True, "rope_type": "mixed", "num_reg_tokens": 1},
        {"use_pre_transformer_norm": True, "global_pool": "map"},
        _ROPE | _SCALED,
        _ROPE | {"qkv_fused": False},
    ),
    "Beit": (
        {"use_rel_pos_bias": True, "use_shared_rel_pos_bias": True, "init_values": 1.0},
        {"swiglu_mlp": True, "scale_mlp": True, "global_pool": "token"},
    ),
    "VisionTransformerRelPos": (
        {"rel_pos_type": "mlp", "class_token": True} | _SCALED,
        {"rel_pos_type": "bias", "fc_norm": True},
        {"rel_pos_type": "mlp", "shared_rel_pos": True},
        {"rel_pos_type": "bias", "shared_rel_pos": True},
    ),
}
CLASSES = (*_MODELS, "NaFlexVit")


def form_of(key: str) -> str:
    """A key without the number of its block."""
    return re.sub(r"^blocks\.\d+\.", "blocks.0.", key)


@functools.cache
def known_forms(family: str = "VisionTransformer") -> frozenset[str]:
    """The keys of models that together have all that timm's class can have."""
    if family == "NaFlexVit":
        # Blocks of both kinds; what comes before them lies in `embeds`, and comes in
        # other files, or while they are converted, under VisionTransformer's names.
        both = known_forms() | known_forms("Eva") | {"pos_embed_x", "pos_embed_y"}
        in_front = r"^(patch_embed\.|(?=(cls_token|reg_token|pos_embed)))"
        return both | {re.sub(in_front, "embeds.", key) for key in both}
    every = (resolve(_SMALL | options, family) for options in _MODELS[family])
    return frozenset(form_of(key) for options in every for key in param_shapes(options))


def other_classes(keys: Iterable[str], family: str) -> tuple[str, list[str]]:
    """A key that no model of a class has, and the classes that have more of the keys.

    These have all keys that the class has, and others beside; ('', []) where there are
    none.
    """
    forms = {form_of(key): key for key in keys}
    own = forms.keys() - known_forms(family)
    if not own:
        return "", []
    unknown = {name: forms.keys() - known_forms(name) for name in CLASSES}
    better = {name: left for name, left in unknown.items() if left < own}
    if not better:
        return "", []
    fewest = min(map(len, better.values()))
    best = [name for name, left in better.items() if len(left) == fewest]
    # Not the class that has all keys of another of them, and more.
    names = [n for n in best if not any(known_forms(o) < known_forms(n) for o in best)]
    foreign = next(form for form in forms if form in own - better[names[0]])
    return forms[foreign], names
