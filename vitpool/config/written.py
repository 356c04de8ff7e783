# SPDX-License-Identifier: Apache-2.0
"""The core's numbers as someone would write them in a constructor."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any


def shared_arguments(o: Mapping[str, Any]) -> dict[str, Any]:
    """Of the core's options those that every class has an argument for, written so."""
    return {
        "img_size": single(o["img_size"]),
        "patch_size": single(o["patch_size"]),
        "in_chans": o["in_chans"],
        "num_classes": o["num_classes"],
        "global_pool": o["global_pool"],
        "embed_dim": o["embed_dim"],
        "depth": o["depth"],
        "num_heads": o["num_heads"],
        "mlp_ratio": mlp_ratio_of(o["mlp_hidden"], o["embed_dim"]),
        "qkv_bias": o["qkv_bias"],
        "init_values": short(o["init_values"]) if o["has_init_values"] else None,
        "norm_layer": (o["norm_layer"], short(o["norm_eps"])),
    }


def mlp_ratio_of(hidden: int, embed_dim: int) -> float:
    """The mlp_ratio for which int(embed_dim * mlp_ratio) is `hidden`."""
    ratio = hidden / embed_dim
    if int(embed_dim * ratio) < hidden:  # the division rounded down
        ratio = math.nextafter(ratio, math.inf)
    return ratio


def single(pair: tuple[int, int]) -> int | tuple[int, int]:
    """One number for a pair of equal ones."""
    return pair[0] if pair[0] == pair[1] else pair


def short(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06."""
    for digits in range(1, 10):
        brief = float(f"{value:.{digits}g}")
        if _float32(brief) == _float32(value):
            return brief
    return value


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])
