# SPDX-License-Identifier: Apache-2.0
"""timm.models' names: the door to `vitpool.registry` and `vitpool.model`.

The folders beside this file are the models that come with the package.
"""

from __future__ import annotations

from ..checkpoint import load_checkpoint
from ..model import (
    Beit,
    Eva,
    FeatureGetterNet,
    FeatureInfo,
    NaFlexVit,
    VisionTransformer,
    VisionTransformerDistilled,
    VisionTransformerRelPos,
)
from ..registry import (
    create_model,
    get_arch_name,
    get_pretrained_cfg,
    get_pretrained_cfg_value,
    is_model,
    is_model_in_modules,
    is_model_pretrained,
    list_models,
    list_modules,
    list_pretrained,
    model_entrypoint,
    split_model_name_tag,
)

__all__ = [
    "Beit",
    "Eva",
    "FeatureGetterNet",
    "FeatureInfo",
    "NaFlexVit",
    "VisionTransformer",
    "VisionTransformerDistilled",
    "VisionTransformerRelPos",
    "create_model",
    "get_arch_name",
    "get_pretrained_cfg",
    "get_pretrained_cfg_value",
    "is_model",
    "is_model_in_modules",
    "is_model_pretrained",
    "list_models",
    "list_modules",
    "list_pretrained",
    "load_checkpoint",
    "model_entrypoint",
    "split_model_name_tag",
]
