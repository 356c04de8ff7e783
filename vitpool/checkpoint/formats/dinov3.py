# SPDX-License-Identifier: Apache-2.0
"""DINOv3 and EUPE as Meta publishes them: a class token, registers, no positions.

timm's Eva, without a head. `qkv.bias` has k's third too, which a mask turns off; of the
distilled models all of it is zero, and timm's model of that name has none. With SwiGLU
the MLP's layers are w1, w2 and w3. The rotation's periods, rounded to bfloat16 in these
files, are not read: the model's follow from its options, as in timm.
"""

from __future__ import annotations

import re

from ..spec import Spec
from .keys import EVA, Tensors, prefixes_of, renamed, take_below
from .qkv import q_v_biases

FAMILIES = EVA
# Rotation; what only training needs: a mask token, heads, the norm of local crops,
# EUPE's projections to its teachers.
UNUSED = re.compile(
    r"mask_token$|rope_embed\.periods$|projectors\.|local_cls_norm\."
    r"|(dino_head|ibot_head|gram_teacher)\."
)
_MASK = re.compile(r"blocks\.\d+\.attn\.qkv\.bias_mask")
_RENAMES = (
    (r"^(blocks\.\d+\.)ls([12])\.gamma$", r"\1gamma_\2"),
    (r"^(blocks\.\d+\.)mlp\.w1\.", r"\1mlp.fc1_g."),
    (r"^(blocks\.\d+\.)mlp\.w2\.", r"\1mlp.fc1_x."),
    (r"^(blocks\.\d+\.)mlp\.w3\.", r"\1mlp.fc2."),
    (r"^storage_tokens$", "reg_token"),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, "storage_tokens") & prefixes_of(
        tensors, "patch_embed.proj.weight"
    )


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    out = renamed(take_below(tensors, prefix), _RENAMES)
    masks = [key for key in out if _MASK.fullmatch(key)]
    for key in masks:
        del out[key]
    return q_v_biases(out, spec, masked=bool(masks))
