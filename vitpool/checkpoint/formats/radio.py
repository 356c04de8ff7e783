# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's C-RADIO: the backbone, without its input conditioner and its adaptors."""

from __future__ import annotations

from math import isqrt

import numpy as np

from ...resample import resample_abs_pos_embed
from ..lazy import Array, LazyTensor, zeros
from ..spec import Spec

_PREFIX = "radio_model.model."
_PATCHES = "patch_generator.embedder.weight"


def matches(tensors: dict[str, LazyTensor]) -> bool:
    """Whether the keys are of this layout."""
    return f"{_PREFIX}{_PATCHES}" in tensors


def convert(tensors: dict[str, LazyTensor], spec: Spec) -> dict[str, LazyTensor]:
    """The tensors under timm's keys."""
    out = {}
    for key, tensor in tensors.items():
        if not key.startswith(_PREFIX):
            continue
        key = key[len(_PREFIX) :]
        if key == _PATCHES:
            # A linear layer on flat (3, p, p) patches, without a bias.
            width, inputs = tensor.shape
            side = isqrt(inputs // 3)
            out["patch_embed.proj.weight"] = tensor.reshape(width, 3, side, side)
            out["patch_embed.proj.bias"] = zeros(width)
        elif key == "patch_generator.pos_embed":
            out["pos_embed"] = _positions(tensor, spec)
        elif key == "patch_generator.cls_token.token":
            # A class token for each teacher, then registers: the first is ours.
            tokens, width = tensor.shape
            out["cls_token"] = tensor[:1].reshape(1, 1, width)
            out["reg_token"] = tensor[1:].reshape(1, tokens - 1, width)
        elif key.startswith("blocks."):
            out[key.replace(".grandma", ".gamma")] = tensor
    return out


def _positions(positions: LazyTensor, spec: Spec) -> LazyTensor:
    """Positions of the model's grid, as RADIO makes them for a picture of this form.

    Its own 128x128 grid is resized to a square of the longer side, then cut.
    """
    rows, columns = spec.grid_size
    side = max(rows, columns)
    width = positions.shape[-1]

    def resize(data: Array) -> Array:
        square = resample_abs_pos_embed(
            data.astype(np.float32),
            (side, side),
            num_prefix_tokens=0,
            interpolation=spec.interpolation,
            antialias=spec.antialias,
            align_corners=spec.align_corners,
        )
        cut: Array = square.reshape(side, side, width)[:rows, :columns]
        return cut.reshape(1, rows * columns, width)

    return positions.map(resize, (1, rows * columns, width))
