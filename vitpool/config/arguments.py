# SPDX-License-Identifier: Apache-2.0
"""timm's constructor arguments from the core's options."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

from .options import DEFAULTS


def all_arguments_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments that give these options, nothing left to a default.

    Those that tell nothing of a finished model (drop rates, how fresh weights are made)
    are left out.
    """
    o = options
    embed_norm: Any = None
    if o["embed_norm_layer"] != "identity":
        embed_norm = (o["embed_norm_layer"], _short(o["embed_norm_eps"]))
    arguments = {
        **o,
        "img_size": _single(o["img_size"]),
        "patch_size": _single(o["patch_size"]),
        "mlp_ratio": mlp_ratio_of(o["mlp_hidden"], o["embed_dim"]),
        "init_values": _short(o["init_values"]) if o["has_init_values"] else None,
        "pos_embed": "learn" if o["pos_embed"] else "none",
        "final_norm": o["norm"] or o["fc_norm"],
        "embed_norm_layer": embed_norm,
        "norm_layer": (o["norm_layer"], _short(o["norm_eps"])),
    }
    return {name: arguments[name] for name in DEFAULTS if name in arguments}


def arguments_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments that give these options, without those at default."""
    full = all_arguments_of(options)
    # For these three timm's default is None, which stands for this.
    default = {
        **DEFAULTS,
        "fc_norm": full["final_norm"]
        and full["global_pool"] in ("avg", "avgmax", "max"),
        "norm_layer": ("layernorm", 1e-6),
        "act_layer": "gelu",
    }
    return {name: value for name, value in full.items() if value != default[name]}


def mlp_ratio_of(hidden: int, embed_dim: int) -> float:
    """The mlp_ratio for which int(embed_dim * mlp_ratio) is `hidden`."""
    ratio = hidden / embed_dim
    if int(embed_dim * ratio) < hidden:  # the division rounded down
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def _single(pair: tuple[int, int]) -> int | tuple[int, int]:
    return pair[0] if pair[0] == pair[1] else pair


def _short(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if _float32(short) == _float32(value):
            return short
    return value


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])
