# SPDX-License-Identifier: Apache-2.0
"""Apple's AIMv2."""

from __future__ import annotations

import re

from ..spec import Spec
from .keys import VITS, Tensors, prefixes_of, renamed, take_below

FAMILIES = VITS

UNUSED = re.compile(r"(?!)")  # nothing
_RENAMES = (
    ("norm_([12])", r"norm\1"),
    (r"^preprocessor\.patchifier\.", "patch_embed."),
    (r"^preprocessor\.pos_embed", "pos_embed"),
    (r"^(trunk\.)?post_trunk_norm\.", "norm."),
    (r"^trunk\.", ""),
    (r"mlp\.fc1", "mlp.fc1_g"),
    (r"mlp\.fc3", "mlp.fc1_x"),
)


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    return prefixes_of(tensors, "preprocessor.patchifier.proj.weight")


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    return renamed(take_below(tensors, prefix), _RENAMES)
