# SPDX-License-Identifier: Apache-2.0
"""VisionTransformer: timm's interface on the C core, and the parts of a model."""

from __future__ import annotations

from .answers import Class, Classification, Classifications, Embeddings
from .copying import _rebuild as _rebuild  # pickles name it here
from .parts import FcNorm, Float32, Module, PatchEmbed
from .pictures import UntrainedWarning
from .pooling import POOLS, Pooling
from .vit import IncompatibleKeys, VisionTransformer

__all__ = [
    "POOLS",
    "Class",
    "Classification",
    "Classifications",
    "Embeddings",
    "FcNorm",
    "Float32",
    "IncompatibleKeys",
    "Module",
    "PatchEmbed",
    "Pooling",
    "UntrainedWarning",
    "VisionTransformer",
]
