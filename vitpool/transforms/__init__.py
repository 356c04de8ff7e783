# SPDX-License-Identifier: Apache-2.0
"""Pictures to model input: timm's evaluation pipeline on Pillow, without PyTorch.

resize (Pillow) -> centre crop or pad -> (u / 255 - mean) / std in C, as float32 CHW.
Up to the normalisation the pixels are byte for byte those of timm with torchvision.
"""

from __future__ import annotations

from .batch import Batch, default_cpus, default_workers, preprocess, stream
from .config import (
    CROP_MODE,
    CROP_PCT,
    IMAGENET_MEAN,
    IMAGENET_STD,
    resolve_data_config,
    resolve_model_data_config,
)
from .find import SUFFIXES, NotTaken, find_images, images_of
from .read import ImageError, ImageWarning, image_name, load_image
from .sequence import (
    MAX_SEQ_LEN,
    Patches,
    SequenceTransform,
    get_image_size_for_seq,
    patchify,
)
from .sources import Sources, samples, sources_of
from .transform import (
    CROP_MODES,
    INTERPOLATIONS,
    MAX_RESIZED_PIXELS,
    TensorTransform,
    Transform,
    create_transform,
)

__all__ = [
    "CROP_MODE",
    "CROP_MODES",
    "CROP_PCT",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "INTERPOLATIONS",
    "MAX_RESIZED_PIXELS",
    "MAX_SEQ_LEN",
    "SUFFIXES",
    "Batch",
    "ImageError",
    "ImageWarning",
    "NotTaken",
    "Patches",
    "SequenceTransform",
    "Sources",
    "TensorTransform",
    "Transform",
    "create_transform",
    "default_cpus",
    "default_workers",
    "find_images",
    "get_image_size_for_seq",
    "image_name",
    "images_of",
    "load_image",
    "patchify",
    "preprocess",
    "resolve_data_config",
    "resolve_model_data_config",
    "samples",
    "sources_of",
    "stream",
]
