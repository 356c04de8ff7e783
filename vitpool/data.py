# SPDX-License-Identifier: Apache-2.0
"""timm.data's names for inference: the door to `vitpool.transforms`.

As timm's, `create_transform` here gives torch tensors, where torch has been imported by
the time that it is called; vitpool imports no torch, and without it there are NumPy
arrays. A transform's repr says which: TensorTransform(...) or Transform(...).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from .transforms import (
    CROP_MODE,
    CROP_PCT,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Transform,
    resolve_data_config,
    resolve_model_data_config,
)
from .transforms import create_transform as _create_transform

DEFAULT_CROP_PCT = CROP_PCT
DEFAULT_CROP_MODE = CROP_MODE
IMAGENET_DEFAULT_MEAN = IMAGENET_MEAN
IMAGENET_DEFAULT_STD = IMAGENET_STD
IMAGENET_INCEPTION_MEAN = IMAGENET_INCEPTION_STD = (0.5, 0.5, 0.5)
OPENAI_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

__all__ = [
    "DEFAULT_CROP_MODE",
    "DEFAULT_CROP_PCT",
    "IMAGENET_DEFAULT_MEAN",
    "IMAGENET_DEFAULT_STD",
    "IMAGENET_INCEPTION_MEAN",
    "IMAGENET_INCEPTION_STD",
    "OPENAI_CLIP_MEAN",
    "OPENAI_CLIP_STD",
    "create_transform",
    "resolve_data_config",
    "resolve_model_data_config",
]


def create_transform(
    input_size: int | Sequence[int] = 224, is_training: bool = False, **options: Any
) -> Transform:
    """vitpool.create_transform, for torch tensors where torch is imported.

    tensors, one of the options, says it otherwise.
    """
    options.setdefault("tensors", "torch" in sys.modules)
    return _create_transform(input_size, is_training=is_training, **options)
