# SPDX-License-Identifier: Apache-2.0
"""Rotary position embeddings of a live timm model, as constructor options of ours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reader import Reader, refuse

_KINDS = {
    "RotaryEmbeddingCat": "cat",
    "RotaryEmbeddingMixed": "mixed",
    "RotaryEmbeddingDinoV3": "dinov3",
}
# Of what is computed in float32; timm's own, for each unit of an angle.
_TOLERANCE = 1e-6


def read_rope(reader: Reader, half: bool, *, dynamic: bool) -> dict[str, Any]:
    """The options of the module at `rope`, with Eva's names; {} where there is none.

    half: the layout in which the blocks rotate.
    """
    kind = _KINDS.get(reader.take("rope", "", *_KINDS), "")
    if not kind:
        return {}
    rope, heads = reader.root.rope, reader.root.blocks[0].attn.num_heads
    depth, head_dim = len(reader.root.blocks), reader.width // heads
    ours: dict[str, Any] = {
        "rope_type": kind,
        "rope_grid_indexing": rope.grid_indexing,
        "rope_temperature": float(rope.temperature or 0.0),
        "rope_rotate_half": half,
    }
    augmented = ("rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords")
    for name in augmented:  # in training
        ours[name] = getattr(rope, name.removeprefix("rope_"))
    if not dynamic:
        grid = tuple(reader.root.patch_embed.grid_size)
        reader.equal("rope", "feat_shape", tuple(rope.feat_shape or ()), grid)
    if kind == "mixed":
        shape = tuple(rope.freqs.shape)
        reader.equal("rope", "freqs", shape, (2, depth, heads, head_dim // 2))
        reader.equal("blocks.0.attn", "rotate_half", half, False)
        return ours
    reader.equal("rope", "dim", rope.dim, head_dim)
    reader.equal("rope", "rotate_half", rope.rotate_half, half)
    ours["rope_grid_offset"] = float(rope.grid_offset)
    if kind == "dinov3":
        periods = (rope.min_period, rope.max_period)
        reader.equal("rope", "(min_period, max_period)", periods, (None, None))
        reader.equal("rope", "normalize_coords", rope.normalize_coords, "separate")
        return ours
    bands = (rope.in_pixels, rope.linear_bands, rope.grid_type)
    what = "(in_pixels, linear_bands, grid_type)"
    reader.equal("rope", what, bands, (False, False, "index"))
    ref = rope.ref_feat_shape
    ours["ref_feat_shape"] = None if ref is None else tuple(ref)
    return ours


def check_table(module: Any, grid: tuple[int, int], ours: NDArray[np.float32]) -> None:
    """Refuse a rope that rotates otherwise than its attributes say.

    Its buffers are in no state dict: another program may have put other numbers there,
    as Meta's code does, whose periods are bfloat16.

    ours: what our model's rope gives for this grid of patches, as timm's does.
    """
    import torch

    rope = module.rope
    with torch.inference_mode():
        fixed = getattr(rope, "feat_shape", None) is not None
        table = rope.get_embed() if fixed else rope.get_embed(shape=grid)
    rounding = float(torch.finfo(table.dtype).eps)  # of a cache in bfloat16
    limit = max(_TOLERANCE * max(*grid, 1), rounding)
    got = table.detach().cpu().float().numpy()
    if got.shape != ours.shape:
        refuse("rope", f"a table of shape {got.shape}; timm's is {ours.shape}")
    off = float(np.abs(got - ours).max(initial=0.0))
    if not off <= limit:
        refuse(
            "rope",
            f"a sine or cosine is {off:.1e} away from what its attributes give, where "
            f"{limit:.0e} is allowed",
        )
