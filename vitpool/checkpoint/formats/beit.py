# SPDX-License-Identifier: Apache-2.0
"""BEiT and BEiTv2 as Microsoft publishes them: timm's keys, and what they hold beside.

Fine-tuned with a head on the mean of the patches (fc_norm), or the masked image model,
whose own head is left out. A table that all blocks share, as pre-training has it, goes
into every block of a model with a table for each, which is the same function. Tables of
another window are resized by `adapt`, as in timm.
"""

from __future__ import annotations

import re

from ..spec import Spec
from .keys import BEIT, BESIDE_A_TOWER, Tensors, prefixes_of, take_below

FAMILIES = BEIT
# Which row of a table belongs to two patches, which follows from the window; the mask
# token and the heads of masked image modelling.
UNUSED = re.compile(
    r"((blocks\.\d+\.attn|rel_pos_bias)\.)relative_position_index$"
    r"|mask_token$|lm_head\.(weight|bias)$|cls_pt_(layers|norm)\."
    rf"|{BESIDE_A_TOWER}"
)
TABLE = "relative_position_bias_table"
SHARED = f"rel_pos_bias.{TABLE}"


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    tables = prefixes_of(tensors, f"blocks.0.attn.{TABLE}")
    return (tables | prefixes_of(tensors, SHARED)) & prefixes_of(
        tensors, "patch_embed.proj.weight"
    )


def head_pool(tensors: Tensors, prefix: str) -> str:
    """What the classifier was trained on; '' where there is none."""
    return "avg" if f"{prefix}fc_norm.weight" in tensors else ""


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    return shared_to_blocks(take_below(tensors, prefix), spec)


def shared_to_blocks(out: Tensors, spec: Spec) -> Tensors:
    """The one table of all blocks as a table of each, where the model has these."""
    own = [key for key in spec.shapes if key.endswith(f".attn.{TABLE}")]
    if SHARED in out and SHARED not in spec.shapes and own:
        table = out.pop(SHARED)
        if any(key in out for key in own):
            raise ValueError(
                "it has a table of relative positions for all blocks and one for each, "
                "which are added up; the model has those of the blocks alone"
            )
        out.update(dict.fromkeys(own, table))
    return out
