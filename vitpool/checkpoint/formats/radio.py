# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's C-RADIO: the backbone, without its input conditioner and its adaptors."""

from __future__ import annotations

import re
from math import isqrt

import numpy as np

from ...resample import resample_abs_pos_embed
from ..lazy import Array, LazyTensor, zeros
from ..spec import Spec
from .keys import VITS, Tensors, prefixes_of, renamed, take_below

FAMILIES = VITS

_PATCHES = "patch_generator.embedder.weight"
# Mean and deviation of the input, and the heads towards each teacher.
UNUSED = re.compile(r"radio_model\.(input_conditioner|summary_idxs|adaptors)\b")


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, f"radio_model.model.{_PATCHES}")


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(
        take_below(tensors, f"{prefix}radio_model.model."),
        [(r"^(blocks\.\d+\.ls[12]\.)grandma$", r"\1gamma")],
    )
    # A linear layer on flat (3, p, p) patches, without a bias.
    patches = out.pop(_PATCHES)
    width, inputs = patches.shape
    side = isqrt(inputs // 3)
    out["patch_embed.proj.weight"] = patches.reshape(width, 3, side, side)
    out["patch_embed.proj.bias"] = zeros(width)
    if "patch_generator.pos_embed" in out:
        positions = out.pop("patch_generator.pos_embed")
        out["pos_embed"] = grid_positions(positions, spec)
    if "patch_generator.cls_token.token" in out:
        # A class token for each teacher, then registers: the first is ours.
        tokens = out.pop("patch_generator.cls_token.token")
        out["cls_token"] = tokens[:1].reshape(1, 1, width)
        out["reg_token"] = tokens[1:].reshape(1, tokens.shape[0] - 1, width)
    return out


def grid_positions(positions: LazyTensor, spec: Spec) -> LazyTensor:
    """Positions of the model's grid, as RADIO makes them for a picture of this form.

    Its own 128x128 grid is resized to a square of the longer side, then cut. A
    NaFlexVit keeps the grid, and does so itself.
    """
    if spec.family == "NaFlexVit":
        own = isqrt(positions.shape[1])
        return positions.reshape(1, own, own, positions.shape[2])
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
