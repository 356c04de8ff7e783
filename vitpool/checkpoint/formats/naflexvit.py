# SPDX-License-Identifier: Apache-2.0
"""timm's NaFlexVit: its own keys to VisionTransformer's and back.

Its patch embedding is a linear layer on patches with the channels last (unless it is a
convolution), its positions are those of patches alone, (1, rows, columns, C), and both
lie in `embeds` with the tokens. So the weights of a NaFlexVit, SigLIP2's or RADIO's,
fit a VisionTransformer of its options, and the other way round.
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from ..lazy import Array, LazyTensor
from ..spec import PATCH, Spec
from . import trunk
from .keys import VITS, Tensors, prefixes_of, renamed

FAMILIES = VITS
UNUSED = trunk.UNUSED
_TOKENS = r"(cls_token|reg_token|pos_embed|pos_embed_[xy])"
_TO_VIT = (
    (rf"^embeds\.{_TOKENS}$", r"\1"),
    (r"^embeds\.", "patch_embed."),
)
_FROM_VIT = (
    (rf"^{_TOKENS}$", r"embeds.\1"),
    (r"^patch_embed\.", "embeds."),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, "embeds.proj.weight")


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under VisionTransformer's keys; positions still have a grid."""
    out = renamed(trunk.convert(tensors, prefix, spec), _TO_VIT)
    patch = out[PATCH]
    if len(patch.shape) == 2:
        width, inputs = patch.shape
        own = spec.options["patch_size"]
        channels = spec.options["in_chans"]
        if inputs != own[0] * own[1] * channels:
            side = isqrt(inputs // 3)  # square patches of three channels
            own, channels = (side, side), 3
        # Of another class nobody tells; it is so in all of timm's.
        ours = spec.family == "NaFlexVit"
        if not ours or spec.options["patchify_channels_last"]:
            patch = patch.reshape(width, *own, channels).transpose(0, 3, 1, 2)
        else:
            patch = patch.reshape(width, channels, *own)
        out[PATCH] = patch
    return out


def grid_positions(out: Tensors, spec: Spec) -> None:
    """VisionTransformer's positions (1, N, C) as NaFlexVit's (1, rows, columns, C).

    Those of prefix tokens are added to the tokens. That they are there is told by what
    is left being square, or by the model's grid.
    """
    positions = out.get("pos_embed")
    if positions is None or len(positions.shape) != 3:
        return
    tokens = [out[k] for k in ("cls_token", "reg_token") if k in out]
    counts = [token.shape[1] for token in tokens if len(token.shape) == 3]
    rows, prefix = positions.shape[1], sum(counts)
    grid = _square(rows)
    if prefix and (not grid and _square(rows - prefix)):
        grid = _square(rows - prefix)
    elif not grid and rows in (
        area := spec.grid_size[0] * spec.grid_size[1],
        area + prefix,
    ):
        grid, prefix = spec.grid_size, rows - area
    else:
        prefix = 0
    if not grid:
        return  # of a grid that nobody tells; reported as a wrong shape
    at = 0
    for key in ("cls_token", "reg_token") if prefix else ():
        if key in out:
            count = out[key].shape[1]
            out[key] = _sum(out[key], positions[:, at : at + count])
            at += count
    out["pos_embed"] = positions[:, prefix:].reshape(1, *grid, positions.shape[2])


def finish(out: Tensors, spec: Spec) -> None:
    """VisionTransformer's keys as NaFlexVit's, the patch embedding as its layer."""
    patch = out.get(PATCH)
    if patch is not None and len(patch.shape) == 4 and spec.options["embed_linear"]:
        if spec.options["patchify_channels_last"]:
            patch = patch.transpose(0, 2, 3, 1)
        inputs = int(np.prod(patch.shape[1:]))
        out[PATCH] = patch.reshape(patch.shape[0], inputs)
    renamed_out = renamed(out, _FROM_VIT)
    out.clear()
    out.update(renamed_out)


def _square(tokens: int) -> tuple[int, int] | None:
    side = isqrt(max(tokens, 0))
    return (side, side) if side and side * side == tokens else None


def _sum(token: LazyTensor, position: LazyTensor) -> LazyTensor:
    """Their sum in float32; of two half-precision numbers it would be rounded."""
    if token.shape != position.shape:
        raise ValueError(
            f"a token of the shape {token.shape} has positions of {position.shape}"
        )

    def read() -> Array:
        own = token.read().astype(np.float32)
        return np.add(own, position.read().astype(np.float32))

    return LazyTensor(token.shape, read)
