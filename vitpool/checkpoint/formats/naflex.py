# SPDX-License-Identifier: Apache-2.0
"""SigLIP2 NaFlex of Hugging Face transformers, for pictures of one size.

Its patches come cut and flattened, row by row with the channels last, so that their
embedding is a linear layer. The positions of a square grid are resized to the picture's
(bilinear with antialiasing: `adapt`). Pictures of several sizes in one batch, padded
and masked, are not for timm's VisionTransformer.
"""

from __future__ import annotations

from math import isqrt

from ..spec import Spec
from . import transformers
from .keys import VITS, Tensors

FAMILIES = VITS

UNUSED = transformers.UNUSED
head_pool = transformers.head_pool


def prefixes(tensors: Tensors) -> set[str]:
    """The prefixes of models of this layout."""
    found = transformers.clip_prefixes(tensors)
    return {p for p in found if len(tensors[p + transformers.CLIP].shape) == 2}


def convert(tensors: Tensors, prefix: str, spec: Spec) -> Tensors:
    """The tensors under timm's keys."""
    key = prefix + transformers.CLIP
    width, inputs = tensors[key].shape
    side = isqrt(inputs // 3)
    patches = tensors[key].reshape(width, side, side, 3)
    tensors[key] = patches.transpose(0, 3, 1, 2)
    return transformers.convert(tensors, prefix, spec)
